"""What an operator may set, all by environment variables `REMOTELR_*`. docs/settings.md is made from here."""

import os
from difflib import get_close_matches
from typing import Literal

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from remotelr_service.mistakes import Mistake

PREFIX = "REMOTELR_"


class InvalidSettings(Mistake):
    """A variable with a value it cannot have; the message names it and says what it takes."""


class Settings(BaseSettings):
    """The settings of one service process, read from the environment when it is made."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="ignore")

    database_url: str = Field(
        default="sqlite:///remotelr.db",
        min_length=1,
        description="Where runs are kept: `sqlite:///file` (relative to the working directory; four slashes for an "
        "absolute path) or `postgresql://user:password@host/name`.",
        repr=False,
    )
    host: str = Field(
        default="127.0.0.1",
        min_length=1,
        description="The address to listen on. There are no tokens yet: anything but this machine is open to all.",
    )
    port: int = Field(default=8000, ge=0, le=65535, description="The port to listen on; 0 takes a free one.")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="The least that is logged. At `info` there is one line per decision."
    )
    log_format: Literal["auto", "console", "json"] = Field(
        default="auto",
        description="`json` is one object a line; `auto` is `console` on a terminal and `json` elsewhere.",
    )
    drain_s: float = Field(
        default=0.0,
        ge=0,
        le=300,
        description="Seconds to go on serving after SIGTERM with `/readyz` red, for a load balancer to notice.",
    )
    shutdown_timeout_s: int = Field(
        default=10,
        ge=1,
        le=300,
        description="Seconds that requests under way may take after that before they are cut off.",
    )
    header_timeout_s: float = Field(
        default=10.0, gt=0, le=300, description="Seconds a request's head may take to arrive."
    )
    body_timeout_s: float = Field(
        default=20.0, gt=0, le=300, description="Seconds a request's body may take to arrive."
    )
    max_requests: int = Field(
        default=512,
        ge=1,
        le=1_000_000,
        description="How many requests are worked on at once; others stand in line. Those that wait for a decision, or "
        "for the rest of their body, do not count.",
    )
    line_timeout_s: float = Field(
        default=1.0,
        ge=0,
        le=60,
        description="Seconds a request stands in line before it is answered 503 with `Retry-After`.",
    )
    max_connections: int = Field(
        default=10_000,
        ge=1,
        le=1_000_000,
        description="How many connections may be open at once, idle ones included; more are answered 503.",
    )
    wait_limit_s: float = Field(
        default=60.0, ge=0, le=300, description="The longest `wait` a request may ask for, in seconds."
    )


def read_settings(**given: object) -> Settings:
    """The settings, those `given` on the command line (not None) before the environment. Raises InvalidSettings."""
    _refuse_misspelt()
    options = {name: value for name, value in given.items() if value is not None}
    try:
        return Settings(**options)  # type: ignore[arg-type]  # checked by pydantic
    except ValidationError as error:
        named = [(str(each["loc"][0]), each["msg"]) for each in error.errors(include_input=False)]
        wrong = [f"{_option(name) if name in options else _variable(name)}: {message}" for name, message in named]
        raise InvalidSettings("; ".join(wrong)) from None


def _refuse_misspelt() -> None:
    """A misspelt variable would leave its setting at rest: another database, an open door.

    Only what is close to a setting: others of the prefix belong to the client, or to whoever set them.
    """
    known = {_variable(name) for name in Settings.model_fields}
    for variable in sorted(name for name in os.environ if name.startswith(PREFIX) and name not in known):
        for meant in get_close_matches(variable, known, n=1, cutoff=0.9):
            raise InvalidSettings(f"{variable} is no setting: {meant} is")


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _variable(name: str) -> str:
    return f"{PREFIX}{name.upper()}"


def settings_page() -> str:
    """The settings as a page of Markdown."""
    lines = [
        "# Settings",
        "",
        "Set by environment variables. `remotelr serve` also takes `--host`, `--port` and `--database-url`, which come",
        "before them.",
        "",
        "| variable | default | what it does |",
        "| --- | --- | --- |",
    ]
    for name, field in Settings.model_fields.items():
        lines.append(f"| `{_variable(name)}` | `{field.default}` | {field.description} |")
    lines += ["", "This page is made by `remotelr settings`.", ""]
    return "\n".join(lines)
