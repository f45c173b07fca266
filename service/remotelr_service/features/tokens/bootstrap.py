"""The first token: made when a service starts that lets nobody in without one, and has none.

It is written to a file that only this user reads. Nobody is told the token itself, least of all the log.
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
    """Others would reach a service that asks nobody for a token."""


class TokenFileUnwritable(UserError):
    """The first token cannot be written to its file."""


def require_authentication(settings: Settings) -> None:
    """Raises OpenDoor for a service that others reach and that needs no token, unless that is wanted aloud."""
    if settings.auth == "off" and not settings.insecure and not is_loopback(settings.host):
        raise InsecureAddress(
            f"on {settings.host} others reach this service, and REMOTELR_AUTH=off asks nobody for a token: leave it "
            f"out, or serve on 127.0.0.1; --insecure lets everybody in all the same"
        )


def needs_first_token(settings: Settings) -> bool:
    """Whether nobody gets in without a token from the start, and none comes with the settings."""
    if settings.admin_token is not None or settings.auth == "off":
        return False
    return settings.auth == "on" or (not settings.insecure and not is_loopback(settings.host))


def first_token(settings: Settings, ctx: Context) -> Path | None:
    """The file with the administrator's token, where one had to be made. Raises NowhereToKeep."""
    if not needs_first_token(settings) or had_tokens(ctx.reads):
        return None
    return asyncio.run(_made(ctx, folder_of(settings.database_url) / FILE_NAME))


def token_made_here(ctx: Context, name: str) -> MadeToken:
    """A token of the scope `admin`, made in the database itself: for whoever has it has no need of a gate.

    Raises TokenNameTaken.
    """
    return asyncio.run(create_token(ctx.writer, TokenRequest(name=name, scope="admin"), by="the database's owner"))


def folder_of(database_url: str) -> Path:
    """Where this service keeps its files: beside those of SQLite, else in the working directory."""
    parsed = parse_url(database_url)
    return Path(parsed.database or "").parent if parsed.get_backend_name() == "sqlite" else Path()


async def _made(ctx: Context, file: Path) -> Path | None:
    secret = new_token()
    # First the file: a token that nobody can read would lock everybody out. A name of its own: another replica may
    # start here at the same time, and one of us will find that it came second.
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
            f"the first token cannot be written to {file} ({error.strerror}): make the folder writable, or give a "
            f"token of your own in REMOTELR_ADMIN_TOKEN, as from `openssl rand -hex 32`"
        ) from None
