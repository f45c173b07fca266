"""Bodies of health and version."""

from typing import Literal

from pydantic import BaseModel


class HealthAnswer(BaseModel):
    """The state of the service; with `verbose` each check by name."""

    status: Literal["ok", "failing"]
    checks: dict[str, str] | None = None


class VersionAnswer(BaseModel):
    """The versions of the service."""

    version: str
    rules_version: int
    api: Literal["v1"]
