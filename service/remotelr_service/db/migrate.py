"""Migrates a database to this release. The migrations are in `migrations/`."""

import logging
import time
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.exc import DatabaseError

from remotelr_service.db import engine as db
from remotelr_service.db.engine import error_text
from remotelr_service.db.faults import UNAVAILABLE
from remotelr_service.db.sqlite_file import damaged
from remotelr_service.errors import DatabaseUnavailable, SchemaOutdated

log = logging.getLogger(__name__)

# How long a migration tries to lock tables that the service uses, and the pause between two tries.
LOCK_WAIT_S = 60.0
LOCK_PAUSE_S = 0.2


def upgrade(url: str) -> None:
    """Migrate the database; one of this release is not changed.

    Several processes may call this at once: one migrates, the others wait. If it fails, the database is unchanged.
    Raises DatabaseUnavailable; SchemaOutdated for a database of a newer release.
    """
    at = current(url)
    if at == head():
        return
    _refuse_newer(at)
    log.info("the tables are migrated", extra={"from": at, "to": head()})
    try:
        apply(config(url))
    except UNAVAILABLE as error:
        raise DatabaseUnavailable(f"the migration to {head()} failed: {error_text(error)}") from error


def apply(settings: Config) -> None:
    """Run the migrations of `settings`. Retries while the service holds a lock on a table to change."""
    deadline = time.monotonic() + LOCK_WAIT_S
    while True:
        try:
            command.upgrade(settings, "head")
            return  # noqa: TRY300  # an `else` would be far from its `try`
        except UNAVAILABLE as error:
            if not db.is_lock_conflict(error) or time.monotonic() > deadline:
                raise
            time.sleep(LOCK_PAUSE_S)


def current(url: str) -> str | None:
    """The revision of the tables; None if there are none. Raises DatabaseUnavailable, DatabaseDamaged."""
    if not db.database_exists(url):
        return None
    engine = db.inspection_engine(url)
    try:
        with engine.connect() as connection:
            return MigrationContext.configure(connection).get_current_revision()
    except UNAVAILABLE as error:
        raise DatabaseUnavailable(f"the database cannot be reached: {error_text(error)}") from error
    except DatabaseError as error:
        raise damaged(engine.url.database or "the database", str(error.orig)) from error
    finally:
        engine.dispose()


def head() -> str:
    """The revision that this release needs."""
    newest = _scripts().get_current_head()
    assert newest is not None, f"no migrations in {_folder()}"
    return newest


def check(url: str) -> None:
    """Raises SchemaOutdated if the tables are not at the revision of this release; DatabaseUnavailable."""
    at = current(url)
    if at == head():
        return
    _refuse_newer(at)
    raise SchemaOutdated(
        f"the database is at {at or 'no revision'}, this release needs {head()}; run `remotelr db upgrade`",
        current=at,
        needed=head(),
    )


def config(url: str, folder: Path | None = None) -> Config:
    """The configuration for Alembic's commands. folder: the migrations; by default those of this release."""
    settings = Config()
    # An attribute, not an option: configparser would interpolate `%`.
    settings.attributes["url"] = url
    settings.set_main_option("script_location", str(folder or _folder()).replace("%", "%%"))
    settings.set_main_option("path_separator", "os")
    return settings


def _refuse_newer(at: str | None) -> None:
    known = {script.revision for script in _scripts().walk_revisions()}
    if at is not None and at not in known:
        raise SchemaOutdated(
            f"the database is at {at}, which this release does not know (its newest is {head()}); "
            f"it was made by a newer release, use that release",
            current=at,
            needed=head(),
        )


def _scripts() -> ScriptDirectory:
    return ScriptDirectory(str(_folder()))


def _folder() -> Path:
    """`migrations/`: inside an installed package, or at the root of the repository."""
    package = Path(__file__).parents[1]
    installed = package / "migrations"
    return installed if installed.is_dir() else package.parents[1] / "migrations"
