"""Request and response bodies of previews, what-if and replay policies."""

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
    """A policy, and the range of its curve."""

    policy: PolicyDocument
    initial_learning_rate: LearningRate | None = None
    count: int = Field(ge=1, le=MAX_COUNT, description="Number of positions, in the policy's unit.")
    start: int = Field(0, ge=0, le=MAX_INTEGER - MAX_COUNT, description="The first position.")
    metrics: Annotated[list[dict[MetricName, Metric]], Field(max_length=1000)] = Field(
        default_factory=list, description="The metrics of epochs 0, 1, 2…, for closed-loop schedules."
    )
    steps_per_epoch: int = Field(1, ge=1, le=MAX_INTEGER, description="Steps of an epoch, for a policy in steps.")
    total: int | None = Field(
        None, ge=1, le=MAX_INTEGER, description="Length of the run in the policy's unit. Absent: the end of the curve."
    )

    def parsed(self) -> Policy:
        """The parsed policy. Raises InvalidPolicy."""
        return policy_from_json(self.policy)

    def arguments(self) -> dict[str, Any]:
        """The arguments of the task `preview`."""
        return {**self.model_dump(), "metrics": [measured_metrics(point) for point in self.metrics]}


class WhatIfRequest(RequestBody):
    """Other policies for a run."""

    policies: Annotated[dict[Key, PolicyDocument], Field(min_length=1, max_length=8)] = Field(
        description="Up to 8 policies by name.",
        examples=[{"patient": {"type": "reduce_on_plateau", "factor": 0.5, "patience": 10}}],
    )

    def parsed(self) -> dict[str, Policy]:
        """The parsed policy. Raises InvalidPolicy."""
        return {name: _named_policy(name, document) for name, document in self.policies.items()}


def _named_policy(name: str, document: Mapping[str, object]) -> Policy:
    try:
        return policy_from_json(document)
    except InvalidPolicy as error:
        raise error.under(f"policies.{name}") from None


class PreviewAnswer(ResponseBody):
    """The curve of a policy."""

    learning_rates: list[float]
    momentum: list[float] | None = Field(description="The momentum, if the policy sets one.")


class AlternativeAnswer(ResponseBody):
    """The decisions of a run under another policy."""

    learning_rates: list[float] = Field(description="One for each of `epochs`.")
    reductions: int = Field(description="Number of reductions by a plateau.")
    stops_at: int | None = Field(description="The epoch at which the policy stops the run; null if it does not.")


class WhatIfAnswer(ResponseBody):
    """The actual rates of a run, and its rates under other policies with the same metrics."""

    run: str
    epochs: list[int] = Field(description="The effective reported epochs and the next one.")
    actual: list[float] = Field(description="The actual rate of each epoch, commands included.")
    policies: dict[str, AlternativeAnswer] = Field(validation_alias="alternatives")


class ReplayPolicyAnswer(ResponseBody):
    """The rates of a run as a policy."""

    run: str
    policy: dict[str, Any] = Field(description="A policy for `PUT /v1/runs/{run}`.")
    epochs: int = Field(description="Number of epochs with a rate. After them the last rate holds.")
    exact: bool = Field(description="Every rate is the same double.")
    notes: list[str] = Field(description="The differences to the run's rates.")
