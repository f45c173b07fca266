"""The base of all request bodies."""

from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict


class RequestBody(BaseModel):
    """The base of all bodies: `true` is no number, "0.5" is no number, and a misspelt field is an error."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, frozen=True)


def measured_metrics(metrics: Mapping[str, float | None]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if value is not None}
