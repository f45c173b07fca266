"""Bodies of commands: one for each type, told apart by `type`."""

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
    """One step in the life of a command."""

    state: CommandState
    at: datetime
    seq: int = Field(description="The event that brought it, in the run's log.")
    epoch: int | None = Field(description="Of `delivered` and `applied`: the epoch whose rate it made.")
    rate: float | None = Field(description="Of `delivered`: the rate told. Of `applied`: the one really used.")
    actor: str | None = Field(description="Who ordered what brought it.")
    reason: str | None


class CommandAnswer(ResponseBody):
    """A command to a run, and what has become of it.

    It is queued until a decision with it has gone out, then delivered until the trainer has used the rate.
    """

    run: str
    seq: int = Field(description="Number of the command in the run's log.")
    effective_from: int = Field(description="The first epoch whose rate it bears on.")
    key: str | None
    command: Annotated[dict[str, Any], BeforeValidator(command_to_json)] = Field(
        description="As it was ordered, with `actor` and `reason`; defaults left out."
    )
    created_at: datetime
    state: CommandState
    at_epoch: int | None = Field(description="The epoch its rate was used in, or is told for.")
    rate: float | None = Field(description="The rate that the trainer really set, where it says so.")
    reason: str | None = Field(description="Why it stands so, where that needs a word.")
    history: list[CommandStepAnswer] = Field(description="How it came to stand so, oldest step first.")
    type: str = Field(description="Of `command`.")
    value: float | None = Field(description="Of `command`: the rate or the factor.")


class CommandPage(BaseModel):
    """The commands of a run, oldest first."""

    run: str
    commands: list[CommandAnswer]
    next: int | None = Field(description="Ask again with `after` set to this; null at the end.")


def _moment(text: str) -> str:
    return parse_timestamp(text).isoformat()


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


_SIGNATURE = {"actor", "reason", "key", "expected_seq"}


class _CommandBody(RequestBody):
    """What every command has."""

    actor: Sentence | None = Field(None, description="Who orders it; with tokens it is the token's name.")
    reason: Sentence | None = Field(None, description="Why.")
    key: Key | None = Field(
        None, description="The same key is the same command, so a repetition counts once. Or header Idempotency-Key."
    )
    expected_seq: Sequence | None = Field(
        None, description="The run's `seq` as the operator saw it: if anything has happened since, 409 `seq_conflict`."
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
        description="`pin` holds it; `rebase` lets the schedule go on from it; `one_shot` holds it for one epoch and "
        "gives back what was there before.",
    )
    until: UntilBody | None = Field(None, description="Of `pin` and `one_shot`: when it is held no longer.")

    @override
    def command(self) -> Command:
        until = None if self.until is None else Until(epoch=self.until.epoch, time=self.until.time)
        return Command(type=self.type, value=self.value, mode=self.mode, until=until)


class ScaleBody(_CommandBody):
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


class ReleaseBody(_CommandBody):
    """Go back to the policy's own curve, and no longer stop."""

    type: Literal["release"]


class PauseBody(_CommandBody):
    """Hold the rate in force; the schedule's clock stands still."""

    type: Literal["pause"]


class ResumeScheduleBody(_CommandBody):
    """Let the schedule go on where `pause` held it."""

    type: Literal["resume_schedule"]


class ReplacePolicyBody(_CommandBody):
    """Give the run another policy."""

    type: Literal["replace_policy"]
    policy: PolicyDocument
    state: Literal["keep", "reset"] = Field(
        "keep", description="`keep`: what the schedule remembers stays, where the tree has the same shape."
    )

    @override
    def command(self) -> Command:
        """The command. Raises InvalidPolicy."""
        return Command(type=self.type, policy=policy_from_json(self.policy), state=self.state)


class ExtendBody(_CommandBody):
    """Make the run longer, or shorter, and the rest of its curve with it."""

    type: Literal["extend"]
    total: int = Field(ge=1, le=MAX_EPOCH, description="How many epochs the run has now.")
    continuity: Literal["keep_lr", "keep_fraction", "restart"] = Field(
        "keep_lr",
        description="`keep_lr` goes on from the rate in force, `keep_fraction` from the same part of the curve, "
        "`restart` from its beginning.",
    )


class StopBody(_CommandBody):
    """Ask the trainer to end with its epoch."""

    type: Literal["stop"]


class NoteBody(_CommandBody):
    """Write a remark into the run's log."""

    type: Literal["note"]
    text: Sentence = Field(min_length=1)


class CancelBody(_CommandBody):
    """Take back a command that has not been delivered."""

    type: Literal["cancel"]
    seq: int = Field(ge=1, le=MAX_INTEGER, description="The `seq` of that command.")


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
