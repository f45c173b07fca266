"""What is answered, as bodies: made from the rules' types, field by field, so that OpenAPI tells all of it."""

from datetime import datetime
from typing import Any, Literal, Self

from pydantic import BaseModel, Field

from remotelr.rules import Decision, Waiting, metrics_to_json, policy_to_json, sentence
from remotelr_service.actions.views import Alternative, EventView, HistoryRow, ReplayPolicy, RunView, WhatIf

Status = Literal["running", "completed", "failed", "stopped"]


class PlateauAnswer(BaseModel):
    """The plateau in force: the best value, reports without improvement since, and the cooldown left."""

    best: float | None
    wait: int
    cooldown: int


class DecisionAnswer(BaseModel):
    """The rate of one epoch of one run, taken once and never changed."""

    run: str
    attempt: int
    seq: int = Field(description="Number of the event in the run's log that took it.")
    epoch: int = Field(description="The epoch the rate is for, 0-based.")
    step: int | None = Field(description="Optimizer steps made before that epoch.")
    learning_rate: float = Field(
        ge=0, description="The rate of the epoch; of its first step when the policy counts steps."
    )
    momentum: float | None = Field(description="What goes with the rate under one_cycle and cyclic.")
    reason: Literal["start", "schedule", "plateau", "command", "bounds", "guard"]
    changed: bool = Field(description="The rate differs from that of the epoch before.")
    action: Literal["continue", "stop", "rollback"] = Field(
        description="`stop` asks the trainer to end; `rollback` to load the checkpoint made at the end of epoch "
        "`rollback_to`, and to train `epoch` from there."
    )
    rollback_to: int | None = Field(description="The epoch whose checkpoint to load; null but with `rollback`.")
    plateau: PlateauAnswer | None
    state: dict[str, Any] = Field(description="What the rules need to go on from here without the service.")
    drift: float | None = Field(
        description="The rate the epoch before was to run with, where the trainer says it used another one."
    )
    replayed: bool = Field(description="This answer was already given once.")

    @classmethod
    def of(cls, decision: Decision) -> Self:
        return cls(**decision_members(decision))


class ExplainedDecisionAnswer(DecisionAnswer):
    """A decision with the sentence that says why."""

    why: dict[str, Any] | None = Field(description="What made it; null of releases before it was kept.")
    sentence: str

    @classmethod
    def explained(cls, decision: Decision) -> Self:
        why = None if decision.why is None else dict(decision.why)
        return cls(**{**decision_members(decision), "why": why}, sentence=sentence(decision))


class SteppedDecisionAnswer(DecisionAnswer):
    """A decision with the rate of every step of its epoch."""

    learning_rates: list[float]

    @classmethod
    def with_steps(cls, decision: Decision, learning_rates: list[float]) -> Self:
        return cls(**decision_members(decision), learning_rates=learning_rates)


class WaitingAnswer(BaseModel):
    """The report is kept, and other ranks are awaited. Sending the same report again asks again."""

    status: Literal["waiting"]
    run: str
    attempt: int
    epoch: int = Field(description="The reported epoch.")
    have: int
    need: int

    @classmethod
    def of(cls, waiting: Waiting) -> Self:
        return cls(
            status="waiting",
            run=waiting.run,
            attempt=waiting.attempt,
            epoch=waiting.epoch,
            have=waiting.have,
            need=waiting.need,
        )


class AttemptAnswer(BaseModel):
    """The number of the attempt, and the decision for its first epoch."""

    attempt: int
    decision: DecisionAnswer | SteppedDecisionAnswer


class RefusedAnswer(BaseModel):
    """A report of a batch that was refused; those behind it were not tried."""

    status: Literal["refused"]
    code: str
    detail: str
    problem: dict[str, Any] = Field(description="The further members of the problem.")


class BatchAnswer(BaseModel):
    """One answer for each report, in order, up to the first that was refused."""

    answers: list[DecisionAnswer | WaitingAnswer | RefusedAnswer]


class RunAnswer(BaseModel):
    """A run and where it stands."""

    run: str
    experiment: str | None
    tags: dict[str, str]
    policy: dict[str, Any] = Field(description="In its canonical form: every field explicit.")
    initial_learning_rate: float | None
    world_size: int
    steps_per_epoch: int | None
    total_epochs: int | None
    rails: dict[str, float] | None = Field(description="What its experiment allows at most; null for no bounds.")
    policy_version: int
    attempt: int = Field(description="The life of the trainer group in charge; 0 until one announces itself.")
    epoch: int = Field(description="The next epoch to be reported.")
    step: int | None
    learning_rate: float = Field(description="The rate of that epoch.")
    status: Status
    created_at: datetime
    updated_at: datetime
    stalled: bool = Field(
        description="Nothing was heard of its trainer for three times as long as its epochs take, and 30 s at least."
    )
    seq: int = Field(
        description="Number of the newest event in its log: the `expected_seq` of who looks before ordering."
    )
    decision: DecisionAnswer = Field(description="The decision in force.")

    @classmethod
    def of(cls, view: RunView) -> Self:
        spec = view.spec
        return cls(
            run=view.key,
            experiment=view.experiment,
            tags=dict(view.tags),
            policy=policy_to_json(spec.policy),
            initial_learning_rate=spec.initial_learning_rate,
            world_size=spec.world_size,
            steps_per_epoch=spec.steps_per_epoch,
            total_epochs=spec.total_epochs,
            rails=None if spec.rails is None else spec.rails.to_json(),
            policy_version=view.policy_version,
            attempt=view.attempt,
            epoch=view.epoch,
            step=view.step,
            learning_rate=view.learning_rate,
            status=view.status,
            created_at=view.created_at,
            updated_at=view.updated_at,
            stalled=view.stalled,
            seq=view.seq,
            decision=DecisionAnswer.of(view.decision),
        )


class RunPage(BaseModel):
    """Runs in order of their keys."""

    runs: list[RunAnswer]
    next: str | None = Field(description="Ask again with `after` set to this; null at the end.")


class EpochAnswer(BaseModel):
    """One reported epoch of one rank."""

    seq: int = Field(description="Number of the report in the run's log.")
    epoch: int
    attempt: int
    rank: int
    metrics: dict[str, float | str] = Field(description='Values that are not finite are "nan", "inf" and "-inf".')
    learning_rate: float = Field(description="The rate the epoch was told to run with.")
    used_learning_rate: float | None = Field(description="The rate the trainer says it ran with, where it says so.")
    next_learning_rate: float | None = Field(description="What it was answered; null where it decided nothing.")
    reason: str | None
    action: str | None
    superseded_by: int | None = Field(description="The attempt that rewound past it; such a report counts no more.")
    created_at: datetime

    @classmethod
    def of(cls, row: HistoryRow) -> Self:
        return cls(
            seq=row.seq,
            epoch=row.epoch,
            attempt=row.attempt,
            rank=row.rank,
            metrics=metrics_to_json(row.metrics),
            learning_rate=row.learning_rate,
            used_learning_rate=row.used_learning_rate,
            next_learning_rate=row.next_learning_rate,
            reason=row.reason,
            action=row.action,
            superseded_by=row.superseded_by,
            created_at=row.created_at,
        )


class HistoryPage(BaseModel):
    """The curve of a run: its reports in the order they came."""

    run: str
    reports: list[EpochAnswer]
    next: int | None = Field(description="Ask again with `after` set to this; null at the end.")


class EventAnswer(BaseModel):
    """One thing that happened to a run."""

    seq: int
    kind: Literal["created", "attempt", "report", "closing", "command", "policy", "finished"] = Field(
        description="`closing`: a point was decided without the ranks that are missing."
    )
    attempt: int
    epoch: int | None
    rank: int | None
    key: str | None
    holds_from: int = Field(description="The first epoch whose rate this event bears on.")
    payload: dict[str, Any]
    notes: dict[str, Any] = Field(
        description="What was noticed: `gap`, `late`, `drift`, `live`; of a closing the `ranks` that were there."
    )
    decision: DecisionAnswer | None
    sentence: str = Field(description="What happened, for people.")
    superseded_by: int | None
    created_at: datetime

    @classmethod
    def of(cls, view: EventView) -> Self:
        event = view.event
        return cls(
            seq=event.seq,
            kind=event.kind,
            attempt=event.attempt,
            epoch=event.epoch,
            rank=event.rank,
            key=event.key,
            holds_from=event.holds_from,
            payload=dict(event.payload),
            notes=dict(event.notes),
            decision=None if event.decision is None else DecisionAnswer.of(event.decision),
            sentence=sentence(event),
            superseded_by=event.superseded_by,
            created_at=view.created_at,
        )


class EventPage(BaseModel):
    """The log of a run, oldest first."""

    run: str
    events: list[EventAnswer]
    next: int | None = Field(description="Ask again with `after` set to this; null at the end.")


class PreviewAnswer(BaseModel):
    """A curve."""

    learning_rates: list[float]
    momentum: list[float] | None = Field(description="Of policies that set one.")


class AlternativeAnswer(BaseModel):
    """What a run would have been told under another policy."""

    learning_rates: list[float] = Field(description="One for each of `epochs`.")
    reductions: int = Field(description="How often a plateau lowered the rate.")
    stops_at: int | None = Field(description="The first epoch it would not have begun; null where it went on.")

    @classmethod
    def of(cls, alternative: Alternative) -> Self:
        return cls(
            learning_rates=list(alternative.learning_rates),
            reductions=alternative.reductions,
            stops_at=alternative.stops_at,
        )


class WhatIfAnswer(BaseModel):
    """The rates a run had, and those it would have had with the same losses."""

    run: str
    epochs: list[int] = Field(description="Those reported, without what was rewound, and the next one.")
    real: list[float] = Field(description="The rate each of them had, commands of operators included.")
    policies: dict[str, AlternativeAnswer]

    @classmethod
    def of(cls, run: str, answer: WhatIf) -> Self:
        alternatives = {name: AlternativeAnswer.of(each) for name, each in answer.alternatives.items()}
        return cls(run=run, epochs=list(answer.epochs), real=list(answer.real), policies=alternatives)


class ReplayPolicyAnswer(BaseModel):
    """What happened to a run, as a policy."""

    run: str
    policy: dict[str, Any] = Field(description="For `PUT /v1/runs/{run}`.")
    epochs: int = Field(description="How many epochs have a rate; behind them the last one is held.")
    exact: bool = Field(description="Every rate is the very same.")
    notes: list[str] = Field(description="What could not be kept, in words.")

    @classmethod
    def of(cls, run: str, replay: ReplayPolicy) -> Self:
        return cls(
            run=run, policy=dict(replay.policy), epochs=replay.epochs, exact=replay.exact, notes=list(replay.notes)
        )


class HealthAnswer(BaseModel):
    """Whether all is well, and with `verbose` each check by name."""

    status: Literal["ok", "failing"]
    checks: dict[str, str] | None = None


class VersionAnswer(BaseModel):
    """What is running."""

    version: str
    rules_version: int
    api: Literal["v1"]


def decision_members(decision: Decision) -> dict[str, Any]:
    """What a `DecisionAnswer` holds, as JSON has it."""
    return {
        "run": decision.run,
        "attempt": decision.attempt,
        "seq": decision.seq,
        "epoch": decision.epoch,
        "step": decision.step,
        "learning_rate": decision.learning_rate,
        "momentum": decision.momentum,
        "reason": decision.reason,
        "changed": decision.changed,
        "action": decision.action,
        "rollback_to": decision.rollback_to,
        "plateau": decision.plateau,
        "state": decision.state,
        "drift": decision.drift,
        "replayed": decision.replayed,
    }
