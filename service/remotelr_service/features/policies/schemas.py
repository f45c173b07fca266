"""Bodies of previews, what-if and replay policies."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

from remotelr.rules import (
    InvalidPolicy,
    Policy,
    policy_from_json,
)
from remotelr_service.http.bodies import RequestBody, ResponseBody, measured_metrics
from remotelr_service.http.fields import (
    MAX_COUNT,
    MAX_INTEGER,
    Key,
    LearningRate,
    Metric,
    MetricName,
    PolicyDocument,
)


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
        return [measured_metrics(point) for point in self.metrics]


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


class PreviewAnswer(ResponseBody):
    """A curve."""

    learning_rates: list[float]
    momentum: list[float] | None = Field(description="Of policies that set one.")


class AlternativeAnswer(ResponseBody):
    """What a run would have been told under another policy."""

    learning_rates: list[float] = Field(description="One for each of `epochs`.")
    reductions: int = Field(description="How often a plateau lowered the rate.")
    stops_at: int | None = Field(description="The first epoch it would not have begun; null where it went on.")


class WhatIfAnswer(ResponseBody):
    """The rates a run had, and those it would have had with the same losses."""

    run: str
    epochs: list[int] = Field(description="Those reported, without what was rewound, and the next one.")
    actual: list[float] = Field(description="The rate each of them had, commands of operators included.")
    policies: dict[str, AlternativeAnswer] = Field(validation_alias="alternatives")


class ReplayPolicyAnswer(ResponseBody):
    """What happened to a run, as a policy."""

    run: str
    policy: dict[str, Any] = Field(description="For `PUT /v1/runs/{run}`.")
    epochs: int = Field(description="How many epochs have a rate; behind them the last one is held.")
    exact: bool = Field(description="Every rate is the very same.")
    notes: list[str] = Field(description="What could not be kept, in words.")
