"""`remotelr serve`, in the order in which it can fail: the address, the database, its tables, the first token.
Then it serves."""

import gc
import os
import resource
import sys
from pathlib import Path

from fastapi import FastAPI

from remotelr_service import logs
from remotelr_service.db.engine import parse_url
from remotelr_service.db.schema_check import NEWEST_REVISION, stored_revision
from remotelr_service.errors import DatabaseUnavailable
from remotelr_service.features.tokens.bootstrap import first_token, require_authentication
from remotelr_service.http.context import Context
from remotelr_service.server.app import create_app
from remotelr_service.server.banner import banner, warning_of_exposure
from remotelr_service.server.uvicorn_server import Server, address_of, listen
from remotelr_service.settings import Settings, read_settings

# What is open beside the connections of clients: database, log, sockets.
_OWN_FILES = 200


def serve(settings: Settings) -> None:
    """Serve until told to end.

    Raises OpenDoor, CannotListen, NowhereToKeep, and the ServiceErrors of a database that cannot be used.
    """
    require_authentication(settings)
    # What is made from here on, files of the database included, is for this user alone.
    os.umask(0o077)
    logs.configure(settings.log_level, settings.log_format)
    _allow_open_files(settings.max_connections + _OWN_FILES)
    with listen(settings.host, settings.port) as bound:
        ctx = open_migrated(settings.database_url)
        token_file = _first_token(settings, ctx)
        app = create_app(settings, ctx)

        def ready() -> None:
            text = banner(address_of(bound), settings.database_url, app.version, token_file)
            exposure = warning_of_exposure(settings.host, needs_token=not app.state.gate.is_always_open)
            sys.stderr.write(f"{text}\n" if exposure is None else f"{text}\n{exposure}\n\n")
            sys.stderr.flush()
            _spare_the_collector()

        Server(app, settings, ready).run(sockets=[bound])


def _spare_the_collector() -> None:
    """Keep the garbage collector from what the start has made, which stays: it took a quarter of a request's time."""
    gc.freeze()
    # Requests under way are no garbage: look at the youngest less often than after 700 new objects.
    gc.set_threshold(10_000, 20, 50)


def from_environment() -> FastAPI:
    """The application as the environment sets it, for a server that starts it itself, in one process or several:

        uvicorn --factory remotelr_service.serving:from_environment --workers 4

    What `Server` adds is then that server's to do: draining, and bounds on heads and connections.
    """
    settings = read_settings()
    logs.configure(settings.log_level, settings.log_format)
    ctx = open_migrated(settings.database_url)
    token_file = _first_token(settings, ctx)
    if token_file is not None:
        sys.stderr.write(f"the first token, of the scope admin, is in {token_file}\n")
    return create_app(settings, ctx)


def _first_token(settings: Settings, ctx: Context) -> Path | None:
    try:
        return first_token(settings, ctx)
    except BaseException:
        ctx.close()
        raise


def _allow_open_files(wanted: int) -> None:
    """Raise the soft limit of open files, as far as the hard one lets us: shells begin with 1,024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def open_migrated(url: str) -> Context:
    """The database, with its tables as this release needs them: SQLite is migrated here, under its lock.

    PostgreSQL is not: other replicas may still run the old release. Raises SchemaOutdated there.
    """
    ctx = Context.open(url)
    try:
        if not _is_current(ctx):
            _migrate_or_refuse(url)
    except BaseException:
        ctx.close()
        raise
    return ctx


def _is_current(ctx: Context) -> bool:
    try:
        return stored_revision(ctx.reads) == NEWEST_REVISION
    except DatabaseUnavailable:
        return False


def _migrate_or_refuse(url: str) -> None:
    from remotelr_service.db import migrate  # noqa: PLC0415  # most starts do without it, and are sooner for that

    if parse_url(url).get_backend_name() == "sqlite":
        migrate.upgrade(url)
    else:
        migrate.check(url)
