"""Checks that the database answers and fits this release. Without Alembic, whose import doubles the start time."""

from sqlalchemy import Engine, inspect, text
from sqlalchemy.exc import SQLAlchemyError

from remotelr_service.db.engine import reading
from remotelr_service.db.tables import metadata
from remotelr_service.errors import DatabaseUnavailable

# The newest revision in `migrations/`; a test compares the two.
NEWEST_REVISION = "0001"


def schema_mismatch(engine: Engine, at: str | None) -> str | None:
    """The reason why this release cannot use tables at revision `at`; None if it can.

    A newer release may have migrated them while this one runs. Its migrations add columns, and remove none that the
    release before needs, so both can serve during an upgrade. This function checks that no column is missing.
    Raises DatabaseUnavailable.
    """
    if at == NEWEST_REVISION:
        return None
    if at is None or at < NEWEST_REVISION:
        return f"at {at}, this release needs {NEWEST_REVISION}"
    with reading(engine) as connection:
        found = inspect(connection)
        there = {(name, each["name"]) for name in found.get_table_names() for each in found.get_columns(name)}
    needed = {(table.name, column.name) for table in metadata.sorted_tables for column in table.columns}
    gone = ", ".join(".".join(each) for each in sorted(needed - there))
    return f"at {at}, where this release misses {gone}" if gone else None


def check_writable(engine: Engine) -> None:
    """Raises DatabaseUnavailable if the server takes no writes, as a primary that became a standby.

    Then the pooled connections are replaced: a new one may lead to the new primary.
    """
    if engine.dialect.name != "postgresql":
        return
    with reading(engine) as connection:
        is_read_only = connection.execute(text("SELECT current_setting('transaction_read_only')")).scalar() == "on"
    if is_read_only:
        engine.dispose()
        raise DatabaseUnavailable("the database server is read-only: connect the service to the primary")


def stored_revision(engine: Engine) -> str | None:
    """The revision of the tables. Raises DatabaseUnavailable, also if there are no tables."""
    try:
        with reading(engine) as connection:
            revision: str | None = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
            return revision
    except SQLAlchemyError as error:
        raise DatabaseUnavailable("the database cannot be reached, or has no tables") from error
