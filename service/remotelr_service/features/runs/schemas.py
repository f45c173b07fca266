"""Bodies of runs, their history and their events."""

from datetime import datetime
from functools import partial
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field

from remotelr.rules import Limits, RunSpec, policy_from_json, policy_to_json
from remotelr.rules.run.model import FinalStatus
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
        description="A value sets a tag, null removes it, other tags stay.",
        examples=[{"model": "resnet101", "draft": None}],
    ),
]


_SPEC_FIELDS = {"initial_learning_rate", "world_size", "steps_per_epoch", "total_epochs"}


class RunRequest(RequestBody):
    """The specification of a run."""

    policy: PolicyDocument | None = Field(
        None, description="Absent: a new run gets its experiment's policy, an existing run keeps its own."
    )
    initial_learning_rate: LearningRate | None = Field(
        None, description="The trainer's rate. Required if the policy has none."
    )
    world_size: WorldSize = Field(
        1, description="Number of ranks of a new run. In an existing run only an attempt changes it."
    )
    steps_per_epoch: int | None = Field(None, ge=1, le=MAX_INTEGER, description="Optimizer steps of one epoch.")
    total_epochs: int | None = Field(
        None,
        ge=1,
        le=MAX_EPOCH,
        description="Length of the run in epochs. An existing run takes it, unless its policy depends on it. If an "
        "operator has set a length, a request can only make it larger.",
    )
    experiment: Key | None = Field(None, description="A named group of runs.")
    tags: Tags = Field(default_factory=dict)
    on_conflict: Literal["error", "keep", "replace", "restart"] = Field(
        "error",
        description="If the run exists with another policy: `error` rejects the request, `keep` keeps its policy, "
        "`replace` sets this policy and keeps the plateau's state within the experiment's `max_change`, `restart` sets "
        "it with new state.",
    )

    def spec(self) -> RunSpec | UnboundSpec:
        """Raises InvalidPolicy."""
        unbound = partial(RunSpec, **self.model_dump(include=_SPEC_FIELDS))
        return unbound if self.policy is None else unbound(policy=policy_from_json(self.policy))


class TagsRequest(RequestBody):
    """Changes of a run's tags."""

    tags: TagChanges


class FinishRequest(RequestBody):
    """The end of a run."""

    status: FinalStatus
    last_seq: Sequence | None = Field(None, description="`seq` of the newest decision this trainer holds.")


Status = Literal["running", "completed", "failed", "stopped"]


def _limits_to_json(limits: Limits | None) -> dict[str, float] | None:
    return None if limits is None else limits.to_json()


class RunAnswer(ResponseBody):
    """A run and its current position."""

    run: str = Field(validation_alias="key")
    experiment: str | None
    tags: dict[str, str]
    policy: Annotated[dict[str, Any], BeforeValidator(policy_to_json)] = Field(
        description="The policy in canonical form, with every field."
    )
    initial_learning_rate: float | None
    world_size: int
    steps_per_epoch: int | None
    total_epochs: int | None
    limits: Annotated[dict[str, float] | None, BeforeValidator(_limits_to_json)] = Field(
        description="The limits of its experiment; null without limits."
    )
    policy_version: int
    attempt: int = Field(description="The attempt in force; 0 before the first one.")
    epoch: int = Field(description="The next epoch to be reported.")
    step: int | None
    learning_rate: float = Field(description="The rate of `epoch`.")
    learning_rate_beneath: float | None = Field(
        description="The rate of `epoch` that the policy gives without overrides; null if no override is in force."
    )
    status: Status
    created_at: datetime
    updated_at: datetime
    stalled: bool = Field(description="The trainer has not reported for three typical epochs and at least 30 s.")
    seq: int = Field(description="Number of the newest event in its log. Send it as `expected_seq` of a command.")
    decision: DecisionAnswer = Field(description="The decision in force.")


class RunPage(BaseModel):
    """Runs ordered by key."""

    runs: list[RunAnswer]
    next: str | None = Field(description="The value of `after` for the next page; null on the last page.")


class EpochAnswer(ResponseBody):
    """One report of one rank."""

    seq: int = Field(description="Number of the report in the run's log.")
    epoch: int
    attempt: int
    rank: int
    metrics: dict[str, float | str] = Field(description='Non-finite values are "nan", "inf" and "-inf".')
    learning_rate: float = Field(description="The decided rate of the epoch.")
    used_learning_rate: float | None = Field(description="The rate that the trainer used, if reported.")
    next_learning_rate: float | None = Field(
        description="The rate decided by the report's point; null while ranks are missing."
    )
    reason: str | None
    action: str | None
    superseded_by: int | None = Field(
        description="The attempt that rewound past the report; null if the report is effective."
    )
    created_at: datetime


class HistoryPage(BaseModel):
    """The reports of a run in order of arrival."""

    run: str
    reports: list[EpochAnswer]
    next: int | None = Field(description="The value of `after` for the next page; null on the last page.")


class EventAnswer(ResponseBody):
    """One event of a run."""

    seq: int
    kind: Literal["created", "attempt", "report", "timeout", "command", "policy", "finished"] = Field(
        description="`timeout`: a point was decided at its deadline, without the missing ranks."
    )
    attempt: int
    epoch: int | None
    rank: int | None
    key: str | None
    effective_from: int = Field(description="The first epoch whose rate the event affects.")
    payload: dict[str, Any]
    notes: dict[str, Any] = Field(
        description="Observations: `gap`, `late`, `drift`, `live`; of a timeout the `ranks` that had reported."
    )
    decision: DecisionAnswer | None
    sentence: str = Field(description="The event as an English sentence.")
    superseded_by: int | None
    created_at: datetime


class EventPage(BaseModel):
    """The events of a run, oldest first."""

    run: str
    events: list[EventAnswer]
    next: int | None = Field(description="The value of `after` for the next page; null on the last page.")
