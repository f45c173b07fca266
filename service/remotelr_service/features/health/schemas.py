"""Bodies of health and version."""

from typing import Literal

from pydantic import BaseModel


class HealthAnswer(BaseModel):
    """Whether all is well, and with `verbose` each check by name."""

    status: Literal["ok", "failing"]
    checks: dict[str, str] | None = None


class VersionAnswer(BaseModel):
    """What is running."""

    version: str
    rules_version: int
    api: Literal["v1"]
