"""Bodies of bulk commands and their selectors."""

from datetime import datetime
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from remotelr.rules import Command, InvalidCommand
from remotelr_service.features.bulk.selector import Bound, Selector
from remotelr_service.features.commands.schemas import AnyCommandBody, CancelBody
from remotelr_service.features.runs.schemas import Status
from remotelr_service.http.bodies import RequestBody, ResponseBody
from remotelr_service.http.fields import (
    Key,
    MetricName,
    Sentence,
    TagName,
    TagValue,
)


class BulkResultAnswer(ResponseBody):
    """What came of a command for one run, or would come of it."""

    run: str
    seq: int | None = Field(description="Number of the command in the run's log; null where there is none.")
    effective_from: int | None = Field(description="The first epoch whose rate it bears on.")
    before: float | None = Field(
        validation_alias="rate_before", description="The rate of that epoch without the command."
    )
    after: float | None = Field(
        validation_alias="rate_after",
        description="The rate of that epoch with the command, if the schedule learns nothing until then.",
    )
    code: str | None = Field(description="Why it failed; null where it did not.")
    detail: str | None


class BulkCommandAnswer(ResponseBody):
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


MAX_NAMED_RUNS = 1_000


class BoundBody(RequestBody):
    """What a metric has to be, all of it."""

    gt: float | None = None
    ge: float | None = None
    lt: float | None = None
    le: float | None = None
    finite: bool | None = Field(None, description="false: it is NaN or infinite.")

    @model_validator(mode="after")
    def _some(self) -> Self:
        if not self.model_fields_set:
            raise ValueError("expected at least one of gt, ge, lt, le, finite")
        return self

    def bound(self) -> Bound:
        return Bound(**self.model_dump())


class SelectorBody(RequestBody):
    """The runs for which all of this holds. At least one member has to be given."""

    experiment: Key | None = Field(None, description="Runs of this experiment.")
    status: Status | None = Field(
        None, description="Runs that stand so. Absent it is `running`, unless `runs` names them."
    )
    tags: Annotated[dict[TagName, TagValue], Field(max_length=8)] = Field(
        default_factory=dict, description="Runs that have all of these tags.", examples=[{"model": "resnet50"}]
    )
    runs: Annotated[list[Key], Field(min_length=1, max_length=MAX_NAMED_RUNS)] | None = Field(
        None, description="These runs. One that does not exist is told as failed."
    )
    metrics: Annotated[dict[MetricName, BoundBody], Field(max_length=8)] = Field(
        default_factory=dict,
        description="Runs whose last report measured this.",
        examples=[{"val_loss": {"gt": 1.0}}],
    )

    @model_validator(mode="after")
    def _some(self) -> Self:
        if not self.model_fields_set:
            raise ValueError('expected at least one member: {"status": "running"} selects every running run')
        return self

    def selector(self) -> Selector:
        return Selector(
            experiment=self.experiment,
            status="running" if self.status is None and self.runs is None else self.status,
            tags=self.tags,
            runs=None if self.runs is None else tuple(sorted(set(self.runs))),
            metrics={name: bound.bound() for name, bound in self.metrics.items()},
        )


class BulkCommandRequest(RequestBody):
    """One command, and the runs it is for."""

    selector: SelectorBody
    command: AnyCommandBody
    dry_run: bool = Field(False, description="Say what would come of it, and change nothing.")
    key: Key | None = Field(
        None, description="The same key is the same command, so a repetition counts once. Or header Idempotency-Key."
    )
    actor: Sentence | None = Field(None, description="Who orders it; with tokens it is the token's name.")
    reason: Sentence | None = Field(None, description="Why.")

    def ordered(self) -> Command:
        """The command, without its key. Raises InvalidCommand for what one run alone can have, InvalidPolicy."""
        for name, is_given in (
            ("type", isinstance(self.command, CancelBody)),
            ("expected_seq", self.command.expected_seq is not None),
        ):
            if is_given:
                raise InvalidCommand(
                    "this names an event of one run: order it to that run, POST /v1/runs/{run}/commands",
                    field=f"command.{name}",
                )
        return self.command.command()
