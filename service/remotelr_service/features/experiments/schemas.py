"""Bodies of experiments."""

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
    limits: LimitsBody | None = Field(None, description="Of every run, also of those that run already.")
    actor: Sentence | None = Field(None, description="Who sets it; with tokens it is the token's name.")
    reason: Sentence | None = Field(None, description="Why.")

    def settings(self) -> ExperimentSettings:
        """Raises InvalidPolicy."""
        return ExperimentSettings(
            policy=None if self.policy is None else policy_from_json(self.policy),
            tags=self.tags,
            limits=None if self.limits is None else Limits(**self.limits.model_dump()),
        )


class ExperimentAnswer(ResponseBody):
    """An experiment, and what its runs begin with."""

    experiment: str = Field(validation_alias="name")
    policy: dict[str, Any] | None = Field(description="Of a run that is created without one, in its canonical form.")
    tags: dict[str, str]
    limits: dict[str, float] | None
    created_at: datetime
    updated_at: datetime


class ExperimentPutAnswer(ExperimentAnswer):
    """An experiment as it is set now."""

    limits_command: int | None = Field(
        description="The command that takes new limits to the runs: `GET /v1/commands/{id}` says how far it is. "
        "Null where no run has to be told."
    )


class ExperimentPage(BaseModel):
    """Experiments in order of their names."""

    experiments: list[ExperimentAnswer]
    next: str | None = Field(description="Ask again with `after` set to this; null at the end.")
