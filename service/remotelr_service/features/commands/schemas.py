"""Request and response bodies of commands, one request body for each type."""

from datetime import datetime
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    Discriminator,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)
from typing_extensions import override

from remotelr.rules import Command, Until, command_to_json, policy_from_json
from remotelr.rules.commands.expiry import parse_timestamp
from remotelr.rules.commands.status import CommandState
from remotelr.rules.commands.validate import MAX_FACTOR, MIN_FACTOR
from remotelr_service.http.bodies import RequestBody, ResponseBody
from remotelr_service.http.fields import (
    MAX_EPOCH,
    MAX_INTEGER,
    Epoch,
    Key,
    LearningRate,
    PolicyDocument,
    Sentence,
    Sequence,
)


class CommandStepAnswer(ResponseBody):
    """One change of a command's status."""

    state: CommandState
    at: datetime
    seq: int = Field(description="`seq` of the event that caused it.")
    epoch: int | None = Field(description="Of `delivered` and `applied`: the affected epoch.")
    rate: float | None = Field(description="Of `delivered`: the decided rate. Of `applied`: the used rate.")
    actor: str | None = Field(description="The actor of the command that caused it.")
    reason: str | None


class CommandNoticeAnswer(ResponseBody):
    """What the sender of a command should know, although the command is accepted."""

    code: Literal["run_ended", "schedule_observes"] = Field(
        description="`run_ended`: the run is not running. `schedule_observes`: the policy observes reports beneath the "
        "held rate, and may change its own rate before the release."
    )
    detail: str


class CommandAnswer(ResponseBody):
    """A command to a run, with its status.

    It is queued until a response contains it, then delivered until the trainer has used the rate.
    """

    run: str
    seq: int = Field(description="Number of the command in the run's log.")
    effective_from: int = Field(description="The first epoch whose rate it affects.")
    key: str | None
    command: Annotated[dict[str, Any], BeforeValidator(command_to_json)] = Field(
        description="The command as sent, with `actor` and `reason`, without default values."
    )
    created_at: datetime
    before: float | None = Field(description="The rate of `effective_from` without the command; null for a note.")
    after: float | None = Field(
        description="The rate of `effective_from` with the command, if the schedule's state does not change before it."
    )
    state: CommandState
    at_epoch: int | None = Field(description="The epoch in which its rate was used or delivered.")
    rate: float | None = Field(description="The rate that the trainer used, if reported.")
    reason: str | None = Field(description="The reason for the state, if there is one.")
    history: list[CommandStepAnswer] = Field(description="All states of the command, oldest first.")
    notices: list[CommandNoticeAnswer] = Field(description="Notices, while the command is queued.")
    type: str = Field(description="Of `command`.")
    value: float | None = Field(description="Of `command`: the rate or the factor.")


class CommandPage(BaseModel):
    """The commands of a run, oldest first."""

    run: str
    commands: list[CommandAnswer]
    next: int | None = Field(description="The value of `after` for the next page; null on the last page.")


def _timestamp(text: str) -> str:
    return parse_timestamp(text).isoformat()


Factor = Annotated[float, Field(ge=MIN_FACTOR, le=MAX_FACTOR)]


Time = Annotated[str, AfterValidator(_timestamp), Field(max_length=40, json_schema_extra={"format": "date-time"})]


class UntilBody(RequestBody):
    """The end of an override: an epoch or a time."""

    epoch: Epoch | None = Field(None, description="The first epoch without the override.")
    time: Time | None = Field(None, description="A time with a UTC offset, compared with the database's clock.")

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.epoch is None) == (self.time is None):
            raise ValueError("expected one of `epoch` and `time`")
        return self


_SIGNATURE = {"actor", "reason", "key", "expected_seq"}


class _CommandBody(RequestBody):
    """The fields of every command."""

    actor: Sentence | None = Field(None, description="The sender. With tokens it is the token's name.")
    reason: Sentence | None = Field(None, description="The reason, for the log.")
    key: Key | None = Field(
        None, description="An idempotency key: the same key is the same command. Also as header Idempotency-Key."
    )
    expected_seq: Sequence | None = Field(
        None, description="The run's newest `seq`. If the log has a newer event, the answer is 409 `seq_conflict`."
    )

    def command(self) -> Command:
        """The command, without its signature: actor, reason, key and expected_seq."""
        return Command(**self.model_dump(exclude=_SIGNATURE))


class SetLearningRateBody(_CommandBody):
    """Set the rate."""

    type: Literal["set_learning_rate"]
    value: LearningRate = Field(description="The rate.")
    mode: Literal["pin", "rebase", "one_shot"] = Field(
        "pin",
        description="`pin` holds the rate; `rebase` continues the schedule from it; `one_shot` holds it for one epoch, "
        "then restores the earlier override.",
    )
    until: UntilBody | None = Field(None, description="Of `pin` and `one_shot`: the end of the override.")

    @override
    def command(self) -> Command:
        until = None if self.until is None else Until(epoch=self.until.epoch, time=self.until.time)
        return Command(type=self.type, value=self.value, mode=self.mode, until=until)


class ScaleBody(_CommandBody):
    """Multiply the rate. The schedule continues."""

    type: Literal["scale"]
    value: Factor | None = Field(
        None, description="Deprecated name of `factor`.", json_schema_extra={"deprecated": True}
    )
    factor: Factor | None = Field(
        None, validate_default=True, description="The multiplier. Required, unless `value` is given."
    )

    @field_validator("factor")
    @classmethod
    def _one(cls, factor: float | None, others: ValidationInfo) -> float | None:
        older = others.data.get("value")
        if factor is None and older is None and "value" in others.data:
            raise ValueError("is required")
        if factor is not None and older is not None:
            raise ValueError("`value` is a deprecated name of `factor`: give only one of them")
        return factor


class ReleaseBody(_CommandBody):
    """Remove all overrides and the stop request."""

    type: Literal["release"]


class PauseBody(_CommandBody):
    """Hold the rate and stop the schedule's clock."""

    type: Literal["pause"]


class ResumeScheduleBody(_CommandBody):
    """Continue the schedule after `pause`."""

    type: Literal["resume_schedule"]


class ReplacePolicyBody(_CommandBody):
    """Replace the run's policy."""

    type: Literal["replace_policy"]
    policy: PolicyDocument
    state: Literal["keep", "reset"] = Field(
        "keep", description="`keep`: keep the schedule's state where both trees have the same shape."
    )

    @override
    def command(self) -> Command:
        """The command. Raises InvalidPolicy."""
        return Command(type=self.type, policy=policy_from_json(self.policy), state=self.state)


class ExtendBody(_CommandBody):
    """Change the length of the run, and the rest of its curve."""

    type: Literal["extend"]
    total: int = Field(ge=1, le=MAX_EPOCH, description="The new number of epochs of the run.")
    continuity: Literal["keep_lr", "keep_fraction", "restart"] = Field(
        "keep_lr",
        description="`keep_lr` continues from the rate in force, `keep_fraction` from the same fraction of the curve, "
        "`restart` from its beginning.",
    )


class StopBody(_CommandBody):
    """Request the trainer to stop after its epoch."""

    type: Literal["stop"]


class NoteBody(_CommandBody):
    """Add a note to the run's log."""

    type: Literal["note"]
    text: Sentence = Field(min_length=1)


class CancelBody(_CommandBody):
    """Cancel a command that is not delivered yet."""

    type: Literal["cancel"]
    seq: int = Field(ge=1, le=MAX_INTEGER, description="The `seq` of the command.")


AnyCommandBody = Annotated[
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
