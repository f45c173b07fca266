"""Request and response bodies of bulk commands."""

from datetime import datetime
from typing import Annotated, Any, ClassVar, Literal, Self

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
    """The result of a bulk command for one run."""

    run: str
    seq: int | None = Field(
        description="Number of the command in the run's log; null if it failed or was not executed."
    )
    effective_from: int | None = Field(description="The first epoch whose rate it affects.")
    before: float | None = Field(
        validation_alias="rate_before", description="The rate of that epoch without the command."
    )
    after: float | None = Field(
        validation_alias="rate_after",
        description="The rate of that epoch with the command, if the schedule's state does not change before it.",
    )
    code: str | None = Field(description="The error code; null for success.")
    detail: str | None
    status: Status | None = Field(
        description="The run's present status; null if it does not exist. A command to a run that is not running holds "
        "if it begins again."
    )


class BulkCommandAnswer(ResponseBody):
    """A bulk command. Its runs were selected when it was sent."""

    id: int | None = Field(description="Null for a dry run.")
    dry_run: bool
    key: str | None
    selector: dict[str, Any]
    command: dict[str, Any]
    actor: str | None
    reason: str | None
    status: Literal["running", "finished"]
    count: int = Field(description="Number of selected runs.")
    done: int = Field(description="Number of runs with a result.")
    failed: int = Field(description="Number of failed results; in a dry run, among the listed ones.")
    created_at: datetime | None
    finished_at: datetime | None
    runs: list[BulkResultAnswer] = Field(description="The results so far, in order of the run's keys.")
    next: int | None = Field(
        description="The value of `after` for the next page; null if there are no further results now."
    )


MAX_NAMED_RUNS = 1_000


class _Conditions(RequestBody):
    expected: ClassVar[str]

    @model_validator(mode="after")
    def _some(self) -> Self:
        if not self.model_fields_set:
            raise ValueError(f"expected at least one {self.expected}")
        return self


class BoundBody(_Conditions):
    """Conditions on one metric. All of them must hold."""

    expected = "of gt, ge, lt, le, finite"

    gt: float | None = None
    ge: float | None = None
    lt: float | None = None
    le: float | None = None
    finite: bool | None = Field(None, description="false selects NaN and infinite values.")

    def bound(self) -> Bound:
        return Bound(**self.model_dump())


class SelectorBody(_Conditions):
    """Conditions that a selected run meets. At least one member is required."""

    expected = 'member: {"status": "running"} selects every running run'

    experiment: Key | None = Field(None, description="Runs of this experiment.")
    status: Status | None = Field(None, description="Runs with this status. Absent: `running`, unless `runs` is given.")
    tags: Annotated[dict[TagName, TagValue], Field(max_length=8)] = Field(
        default_factory=dict, description="Runs with all of these tags.", examples=[{"model": "resnet50"}]
    )
    runs: Annotated[list[Key], Field(min_length=1, max_length=MAX_NAMED_RUNS)] | None = Field(
        None, description="Runs with these keys. A key without a run gets a failed result."
    )
    metrics: Annotated[dict[MetricName, BoundBody], Field(max_length=8)] = Field(
        default_factory=dict,
        description="Runs whose last report meets these conditions.",
        examples=[{"val_loss": {"gt": 1.0}}],
    )

    def selector(self) -> Selector:
        return Selector(
            experiment=self.experiment,
            status="running" if self.status is None and self.runs is None else self.status,
            tags=self.tags,
            runs=None if self.runs is None else tuple(sorted(set(self.runs))),
            metrics={name: bound.bound() for name, bound in self.metrics.items()},
        )


class BulkCommandRequest(RequestBody):
    """One command, and the selector of its runs."""

    selector: SelectorBody
    command: AnyCommandBody
    dry_run: bool = Field(False, description="Compute the results without changing anything.")
    key: Key | None = Field(
        None, description="An idempotency key: the same key is the same command. Also as header Idempotency-Key."
    )
    actor: Sentence | None = Field(None, description="The sender. With tokens it is the token's name.")
    reason: Sentence | None = Field(None, description="The reason, for the logs of the runs.")

    def unsigned_command(self) -> Command:
        """The command without its signature. Raises InvalidCommand for a field that needs one run; InvalidPolicy."""
        for name, is_given in (
            ("type", isinstance(self.command, CancelBody)),
            ("expected_seq", self.command.expected_seq is not None),
        ):
            if is_given:
                raise InvalidCommand(
                    "this names an event of one run: send it to POST /v1/runs/{run}/commands",
                    field=f"command.{name}",
                )
        return self.command.command()
