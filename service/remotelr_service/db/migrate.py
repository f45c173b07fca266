"""Bringing the tables of a database to this release. The migrations themselves are in `migrations/`."""

import logging
import time
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.exc import DatabaseError

from remotelr_service.db.engine import (
    damaged,
    database_exists,
    error_text,
    inspection_engine,
    is_lock_conflict,
)
from remotelr_service.db.faults import UNAVAILABLE
from remotelr_service.errors import DatabaseUnavailable, SchemaOutdated

log = logging.getLogger(__name__)

# How long a migration tries to get the locks it needs from a service at work, and the pause after each try.
LOCK_PATIENCE_S = 60.0
LOCK_PAUSE_S = 0.2


def upgrade(url: str) -> None:
    """Bring the database to this release; one that is there already is not touched.

    Several processes may do this at once: one does it, the others wait and find it done. When it fails,
    the database is as it was before. Raises DatabaseUnavailable, and SchemaOutdated for a database of a newer release.
    """
    at = current(url)
    if at == head():
        return
    _refuse_newer(at)
    log.info("the tables go from %s to %s", at or "nothing", head())
    try:
        apply(config(url))
    except UNAVAILABLE as error:
        raise DatabaseUnavailable(f"the tables could not be brought to {head()}: {error_text(error)}") from error


def apply(settings: Config) -> None:
    """Run the migrations of `settings`, again and again while somebody uses a table that has to change."""
    deadline = time.monotonic() + LOCK_PATIENCE_S
    while True:
        try:
            command.upgrade(settings, "head")
            return  # noqa: TRY300  # an `else` would stand behind the case of failure
        except UNAVAILABLE as error:
            if not is_lock_conflict(error) or time.monotonic() > deadline:
                raise
            time.sleep(LOCK_PAUSE_S)


def current(url: str) -> str | None:
    """The revision of the tables; None where there are none. Raises DatabaseUnavailable, DatabaseDamaged."""
    if not database_exists(url):
        return None
    engine = inspection_engine(url)
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
    """The revision this release needs."""
    newest = _scripts().get_current_head()
    assert newest is not None, f"no migrations in {_folder()}"
    return newest


def check(url: str) -> None:
    """Nothing, when the tables are as this release needs them. Raises SchemaOutdated, DatabaseUnavailable."""
    at = current(url)
    if at == head():
        return
    _refuse_newer(at)
    raise SchemaOutdated(
        f"the database is at {at or 'no revision'}, this release needs {head()}: run `remotelr db upgrade`",
        current=at,
        needed=head(),
    )


def config(url: str, folder: Path | None = None) -> Config:
    """What Alembic needs to know; its commands take this. folder: of other migrations than this release's."""
    settings = Config()
    # As an attribute, not as an option: options go through configparser, which trips over `%`.
    settings.attributes["url"] = url
    settings.set_main_option("script_location", str(folder or _folder()).replace("%", "%%"))
    settings.set_main_option("path_separator", "os")
    return settings


def _refuse_newer(at: str | None) -> None:
    known = {script.revision for script in _scripts().walk_revisions()}
    if at is not None and at not in known:
        raise SchemaOutdated(
            f"the database is at {at}, which this release does not know (its newest is {head()}): "
            f"it was made by a newer release, use that one",
            current=at,
            needed=head(),
        )


def _scripts() -> ScriptDirectory:
    return ScriptDirectory(str(_folder()))


def _folder() -> Path:
    """`migrations/`: inside the package where it was installed from a wheel, at the root of the repository else."""
    package = Path(__file__).parents[1]
    installed = package / "migrations"
    return installed if installed.is_dir() else package.parents[1] / "migrations"
