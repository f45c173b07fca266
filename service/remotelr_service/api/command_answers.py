"""What is answered of commands and experiments, as bodies."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal, Self

from pydantic import BaseModel, Field

from remotelr.rules import command_to_json
from remotelr_service.actions.bulk import BulkResult, BulkView, Rehearsal
from remotelr_service.actions.experiments import Experiment
from remotelr_service.actions.views import CommandView, LifeStep

LifeState = Literal["queued", "delivered", "applied", "rejected", "expired", "superseded", "cancelled"]


class LifeStepAnswer(BaseModel):
    """One step in the life of a command."""

    state: LifeState
    at: datetime
    seq: int = Field(description="The event that brought it, in the run's log.")
    epoch: int | None = Field(description="Of `delivered` and `applied`: the epoch whose rate it made.")
    rate: float | None = Field(description="Of `delivered`: the rate told. Of `applied`: the one really used.")
    actor: str | None = Field(description="Who ordered what brought it.")
    reason: str | None

    @classmethod
    def of(cls, step: LifeStep) -> Self:
        return cls(
            state=step.state,
            at=step.at,
            seq=step.seq,
            epoch=step.epoch,
            rate=step.rate,
            actor=step.actor,
            reason=step.reason,
        )


class CommandAnswer(BaseModel):
    """A command to a run, and what has become of it.

    It is queued until a decision with it has gone out, then delivered until the trainer has used the rate.
    """

    run: str
    seq: int = Field(description="Number of the command in the run's log.")
    holds_from: int = Field(description="The first epoch whose rate it bears on.")
    key: str | None
    command: dict[str, Any] = Field(description="As it was ordered, with `actor` and `reason`; defaults left out.")
    created_at: datetime
    state: LifeState
    at_epoch: int | None = Field(description="The epoch its rate was used in, or is told for.")
    rate: float | None = Field(description="The rate that the trainer really set, where it says so.")
    reason: str | None = Field(description="Why it stands so, where that needs a word.")
    life: list[LifeStepAnswer] = Field(description="How it came to stand so, oldest step first.")
    type: str = Field(description="Of `command`.")
    value: float | None = Field(description="Of `command`: the rate or the factor.")

    @classmethod
    def of(cls, view: CommandView) -> Self:
        order = view.command
        return cls(
            run=view.run,
            seq=view.seq,
            holds_from=view.holds_from,
            key=view.key,
            command=command_to_json(order),
            created_at=view.created_at,
            state=view.state,
            at_epoch=view.at_epoch,
            rate=view.rate,
            reason=view.reason,
            life=[LifeStepAnswer.of(step) for step in view.life],
            type=order.type,
            value=order.multiplier if order.type == "scale" else order.value,
        )


class CommandPage(BaseModel):
    """The commands of a run, oldest first."""

    run: str
    commands: list[CommandAnswer]
    next: int | None = Field(description="Ask again with `after` set to this; null at the end.")


class BulkResultAnswer(BaseModel):
    """What came of a command for one run, or would come of it."""

    run: str
    seq: int | None = Field(description="Number of the command in the run's log; null where there is none.")
    holds_from: int | None = Field(description="The first epoch whose rate it bears on.")
    before: float | None = Field(description="The rate of that epoch without the command.")
    after: float | None = Field(
        description="The rate of that epoch with the command, if the schedule learns nothing until then."
    )
    code: str | None = Field(description="Why it failed; null where it did not.")
    detail: str | None

    @classmethod
    def of(cls, result: BulkResult) -> Self:
        return cls(
            run=result.run,
            seq=result.seq,
            holds_from=result.holds_from,
            before=result.rate_before,
            after=result.rate_after,
            code=result.code,
            detail=result.detail,
        )


class BulkCommandAnswer(BaseModel):
    """A command to many runs. The runs are those that were selected when it was ordered."""

    id: int | None = Field(description="Null of a dry run.")
    dry_run: bool
    key: str | None
    selector: dict[str, Any]
    command: dict[str, Any]
    actor: str | None
    reason: str | None
    status: Literal["running", "finished"]
    count: int = Field(description="How many runs it is for.")
    done: int = Field(description="How many of them have had their turn.")
    failed: int = Field(description="How many of those refused it; of a dry run, of those listed.")
    created_at: datetime | None
    finished_at: datetime | None
    runs: list[BulkResultAnswer] = Field(description="One for each run that has had its turn, in order of their keys.")
    next: int | None = Field(description="Ask again with `after` set to this; null where there are no more for now.")

    @classmethod
    def of(cls, view: BulkView) -> Self:
        bulk = view.bulk
        return cls(
            id=bulk.id,
            dry_run=False,
            key=bulk.key,
            selector=dict(bulk.selector),
            command=dict(bulk.command),
            actor=bulk.actor,
            reason=bulk.reason,
            status="running" if bulk.finished_at is None else "finished",
            count=len(bulk.runs),
            done=view.progress.done,
            failed=view.progress.failed,
            created_at=bulk.created_at,
            finished_at=bulk.finished_at,
            runs=[BulkResultAnswer.of(result) for result in view.results],
            next=_next(view.results, more=view.more),
        )

    @classmethod
    def rehearsed(cls, rehearsal: Rehearsal) -> Self:
        order = rehearsal.command
        return cls(
            id=None,
            dry_run=True,
            key=None,
            selector=rehearsal.selector.to_json(),
            command=command_to_json(order),
            actor=order.actor,
            reason=order.reason,
            status="finished",
            count=rehearsal.count,
            done=0,
            failed=sum(result.code is not None for result in rehearsal.results),
            created_at=None,
            finished_at=None,
            runs=[BulkResultAnswer.of(result) for result in rehearsal.results],
            next=_next(rehearsal.results, more=rehearsal.more),
        )


class ExperimentAnswer(BaseModel):
    """An experiment, and what its runs begin with."""

    experiment: str
    policy: dict[str, Any] | None = Field(description="Of a run that is created without one, in its canonical form.")
    tags: dict[str, str]
    rails: dict[str, float] | None
    created_at: datetime
    updated_at: datetime

    @classmethod
    def of(cls, experiment: Experiment) -> Self:
        return cls(**_members(experiment))


class ExperimentPutAnswer(ExperimentAnswer):
    """An experiment as it is set now."""

    rails_command: int | None = Field(
        description="The command that takes new rails to the runs: `GET /v1/commands/{id}` says how far it is. "
        "Null where no run has to be told."
    )

    @classmethod
    def put(cls, experiment: Experiment, rails_command: int | None) -> Self:
        return cls(**_members(experiment), rails_command=rails_command)


class ExperimentPage(BaseModel):
    """Experiments in order of their names."""

    experiments: list[ExperimentAnswer]
    next: str | None = Field(description="Ask again with `after` set to this; null at the end.")


def _next(results: Sequence[BulkResult], *, more: bool) -> int | None:
    # Places are counted from 0, and `after` from 1: it is how many were seen.
    return results[-1].place + 1 if more else None


def _members(experiment: Experiment) -> dict[str, Any]:
    return {
        "experiment": experiment.name,
        "policy": None if experiment.policy is None else dict(experiment.policy),
        "tags": dict(experiment.tags),
        "rails": None if experiment.rails is None else dict(experiment.rails),
        "created_at": experiment.created_at,
        "updated_at": experiment.updated_at,
    }
