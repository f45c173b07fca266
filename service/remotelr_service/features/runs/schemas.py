"""Bodies of runs, their history and their events."""

from datetime import datetime
from functools import partial
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field

from remotelr.rules import Limits, RunSpec, policy_from_json, policy_to_json
from remotelr_service.features.runs.runs import MAX_TAGS, UnboundSpec
from remotelr_service.features.training.schemas import DecisionAnswer
from remotelr_service.http.bodies import RequestBody, ResponseBody
from remotelr_service.http.fields import (
    MAX_EPOCH,
    MAX_INTEGER,
    Key,
    LearningRate,
    PolicyDocument,
    Sequence,
    TagName,
    TagValue,
    WorldSize,
)

Tags = Annotated[dict[TagName, TagValue], Field(max_length=MAX_TAGS, examples=[{"model": "resnet50"}])]
TagChanges = Annotated[
    dict[TagName, TagValue | None],
    Field(
        max_length=MAX_TAGS,
        description="A value sets the tag, null removes it; tags that are not named stay.",
        examples=[{"model": "resnet101", "draft": None}],
    ),
]


_SPEC_FIELDS = {"initial_learning_rate", "world_size", "steps_per_epoch", "total_epochs"}


class RunRequest(RequestBody):
    """What the owner of a run says of it."""

    policy: PolicyDocument | None = Field(
        None, description="Absent, a new run takes its experiment's, and a run that exists keeps its own."
    )
    initial_learning_rate: LearningRate | None = Field(
        None, description="The trainer's own rate; needed where the policy names none."
    )
    world_size: WorldSize = Field(
        1, description="Ranks of a new run. In a run that exists only an attempt changes how many they are."
    )
    steps_per_epoch: int | None = Field(None, ge=1, le=MAX_INTEGER, description="Optimizer steps of one epoch.")
    total_epochs: int | None = Field(None, ge=1, le=MAX_EPOCH, description="Length of the run.")
    experiment: Key | None = Field(None, description="A named group of runs.")
    tags: Tags = Field(default_factory=dict)
    on_conflict: Literal["error", "keep", "replace", "restart"] = Field(
        "error",
        description="When the run exists with another policy: `error` refuses, `keep` leaves the run's own, "
        "`replace` sets this one and keeps the plateau's state, as far as the experiment's `max_change` lets it; "
        "`restart` sets it with fresh state, whatever the rate it begins at.",
    )

    def spec(self) -> RunSpec | UnboundSpec:
        """Raises InvalidPolicy."""
        unbound = partial(RunSpec, **self.model_dump(include=_SPEC_FIELDS))
        return unbound if self.policy is None else unbound(policy=policy_from_json(self.policy))


class TagsRequest(RequestBody):
    """What shall be different about the tags of a run."""

    tags: TagChanges


class FinishRequest(RequestBody):
    """How a run ended."""

    status: Literal["completed", "failed", "stopped"]
    last_seq: Sequence | None = Field(None, description="`seq` of the newest decision this trainer holds.")


Status = Literal["running", "completed", "failed", "stopped"]


def _limits_to_json(limits: Limits | None) -> dict[str, float] | None:
    return None if limits is None else limits.to_json()


class RunAnswer(ResponseBody):
    """A run and where it stands."""

    run: str = Field(validation_alias="key")
    experiment: str | None
    tags: dict[str, str]
    policy: Annotated[dict[str, Any], BeforeValidator(policy_to_json)] = Field(
        description="In its canonical form: every field explicit."
    )
    initial_learning_rate: float | None
    world_size: int
    steps_per_epoch: int | None
    total_epochs: int | None
    limits: Annotated[dict[str, float] | None, BeforeValidator(_limits_to_json)] = Field(
        description="What its experiment allows at most; null for no bounds."
    )
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


class RunPage(BaseModel):
    """Runs in order of their keys."""

    runs: list[RunAnswer]
    next: str | None = Field(description="Ask again with `after` set to this; null at the end.")


class EpochAnswer(ResponseBody):
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


class HistoryPage(BaseModel):
    """The curve of a run: its reports in the order they came."""

    run: str
    reports: list[EpochAnswer]
    next: int | None = Field(description="Ask again with `after` set to this; null at the end.")


class EventAnswer(ResponseBody):
    """One thing that happened to a run."""

    seq: int
    kind: Literal["created", "attempt", "report", "timeout", "command", "policy", "finished"] = Field(
        description="`timeout`: a point was decided without the ranks that are missing."
    )
    attempt: int
    epoch: int | None
    rank: int | None
    key: str | None
    effective_from: int = Field(description="The first epoch whose rate this event bears on.")
    payload: dict[str, Any]
    notes: dict[str, Any] = Field(
        description="What was noticed: `gap`, `late`, `drift`, `live`; of a timeout the `ranks` that were there."
    )
    decision: DecisionAnswer | None
    sentence: str = Field(description="What happened, for people.")
    superseded_by: int | None
    created_at: datetime


class EventPage(BaseModel):
    """The log of a run, oldest first."""

    run: str
    events: list[EventAnswer]
    next: int | None = Field(description="Ask again with `after` set to this; null at the end.")
