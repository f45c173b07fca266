"""What operators order, as bodies: one for each kind of command, told apart by `type`; and to which runs."""

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Discriminator, Field, ValidationInfo, field_validator, model_validator

from remotelr.rules import Command, InvalidCommand, Until, policy_from_json
from remotelr.rules.commands.expiry import moment
from remotelr.rules.commands.validate import MAX_FACTOR, MIN_FACTOR
from remotelr_service.actions.selection import Bound, Selector
from remotelr_service.api.answers import Status
from remotelr_service.api.bodies import RequestBody
from remotelr_service.api.fields import (
    MAX_EPOCH,
    MAX_INTEGER,
    Epoch,
    Key,
    LearningRate,
    MetricName,
    PolicyDocument,
    Sentence,
    Sequence,
    TagName,
    TagValue,
)

MAX_NAMED_RUNS = 1_000


def _moment(text: str) -> str:
    return moment(text).isoformat()


Factor = Annotated[float, Field(ge=MIN_FACTOR, le=MAX_FACTOR)]
Time = Annotated[str, AfterValidator(_moment), Field(max_length=40, json_schema_extra={"format": "date-time"})]


class UntilBody(RequestBody):
    """When a rate is held no longer: one of the two."""

    epoch: Epoch | None = Field(None, description="The first epoch that is the schedule's again.")
    time: Time | None = Field(None, description="A time with its offset, by the database's clock.")

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.epoch is None) == (self.time is None):
            raise ValueError("expected one of `epoch` and `time`")
        return self

    def until(self) -> Until:
        return Until(epoch=self.epoch, time=self.time)


class _Ordered(RequestBody):
    """What every command has."""

    actor: Sentence | None = Field(None, description="Who orders it; with tokens it is the token's name.")
    reason: Sentence | None = Field(None, description="Why.")
    key: Key | None = Field(
        None, description="The same key is the same command, so a repetition counts once. Or header Idempotency-Key."
    )
    expected_seq: Sequence | None = Field(
        None, description="The run's `seq` as the operator saw it: if anything has happened since, 409 `seq_conflict`."
    )


class SetLearningRateBody(_Ordered):
    """Set the rate."""

    type: Literal["set_learning_rate"]
    value: LearningRate = Field(description="The rate.")
    mode: Literal["pin", "rebase", "one_shot"] = Field(
        "pin",
        description="`pin` holds it; `rebase` lets the schedule go on from it; `one_shot` holds it for one epoch and "
        "gives back what was there before.",
    )
    until: UntilBody | None = Field(None, description="Of `pin` and `one_shot`: when it is held no longer.")

    def command(self) -> Command:
        return Command(
            type=self.type, value=self.value, mode=self.mode, until=None if self.until is None else self.until.until()
        )


class ScaleBody(_Ordered):
    """Multiply the rate in force; the schedule goes on below it."""

    type: Literal["scale"]
    value: Factor | None = Field(None, description="An older name of `factor`.", json_schema_extra={"deprecated": True})
    factor: Factor | None = Field(
        None, validate_default=True, description="What to multiply with. Required, but for its older name."
    )

    @field_validator("factor")
    @classmethod
    def _one(cls, factor: float | None, others: ValidationInfo) -> float | None:
        older = others.data.get("value")
        if factor is None and older is None and "value" in others.data:
            raise ValueError("is required")
        if factor is not None and older is not None:
            raise ValueError("`value` is an older name of it: give one of them")
        return factor

    def command(self) -> Command:
        return Command(type=self.type, value=self.value, factor=self.factor)


class ReleaseBody(_Ordered):
    """Go back to the policy's own curve, and no longer stop."""

    type: Literal["release"]

    def command(self) -> Command:
        return Command(type=self.type)


class PauseBody(_Ordered):
    """Hold the rate in force; the schedule's clock stands still."""

    type: Literal["pause"]

    def command(self) -> Command:
        return Command(type=self.type)


class ResumeScheduleBody(_Ordered):
    """Let the schedule go on where `pause` held it."""

    type: Literal["resume_schedule"]

    def command(self) -> Command:
        return Command(type=self.type)


class ReplacePolicyBody(_Ordered):
    """Give the run another policy."""

    type: Literal["replace_policy"]
    policy: PolicyDocument
    state: Literal["keep", "reset"] = Field(
        "keep", description="`keep`: what the schedule remembers stays, where the tree has the same shape."
    )

    def command(self) -> Command:
        """Raises InvalidPolicy."""
        return Command(type=self.type, policy=policy_from_json(self.policy), state=self.state)


class ExtendBody(_Ordered):
    """Make the run longer, or shorter, and the rest of its curve with it."""

    type: Literal["extend"]
    total: int = Field(ge=1, le=MAX_EPOCH, description="How many epochs the run has now.")
    continuity: Literal["keep_lr", "keep_fraction", "restart"] = Field(
        "keep_lr",
        description="`keep_lr` goes on from the rate in force, `keep_fraction` from the same part of the curve, "
        "`restart` from its beginning.",
    )

    def command(self) -> Command:
        return Command(type=self.type, total=self.total, continuity=self.continuity)


class StopBody(_Ordered):
    """Ask the trainer to end with its epoch."""

    type: Literal["stop"]

    def command(self) -> Command:
        return Command(type=self.type)


class NoteBody(_Ordered):
    """Write a remark into the run's log."""

    type: Literal["note"]
    text: Sentence = Field(min_length=1)

    def command(self) -> Command:
        return Command(type=self.type, text=self.text)


class CancelBody(_Ordered):
    """Take back a command that has not been delivered."""

    type: Literal["cancel"]
    seq: int = Field(ge=1, le=MAX_INTEGER, description="The `seq` of that command.")

    def command(self) -> Command:
        return Command(type=self.type, seq=self.seq)


AnyOrder = Annotated[
    SetLearningRateBody
    | ScaleBody
    | ReleaseBody
    | PauseBody
    | ResumeScheduleBody
    | ReplacePolicyBody
    | ExtendBody
    | StopBody
    | NoteBody
    | CancelBody,
    Discriminator("type"),
]


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
        return Bound(gt=self.gt, ge=self.ge, lt=self.lt, le=self.le, finite=self.finite)


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
    command: AnyOrder
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
