"""Request and response bodies of experiments."""

from datetime import datetime
from typing import Annotated, Any, Self

from pydantic import BaseModel, Field, model_validator

from remotelr.rules import Limits, policy_from_json
from remotelr_service.features.experiments.experiments import ExperimentSettings
from remotelr_service.features.runs.schemas import Tags
from remotelr_service.http.bodies import RequestBody, ResponseBody
from remotelr_service.http.fields import (
    LearningRateOrZero,
    PolicyDocument,
    Sentence,
)


class LimitsBody(RequestBody):
    """Limits of the rate. No policy and no command passes them."""

    min_lr: LearningRateOrZero | None = Field(None, description="The lowest rate. It wins over the policy's bound.")
    max_lr: LearningRateOrZero | None = Field(None, description="The highest rate. It wins over the policy's bound.")
    max_change: Annotated[float, Field(ge=1, le=1e6)] | None = Field(
        None, description="The largest factor by which one command may change the rate, up or down."
    )

    @model_validator(mode="after")
    def _uncrossed(self) -> Self:
        if self.min_lr is not None and self.max_lr is not None and self.min_lr > self.max_lr:
            raise ValueError(f"min_lr ({self.min_lr!r}) must be at most max_lr ({self.max_lr!r})")
        return self


class ExperimentRequest(RequestBody):
    """The new settings of an experiment. They replace all old settings."""

    policy: PolicyDocument | None = Field(None, description="The policy of a new run without a policy.")
    tags: Tags = Field(default_factory=dict, description="Tags of every new run. The run's own tags win.")
    limits: LimitsBody | None = Field(None, description="Limits of every run, running ones included.")
    actor: Sentence | None = Field(None, description="The sender. With tokens it is the token's name.")
    reason: Sentence | None = Field(None, description="The reason, for the logs of the runs.")

    def settings(self) -> ExperimentSettings:
        """The settings. Raises InvalidPolicy."""
        return ExperimentSettings(
            policy=None if self.policy is None else policy_from_json(self.policy),
            tags=self.tags,
            limits=None if self.limits is None else Limits(**self.limits.model_dump()),
        )


class ExperimentAnswer(ResponseBody):
    """An experiment and its settings."""

    experiment: str = Field(validation_alias="name")
    policy: dict[str, Any] | None = Field(description="The policy of a new run without a policy, in canonical form.")
    tags: dict[str, str]
    limits: dict[str, float] | None
    created_at: datetime
    updated_at: datetime


class ExperimentPutAnswer(ExperimentAnswer):
    """An experiment after a PUT."""

    limits_command: int | None = Field(
        description="The bulk command that sends new limits to the runs. `GET /v1/commands/{id}` gives its progress. "
        "Null if no run needs it."
    )


class ExperimentPage(BaseModel):
    """Experiments ordered by name."""

    experiments: list[ExperimentAnswer]
    next: str | None = Field(description="The value of `after` for the next page; null on the last page.")
