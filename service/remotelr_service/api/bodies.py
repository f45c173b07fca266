"""What is asked, as bodies: strict, no unknown fields, and turned into the rules' own types. Pydantic ends here."""

from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from remotelr.rules import AttemptRequest, InvalidPolicy, Policy, Rails, Report, RunSpec, policy_from_json
from remotelr_service.actions.experiments import ExperimentSettings
from remotelr_service.actions.runs import OpenSpec
from remotelr_service.api.fields import (
    MAX_COUNT,
    MAX_EPOCH,
    MAX_INTEGER,
    MAX_WORLD_SIZE,
    Epoch,
    Key,
    LearningRate,
    LearningRateOrZero,
    Metric,
    MetricName,
    Metrics,
    PolicyDocument,
    Sentence,
    Sequence,
    Steps,
    TagChanges,
    Tags,
    WorldSize,
)


class RequestBody(BaseModel):
    """The base of all bodies: `true` is no number, "0.5" is no number, and a misspelt field is an error."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, frozen=True)


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


class RailsBody(RequestBody):
    """What no policy and no operator may leave."""

    min_lr: LearningRateOrZero | None = Field(None, description="No rate below; wins over the policy's own bound.")
    max_lr: LearningRateOrZero | None = Field(None, description="No rate above; wins over the policy's own bound.")
    max_change: Annotated[float, Field(ge=1, le=1e6)] | None = Field(
        None, description="The largest factor by which one command may change the rate in force, up or down."
    )

    @model_validator(mode="after")
    def _uncrossed(self) -> Self:
        if self.min_lr is not None and self.max_lr is not None and self.min_lr > self.max_lr:
            raise ValueError(f"min_lr ({self.min_lr!r}) must be at most max_lr ({self.max_lr!r})")
        return self


class ExperimentRequest(RequestBody):
    """What is set for an experiment, in the place of all that was."""

    policy: PolicyDocument | None = Field(None, description="Of a run that is created without one.")
    tags: Tags = Field(default_factory=dict, description="Of every new run, unless it has others of these names.")
    rails: RailsBody | None = Field(None, description="Of every run, also of those that run already.")
    actor: Sentence | None = Field(None, description="Who sets it; with tokens it is the token's name.")
    reason: Sentence | None = Field(None, description="Why.")

    def settings(self) -> ExperimentSettings:
        """Raises InvalidPolicy."""
        return ExperimentSettings(
            policy=None if self.policy is None else policy_from_json(self.policy),
            tags=self.tags,
            rails=None if self.rails is None else Rails(**self.rails.model_dump()),
        )


class TagsRequest(RequestBody):
    """What shall be different about the tags of a run."""

    tags: TagChanges


class AttemptStart(RequestBody):
    """A trainer group begins, or begins again."""

    key: Key = Field(description="The same key is the same attempt: a scheduler's restart id, or random.")
    epoch: Epoch
    step: Steps | None = None
    world_size: WorldSize | None = Field(None, description="Ranks of the run from now on. Absent: as many as before.")
    gap: bool = Field(False, description="Accept that epochs before `epoch` were never reported.")
    last_seq: Sequence | None = Field(None, description="`seq` of the newest decision this trainer holds.")

    def request(self) -> AttemptRequest:
        return AttemptRequest(
            key=self.key,
            epoch=self.epoch,
            step=self.step,
            world_size=self.world_size,
            gap=self.gap,
            last_seq=self.last_seq,
        )


class ReportRequest(RequestBody):
    """`epoch` ended with these metrics."""

    epoch: Epoch
    metrics: Metrics
    attempt: int | None = Field(
        None, ge=0, le=MAX_INTEGER, description="Whose report it is; absent is the attempt in force."
    )
    rank: int = Field(0, ge=0, lt=MAX_WORLD_SIZE)
    weight: float = Field(1.0, gt=0, le=1e15, description="How many samples stand behind the metrics.")
    step: Steps | None = Field(None, description="Optimizer steps made by the end of the epoch.")
    learning_rate: float | None = Field(None, ge=0, description="The rate really used; a difference is logged.")
    last_seq: Sequence | None = Field(None, description="`seq` of the newest decision this trainer holds.")
    local: bool = Field(
        False, description="The trainer decided the epoch's rate itself, by the same rules: the service was away."
    )

    def report(self) -> Report:
        return Report(
            epoch=self.epoch,
            metrics=_measured(self.metrics),
            attempt=self.attempt,
            rank=self.rank,
            weight=self.weight,
            step=self.step,
            learning_rate=self.learning_rate,
            last_seq=self.last_seq,
            local=self.local,
        )


class BatchRequest(RequestBody):
    """Reports that could not be sent before, oldest first."""

    reports: list[ReportRequest] = Field(min_length=1, max_length=1000)


class FinishRequest(RequestBody):
    """How a run ended."""

    status: Literal["completed", "failed", "stopped"]
    last_seq: Sequence | None = Field(None, description="`seq` of the newest decision this trainer holds.")


class PreviewRequest(RequestBody):
    """A policy, and how much of its curve to give."""

    policy: PolicyDocument
    initial_learning_rate: LearningRate | None = None
    count: int = Field(ge=1, le=MAX_COUNT, description="How many positions, in the policy's unit.")
    start: int = Field(0, ge=0, le=MAX_INTEGER - MAX_COUNT, description="The first position.")
    metrics: Annotated[list[dict[MetricName, Metric]], Field(max_length=1000)] = Field(
        default_factory=list, description="What epoch 0, 1, 2… would measure, for plateaus."
    )
    steps_per_epoch: int = Field(1, ge=1, le=MAX_INTEGER, description="Positions of an epoch, in a unit of steps.")
    total: int | None = Field(
        None, ge=1, le=MAX_INTEGER, description="Length of the run in the policy's unit; absent, that of the curve."
    )

    def parsed(self) -> Policy:
        """Raises InvalidPolicy."""
        return policy_from_json(self.policy)

    def measured(self) -> list[dict[str, float]]:
        return [_measured(point) for point in self.metrics]


class WhatIfRequest(RequestBody):
    """Other policies for a run."""

    policies: Annotated[dict[Key, PolicyDocument], Field(min_length=1, max_length=8)] = Field(
        description="Up to 8, each under a name of its own.",
        examples=[{"patient": {"type": "reduce_on_plateau", "factor": 0.5, "patience": 10}}],
    )

    def parsed(self) -> dict[str, Policy]:
        """Raises InvalidPolicy."""
        return {name: _named_policy(name, document) for name, document in self.policies.items()}


def _named_policy(name: str, document: Mapping[str, object]) -> Policy:
    try:
        return policy_from_json(document)
    except InvalidPolicy as error:
        raise error.under(f"policies.{name}") from None


def _measured(metrics: Mapping[str, float | None]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if value is not None}
