"""`remotelr serve`: binds the address, opens and migrates the database, creates the first token, and serves."""

import gc
import logging
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
from remotelr_service.server.addresses import address_of
from remotelr_service.server.app import create_app
from remotelr_service.server.banner import banner, exposure_warning, use_of_token
from remotelr_service.server.uvicorn_server import Server, listen
from remotelr_service.settings import Settings, read_settings, shown_url

log = logging.getLogger(__name__)

# Open files beside client connections: database, log, sockets.
_OTHER_FILES = 200


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises InsecureAddress, CannotListen, TokenFileUnwritable, and ServiceErrors of an unusable database.
    """
    require_authentication(settings)
    # Files created from here on, the database included, are readable by this user only.
    os.umask(0o077)
    is_json = logs.configure(settings.log_level, settings.log_format)
    _allow_open_files(settings.max_connections + _OTHER_FILES)
    with listen(settings.host, settings.port) as bound:
        ctx = open_migrated(settings.database_url)
        token_file = _first_token(settings, ctx)
        app = create_app(settings, ctx)

        def ready() -> None:
            address = address_of(bound, settings.allowed_hosts)
            exposure = exposure_warning(settings.host, needs_token=not app.state.gate.is_always_open)
            if is_json:
                _log_start(address, settings.database_url, app.version, token_file, exposure)
            else:
                text = banner(address, settings.database_url, app.version, token_file)
                sys.stderr.write(f"{text}\n" if exposure is None else f"{text}\n{exposure}\n\n")
                sys.stderr.flush()
            _tune_garbage_collector()

        Server(app, settings, ready).run(sockets=[bound])


def _log_start(address: str, database_url: str, release: str, token_file: Path | None, exposure: str | None) -> None:
    """Log what the banner says, as JSON."""
    database = shown_url(database_url)
    log.info("started", extra={"address": address, "database": database, "release": release, "pid": os.getpid()})
    if token_file is not None:
        _log_first_token(token_file)
    if exposure is not None:
        log.warning("other machines can reach the service", extra={"detail": exposure})


def _log_first_token(file: Path) -> None:
    # A warning, so that every level shows where the secret is.
    log.warning(
        "the first token is created", extra={"scope": "admin", "token_file": str(file), "use": use_of_token(file)}
    )


def _tune_garbage_collector() -> None:
    """Exclude the objects of the start from garbage collection: scanning them took a quarter of a request's time."""
    gc.freeze()
    # Objects of running requests are not garbage: collect the youngest less often than every 700 allocations.
    gc.set_threshold(10_000, 20, 50)


def from_environment() -> FastAPI:
    """The application with the environment's settings, for another ASGI server and for several processes:

        uvicorn --factory remotelr_service.serving:from_environment --workers 4

    Draining and the limits on heads and connections of `Server` do not apply then.
    """
    settings = read_settings()
    logs.configure(settings.log_level, settings.log_format)
    ctx = open_migrated(settings.database_url)
    token_file = _first_token(settings, ctx)
    if token_file is not None:
        _log_first_token(token_file)
    return create_app(settings, ctx)


def _first_token(settings: Settings, ctx: Context) -> Path | None:
    try:
        return first_token(settings, ctx)
    except BaseException:
        ctx.close()
        raise


def _allow_open_files(wanted: int) -> None:
    """Raise the soft limit of open files up to the hard limit; shells start with 1,024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def open_migrated(url: str) -> Context:
    """The context of a database with a current schema. SQLite is migrated here, under its lock.

    PostgreSQL is not migrated, because other replicas may run the old release: raises SchemaOutdated.
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
    from remotelr_service.db import migrate  # noqa: PLC0415  # slow, and most starts need no migration

    if parse_url(url).get_backend_name() == "sqlite":
        migrate.upgrade(url)
    else:
        migrate.check(url)
