"""Settings of the service, read from environment variables `REMOTELR_*`. docs/settings.md is generated from here."""

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

# These settings may also be read from the file that the variable `<name>_FILE` names.
SECRETS = ("database_url", "database_password", "admin_token")

# Characters that need no escaping in shells, headers and YAML.
_TOKEN_CHARACTERS = frozenset("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz-._~+/=")
_MIN_TOKEN_LENGTH, _MIN_TOKEN_CHARACTERS = 32, 10
# Words of documentation and of weak passwords. They do not count towards the length.
_WEAK_WORDS = ("changeme", "change-me", "example", "secret", "password", "token", "remotelr", "admin", "0123456789")

Seconds = Annotated[float, Field(ge=0, le=300)]
Timeout = Annotated[float, Field(gt=0, le=300)]
Count = Annotated[int, Field(ge=1, le=1_000_000)]
CountOrZero = Annotated[int, Field(ge=0, le=1_000_000)]


class InvalidSettings(UserError):
    """A variable has an invalid value; the message names it."""


class Settings(BaseSettings):
    """The settings of one service process."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="ignore")

    database_url: str = Field(
        default="sqlite:///remotelr.db",
        min_length=1,
        description="The database: `sqlite:///file` (relative to the working directory; four slashes for an absolute "
        "path) or `postgresql://user:password@host/name`. Several hosts are written as libpq has them: "
        "`postgresql://user@host1:5432,host2/name?target_session_attrs=read-write`.",
        repr=False,
    )
    database_password: str | None = Field(
        default=None,
        min_length=1,
        description="The password of a PostgreSQL URL without one. No character needs escaping here.",
        repr=False,
    )
    host: str = Field(
        default="127.0.0.1",
        min_length=1,
        description="The address to listen on. An address that other machines reach requires tokens.",
    )
    port: int = Field(default=8000, ge=0, le=65535, description="The port to listen on; 0 takes a free one.")
    auth: Literal["auto", "on", "off"] = Field(
        default="auto",
        description="Whether requests need a token. `auto`: on an address that other machines reach, and on a loopback "
        "address once a token exists. `off` on other addresses needs `REMOTELR_INSECURE`.",
    )
    insecure: bool = Field(
        default=False,
        description="Allow other addresses without tokens: any client of the port can read and change all runs.",
    )
    admin_token: str | None = Field(
        default=None,
        description="A token of scope `admin` that is not stored in the database: at least 32 characters, as from "
        "`openssl rand -hex 32`. Without it, the first start that needs tokens creates one in a file.",
        repr=False,
    )
    allowed_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="Host names of this service, separated by commas; `*.example.org` allows all subdomains. Requests "
        "with another `Host` are rejected. Default: any name if tokens are needed, else `localhost` and IP addresses.",
    )
    rate_limit: CountOrZero = Field(
        default=1_000,
        description="Requests per second and token, averaged over five seconds; more are answered 429 with "
        "`Retry-After`. 0 is no limit.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="The lowest level that is logged. `info` has one line per decision."
    )
    log_format: Literal["auto", "console", "json"] = Field(
        default="auto", description="`json` is one object per line; `auto` is `console` on a terminal, else `json`."
    )
    drain_s: Seconds = Field(
        default=0.0,
        description="Seconds to keep serving after SIGTERM while `/readyz` fails, so that a load balancer notices.",
    )
    shutdown_timeout_s: int = Field(
        default=10, ge=1, le=300, description="Seconds after draining until running requests are cut off."
    )
    header_timeout_s: Timeout = Field(default=10.0, description="Seconds for a request's head to arrive.")
    body_timeout_s: Timeout = Field(default=20.0, description="Seconds for a request's body to arrive.")
    max_requests: Count = Field(
        default=512,
        description="Requests processed at once; more are queued. Requests that wait for a decision, or for the rest "
        "of their body, do not count.",
    )
    queue_timeout_s: float = Field(
        default=1.0, ge=0, le=60, description="Seconds in the queue until a request is answered 503 with `Retry-After`."
    )
    max_connections: Count = Field(
        default=10_000,
        description="Open connections, idle ones included. For one more, the longest idle connection of the address "
        "with the most is closed; without such a connection it is answered 503. One address may have nine tenths.",
    )
    max_streams: CountOrZero = Field(
        default=1_000,
        description="Open event streams; more are answered 503. One token, or one address without a token, may have a "
        "quarter of them, but at least 4.",
    )
    max_bodies_mib: int = Field(
        default=64,
        ge=8,
        le=1_000_000,
        description="MiB of request bodies in memory, from their first byte until their answer; requests beyond it are "
        "answered 503. One token, or one address without a token, may have a quarter of it.",
    )
    wait_limit_s: Seconds = Field(default=60.0, description="The longest `wait` of a request, in seconds.")

    @model_validator(mode="before")
    @classmethod
    def _read_secrets(cls, given: Any) -> Any:
        """Read secrets from the files that `<name>_FILE` variables name."""
        found = dict(given)
        for name in SECRETS:
            file = os.environ.get(f"{variable_of(name)}_FILE")
            if file and name not in found:
                found[name] = _read_secret(f"{variable_of(name)}_FILE", Path(file))
            elif file and variable_of(name) in os.environ:
                raise ValueError(f"{variable_of(name)} and {variable_of(name)}_FILE are both set; set only one")
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
    def _check_admin_token(cls, given: str | None) -> str | None:
        if given is None:
            return None
        if len(given) < _MIN_TOKEN_LENGTH or not _TOKEN_CHARACTERS.issuperset(given):
            raise ValueError(
                f"a token must have at least {_MIN_TOKEN_LENGTH} characters, letters, digits or -._~+/=; create one "
                f"with `openssl rand -hex 32`"
            )
        rest = given.lower()
        for word in _WEAK_WORDS:
            rest = rest.replace(word, "")
        if len(rest) < _MIN_TOKEN_LENGTH // 2 or len(set(rest)) < _MIN_TOKEN_CHARACTERS:
            raise ValueError("this token could be guessed; create one with `openssl rand -hex 32`")
        return given


def read_settings(**given: object) -> Settings:
    """The settings of the environment. Options of the command line that are not None take precedence.

    Raises InvalidSettings.
    """
    _check_spelling()
    options = {name: value for name, value in given.items() if value is not None}
    try:
        return Settings(**options)  # type: ignore[arg-type]  # checked by pydantic
    except ValidationError as error:
        messages = [_message(each["loc"], each["msg"], options) for each in error.errors(include_input=False)]
        raise InvalidSettings("; ".join(messages)) from None


def _message(where: tuple[int | str, ...], message: str, options: Mapping[str, object]) -> str:
    message = message.removeprefix("Value error, ")
    if not where:
        return message
    name = str(where[0])
    return f"{_option(name) if name in options else variable_of(name)}: {message}"


def _read_secret(variable: str, file: Path) -> str:
    try:
        found = file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{variable}: {file} cannot be read: {getattr(error, 'strerror', 'it is not text')}") from None
    if not found.strip():
        raise ValueError(f"{variable}: {file} is empty")
    return found.rstrip("\r\n")


def _with_password(url: str, password: str) -> str:
    scheme, separator, rest = url.partition("://")
    authority, slash, path = rest.partition("/")
    user, at, host = authority.rpartition("@")
    if not scheme.startswith("postgres") or not at or ":" in user:
        raise ValueError(
            "REMOTELR_DATABASE_PASSWORD needs a database URL with a user and no password, like "
            "postgresql://user@host/name"
        )
    return f"{scheme}{separator}{user}:{quote(password, safe='')}{at}{host}{slash}{path}"


def _check_spelling() -> None:
    """Raises InvalidSettings for a misspelt variable, whose setting would keep its default without a notice."""
    known = {variable_of(name) for name in Settings.model_fields} | {f"{variable_of(name)}_FILE" for name in SECRETS}
    for variable in sorted(name for name in os.environ if name.startswith(PREFIX) and name not in known):
        # Close names only: others with the prefix belong to the client or to other tools.
        for meant in get_close_matches(variable, known, n=1, cutoff=0.9):
            raise InvalidSettings(f"{variable} is not a setting; did you mean {meant}?")


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def variable_of(name: str) -> str:
    """The environment variable of a setting."""
    return f"{PREFIX}{name.upper()}"


def settings_page() -> str:
    """The settings as a Markdown page."""
    lines = [
        "# Settings",
        "",
        "Settings are environment variables. The options `--host`, `--port`, `--database-url` and `--insecure` of",
        "`remotelr serve` take precedence. A secret can be read from a file instead, whose path is in",
        f"{', '.join(f'`{variable_of(name)}_FILE`' for name in SECRETS)}.",
        "",
        "| variable | default | description |",
        "| --- | --- | --- |",
    ]
    for name, field in Settings.model_fields.items():
        default = "" if field.default in (None, ()) else f"`{field.default}`"
        lines.append(f"| `{variable_of(name)}` | {default} | {field.description} |")
    lines += ["", "`remotelr settings` prints this page.", ""]
    return "\n".join(lines)


def shown_url(url: str) -> str:
    """The database URL without password and without options, which may contain one."""
    scheme, _, rest = url.partition("?")[0].partition("://")
    if scheme.startswith("sqlite") or "@" not in rest:
        return f"{scheme}://{rest}"
    # The last `@`: a password may contain others, and slashes.
    user_info, _, server = rest.rpartition("@")
    user, colon, _ = user_info.partition(":")
    return f"{scheme}://{user}{':***' if colon else ''}@{server}"
