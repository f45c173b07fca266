"""Creates the first token when a service that requires tokens starts without one.

It is written to a file that only this user can read, and never to the log.
"""

import asyncio
import os
from pathlib import Path

from remotelr_service.db.engine import parse_url
from remotelr_service.errors import UserError
from remotelr_service.features.tokens.tokens import (
    MadeToken,
    TokenRequest,
    create_first_token,
    create_token,
    had_tokens,
)
from remotelr_service.http.auth.credentials import new_token
from remotelr_service.http.auth.gate import is_loopback
from remotelr_service.http.context import Context
from remotelr_service.settings import Settings

FILE_NAME = "remotelr-admin-token"


class InsecureAddress(UserError):
    """The service is reachable from other hosts and requires no token."""


class TokenFileUnwritable(UserError):
    """The file of the first token cannot be written."""


def require_authentication(settings: Settings) -> None:
    """Raises InsecureAddress for a service that is reachable from other hosts without tokens and `--insecure`."""
    if settings.auth == "off" and not settings.insecure and not is_loopback(settings.host):
        raise InsecureAddress(
            f"REMOTELR_AUTH=off needs a loopback address, got {settings.host}: remove REMOTELR_AUTH=off, serve on "
            f"127.0.0.1, or use --insecure"
        )


def needs_first_token(settings: Settings) -> bool:
    """Whether the service requires tokens from the start and the settings contain none."""
    if settings.admin_token is not None or settings.auth == "off":
        return False
    return settings.auth == "on" or (not settings.insecure and not is_loopback(settings.host))


def first_token(settings: Settings, ctx: Context) -> Path | None:
    """Create the first token if it is needed. Returns: its file, or None. Raises TokenFileUnwritable."""
    if not needs_first_token(settings) or had_tokens(ctx.reads):
        return None
    return asyncio.run(_create(ctx, folder_of(settings.database_url) / FILE_NAME))


def create_local_token(ctx: Context, name: str) -> MadeToken:
    """A new token of the scope `admin`, stored directly in the database. Raises TokenNameTaken."""
    return asyncio.run(create_token(ctx.writer, TokenRequest(name=name, scope="admin"), by="the database's owner"))


def folder_of(database_url: str) -> Path:
    """The folder of the service's files: the folder of the SQLite file, otherwise the working directory."""
    parsed = parse_url(database_url)
    return Path(parsed.database or "").parent if parsed.get_backend_name() == "sqlite" else Path()


async def _create(ctx: Context, file: Path) -> Path | None:
    secret = new_token()
    # Write the file before the row: a stored token without a readable secret would lock every caller out. The file
    # name is unique, because another replica may start here at the same time.
    own = file.with_name(f"{file.name}.{os.getpid()}")
    _write(own, secret)
    made = await create_first_token(ctx.writer, secret)
    if made is None:
        own.unlink()
        return None
    return own.replace(file).absolute()


def _write(file: Path, secret: str) -> None:
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w") as opened:
            os.fchmod(descriptor, 0o600)
            opened.write(f"{secret}\n")
    except OSError as error:
        raise TokenFileUnwritable(
            f"the first token cannot be written to {file} ({error.strerror}): make the folder writable, or set "
            f"REMOTELR_ADMIN_TOKEN, for example to the output of `openssl rand -hex 32`"
        ) from None
