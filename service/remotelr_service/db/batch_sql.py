"""Many rows in one statement, as each database takes them fastest.

Rows are plain JSON values here, and moments. PostgreSQL gets them as one JSON document, whatever their number:
a statement for each row costs it, and us, more than the row. SQLite, which is in our own process, gets them one by one.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from operator import itemgetter
from typing import Any

from sqlalchemy import Connection, Dialect, Table

from remotelr_service.db import driver
from remotelr_service.db.rows import to_text
from remotelr_service.db.tables import Moment

Rows = Sequence[Mapping[str, Any]]


def insert_rows(connection: Connection, table: Table, rows: Rows) -> None:
    """Add rows, all with the same columns, moments `as_stored`.

    Raises IntegrityError where one contradicts what is there, when the driver says so (`driver.execute`).
    """
    names = tuple(rows[0])
    _execute(connection, _insertion(connection.dialect, table, names), names, rows)


def update_rows(connection: Connection, table: Table, rows: Rows) -> None:
    """Set the other columns of the rows named by `id`. All have the same columns, moments `as_stored`."""
    names = (*(name for name in rows[0] if name != "id"), "id")
    _execute(connection, _change(connection.dialect, table, names), names, rows)


@lru_cache(maxsize=64)
def moment_to_text(moment: datetime) -> str:
    """As `tables.Moment` stores it on SQLite, and as PostgreSQL reads it."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds")


def as_stored(dialect: Dialect, moment: datetime | None) -> datetime | str | None:
    """The moment as the driver takes it in a row, and gives it back."""
    return moment if moment is None or dialect.name == "postgresql" else moment_to_text(moment)


@lru_cache(maxsize=64)
def moments(table: Table) -> tuple[str, ...]:
    """The columns that hold a time."""
    return tuple(column.name for column in table.c if isinstance(column.type, Moment))


def _execute(connection: Connection, statement: str, names: tuple[str, ...], rows: Rows) -> None:
    if connection.dialect.name == "postgresql":
        driver.execute(connection, statement, (to_text(rows),))
    else:
        driver.execute_many(connection, statement, list(map(itemgetter(*names), rows)))


@lru_cache(maxsize=64)
def _insertion(dialect: Dialect, table: Table, names: tuple[str, ...]) -> str:
    columns = ", ".join(names)
    if dialect.name == "postgresql":
        source = f"SELECT {columns} FROM {_recordset(dialect, table, names)}"  # noqa: S608  # names of our tables
    else:
        source = f"VALUES ({', '.join('?' * len(names))})"
    return f"INSERT INTO {table.name} ({columns}) {source}"


@lru_cache(maxsize=64)
def _change(dialect: Dialect, table: Table, names: tuple[str, ...]) -> str:
    """names: `id` last."""
    if dialect.name == "postgresql":
        values = ", ".join(f"{name} = new.{name}" for name in names[:-1])
        values += f" FROM {_recordset(dialect, table, names)} WHERE {table.name}.id = new.id"
    else:
        values = ", ".join(f"{name} = ?" for name in names[:-1]) + " WHERE id = ?"
    return f"UPDATE {table.name} SET {values}"  # noqa: S608  # the names are those of our tables


def _recordset(dialect: Dialect, table: Table, names: tuple[str, ...]) -> str:
    typed = ", ".join(f"{name} {table.c[name].type.compile(dialect)}" for name in names)
    return f"json_to_recordset(%s) AS new({typed})"
