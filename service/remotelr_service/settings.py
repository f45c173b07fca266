"""What an operator may set, all by environment variables `REMOTELR_*`. docs/settings.md is made from here."""

import os
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import quote

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from remotelr_service.errors import UserError

PREFIX = "REMOTELR_"

# What may also stand in a file, named by the same variable with `_FILE` behind it.
SECRETS = ("database_url", "database_password", "admin_token")

# Long enough that nobody guesses it, and of characters that pass through shells, headers and YAML.
_MIN_TOKEN_LENGTH, _MIN_TOKEN_CHARACTERS = 32, 10
_TOKEN_CHARACTERS = frozenset("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz-._~+/=")
# What stands in documentation, or under a thumb.
_KNOWN_TOKENS = ("changeme", "change-me", "example", "secret", "password", "token", "remotelr", "admin", "0123456789")


class InvalidSettings(UserError):
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
    database_password: str | None = Field(
        default=None,
        min_length=1,
        description="The password for a PostgreSQL URL that has none; here none of its characters needs escaping.",
        repr=False,
    )
    host: str = Field(
        default="127.0.0.1",
        min_length=1,
        description="The address to listen on. On any but this machine's own, tokens are needed.",
    )
    port: int = Field(default=8000, ge=0, le=65535, description="The port to listen on; 0 takes a free one.")
    auth: Literal["auto", "on", "off"] = Field(
        default="auto",
        description="Whether a token is needed. `auto`: on every address but this machine's own, and there too once "
        "there is a token. `off` is refused on other addresses without `REMOTELR_INSECURE`.",
    )
    insecure: bool = Field(
        default=False,
        description="Serve on other addresses without tokens: whoever reaches the port reads and changes every run.",
    )
    admin_token: str | None = Field(
        default=None,
        description="A token of the scope `admin` that is not kept in the database: 32 characters or more, as from "
        "`openssl rand -hex 32`. Without it a first start that needs tokens makes one and says where it lies.",
        repr=False,
    )
    allowed_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="The names this service goes by, separated by commas; `*.example.org` stands for all below. Others "
        "are refused then. Without it, any is taken where a token is needed; else `localhost` and IP addresses.",
    )
    rate_limit: int = Field(
        default=1_000,
        ge=0,
        le=1_000_000,
        description="Requests a second with one token, over five seconds, before it is answered 429 with "
        "`Retry-After`; 0 is no limit.",
    )
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
    queue_timeout_s: float = Field(
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
    max_streams: int = Field(
        default=1_000,
        ge=0,
        le=1_000_000,
        description="How many streams of events may be open at once; more are answered 503.",
    )
    wait_limit_s: float = Field(
        default=60.0, ge=0, le=300, description="The longest `wait` a request may ask for, in seconds."
    )

    @model_validator(mode="before")
    @classmethod
    def _read_secrets(cls, given: Any) -> Any:
        """What stands in a file is read from there."""
        found = dict(given)
        for name in SECRETS:
            file = os.environ.get(f"{_variable(name)}_FILE")
            if file and name not in found:
                found[name] = _secret_in(f"{_variable(name)}_FILE", Path(file))
            elif file and _variable(name) in os.environ:
                raise ValueError(f"{_variable(name)} and {_variable(name)}_FILE are both set: set one of them")
        password, url = found.get("database_password"), str(found.get("database_url", ""))
        if password:
            found["database_url"] = _with_password(url, str(password))
        return found

    @field_validator("allowed_hosts", mode="before")
    @classmethod
    def _split(cls, given: Any) -> Any:
        names = given.split(",") if isinstance(given, str) else given
        return tuple(name.strip().lower() for name in names if name.strip())

    @field_validator("admin_token")
    @classmethod
    def _refuse_guessable(cls, given: str | None) -> str | None:
        if given is None:
            return None
        if len(given) < _MIN_TOKEN_LENGTH or not _TOKEN_CHARACTERS.issuperset(given):
            raise ValueError(
                f"a token has {_MIN_TOKEN_LENGTH} letters, digits, or any of -._~+/=, or more: make one with "
                f"`openssl rand -hex 32`"
            )
        known = given.lower()
        for word in _KNOWN_TOKENS:
            known = known.replace(word, "")
        if len(known) < _MIN_TOKEN_LENGTH // 2 or len(set(known)) < _MIN_TOKEN_CHARACTERS:
            raise ValueError("this token could be guessed: make one with `openssl rand -hex 32`")
        return given


def read_settings(**given: object) -> Settings:
    """The settings, those `given` on the command line (not None) before the environment. Raises InvalidSettings."""
    _refuse_misspelt()
    options = {name: value for name, value in given.items() if value is not None}
    try:
        return Settings(**options)  # type: ignore[arg-type]  # checked by pydantic
    except ValidationError as error:
        wrong = [_said(each["loc"], each["msg"], options) for each in error.errors(include_input=False)]
        raise InvalidSettings("; ".join(wrong)) from None


def _said(where: tuple[int | str, ...], message: str, options: Mapping[str, object]) -> str:
    message = message.removeprefix("Value error, ")
    if not where:
        return message
    name = str(where[0])
    return f"{_option(name) if name in options else _variable(name)}: {message}"


def _secret_in(variable: str, file: Path) -> str:
    try:
        found = file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{variable}: {file} cannot be read: {getattr(error, 'strerror', 'it is no text')}") from None
    if not found.strip():
        raise ValueError(f"{variable}: {file} is empty")
    return found.rstrip("\r\n")


def _with_password(url: str, password: str) -> str:
    scheme, separator, rest = url.partition("://")
    authority, slash, path = rest.partition("/")
    user, at, host = authority.rpartition("@")
    if not scheme.startswith("postgres") or not at or ":" in user:
        raise ValueError(
            "REMOTELR_DATABASE_PASSWORD goes with a URL like postgresql://user@host/name, which has a user and no "
            "password of its own"
        )
    return f"{scheme}{separator}{user}:{quote(password, safe='')}{at}{host}{slash}{path}"


def _refuse_misspelt() -> None:
    """A misspelt variable would leave its setting at rest: another database, an open door.

    Only what is close to a setting: others of the prefix belong to the client, or to whoever set them.
    """
    known = {_variable(name) for name in Settings.model_fields} | {f"{_variable(name)}_FILE" for name in SECRETS}
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
        "before them, and `--insecure`. A secret may stand in a file instead, named by the same variable with `_FILE`",
        f"behind it: {', '.join(f'`{_variable(name)}_FILE`' for name in SECRETS)}.",
        "",
        "| variable | default | what it does |",
        "| --- | --- | --- |",
    ]
    for name, field in Settings.model_fields.items():
        default = "" if field.default in (None, ()) else f"`{field.default}`"
        lines.append(f"| `{_variable(name)}` | {default} | {field.description} |")
    lines += ["", "This page is made by `remotelr settings`.", ""]
    return "\n".join(lines)


def shown_url(url: str) -> str:
    """The database URL as it may be shown: without its password, and without options, which may hold one."""
    scheme, _, rest = url.partition("?")[0].partition("://")
    if scheme.startswith("sqlite") or "@" not in rest:
        return f"{scheme}://{rest}"
    # The last `@` of all: a password may hold others, and slashes, quoted or not.
    user_info, _, place = rest.rpartition("@")
    user, colon, _ = user_info.partition(":")
    return f"{scheme}://{user}{':***' if colon else ''}@{place}"
