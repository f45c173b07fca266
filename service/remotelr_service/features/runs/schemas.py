"""Bodies of runs, their history and their events."""

from datetime import datetime
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, Field

from remotelr.rules import RunSpec, describe, metrics_to_json, policy_from_json, policy_to_json
from remotelr_service.features.runs.runs import MAX_TAGS, OpenSpec
from remotelr_service.features.runs.views import EventView, HistoryRow, RunView
from remotelr_service.features.training.schemas import DecisionAnswer
from remotelr_service.http.bodies import RequestBody
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

    def spec(self) -> RunSpec | OpenSpec:
        """Raises InvalidPolicy."""
        said = OpenSpec(
            initial_learning_rate=self.initial_learning_rate,
            world_size=self.world_size,
            steps_per_epoch=self.steps_per_epoch,
            total_epochs=self.total_epochs,
        )
        return said if self.policy is None else said.under(policy_from_json(self.policy))


class TagsRequest(RequestBody):
    """What shall be different about the tags of a run."""

    tags: TagChanges


class FinishRequest(RequestBody):
    """How a run ended."""

    status: Literal["completed", "failed", "stopped"]
    last_seq: Sequence | None = Field(None, description="`seq` of the newest decision this trainer holds.")


Status = Literal["running", "completed", "failed", "stopped"]


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
    limits: dict[str, float] | None = Field(description="What its experiment allows at most; null for no bounds.")
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
            limits=None if spec.limits is None else spec.limits.to_json(),
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
            effective_from=event.effective_from,
            payload=dict(event.payload),
            notes=dict(event.notes),
            decision=None if event.decision is None else DecisionAnswer.of(event.decision),
            sentence=describe(event),
            superseded_by=event.superseded_by,
            created_at=view.created_at,
        )


class EventPage(BaseModel):
    """The log of a run, oldest first."""

    run: str
    events: list[EventAnswer]
    next: int | None = Field(description="Ask again with `after` set to this; null at the end.")
