"""The bases of request and response bodies."""

from collections.abc import Mapping
from typing import Any, Self

from pydantic import BaseModel, ConfigDict


class RequestBody(BaseModel):
    """A request body. Strict: `true` and "0.5" are not numbers, and an unknown field is an error."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, frozen=True)


class ResponseBody(BaseModel):
    """A response body that reads the attributes of the objects it describes.

    A field with a `validation_alias` reads the attribute of that name.
    """

    model_config = ConfigDict(from_attributes=True)

    @classmethod
    def read(cls, *sources: object, **members: Any) -> Self:
        """The body with `members`; any other field is the attribute of the first source that has it."""
        for name, field in cls.model_fields.items():
            attribute = field.validation_alias if isinstance(field.validation_alias, str) else name
            source = next((each for each in sources if attribute not in members and hasattr(each, attribute)), None)
            if source is not None:
                members[attribute] = getattr(source, attribute)
        return cls.model_validate(members)


def measured_metrics(metrics: Mapping[str, float | None]) -> dict[str, float]:
    """The metrics without those that are null."""
    return {name: value for name, value in metrics.items() if value is not None}
