"""Inserts and updates of many rows in one statement.

The values are JSON values and times. PostgreSQL gets all rows as one JSON parameter, which is faster than a statement
for each row. SQLite, which runs in this process, gets them one by one.
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
    """Insert rows with the same columns, and times from `as_stored`.

    Raises IntegrityError; on PostgreSQL with the next statement or the commit (`driver.execute`).
    """
    names = tuple(rows[0])
    _execute(connection, _insert_sql(connection.dialect, table, names), names, rows)


def update_rows(connection: Connection, table: Table, rows: Rows) -> None:
    """Set the columns of the rows with these `id`s. All have the same columns, and times from `as_stored`."""
    names = (*(name for name in rows[0] if name != "id"), "id")
    _execute(connection, _update_sql(connection.dialect, table, names), names, rows)


@lru_cache(maxsize=64)
def moment_to_text(moment: datetime) -> str:
    """The format of `tables.Moment` on SQLite, which PostgreSQL can read too."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds")


def as_stored(dialect: Dialect, moment: datetime | None) -> datetime | str | None:
    """The value that the driver stores and returns for the time."""
    return moment if moment is None or dialect.name == "postgresql" else moment_to_text(moment)


@lru_cache(maxsize=64)
def moments(table: Table) -> tuple[str, ...]:
    """The columns of type `Moment`."""
    return tuple(column.name for column in table.c if isinstance(column.type, Moment))


def _execute(connection: Connection, statement: str, names: tuple[str, ...], rows: Rows) -> None:
    if connection.dialect.name == "postgresql":
        driver.execute(connection, statement, (to_text(rows),))
    else:
        driver.execute_many(connection, statement, list(map(itemgetter(*names), rows)))


@lru_cache(maxsize=64)
def _insert_sql(dialect: Dialect, table: Table, names: tuple[str, ...]) -> str:
    columns = ", ".join(names)
    if dialect.name == "postgresql":
        source = f"SELECT {columns} FROM {_recordset(dialect, table, names)}"  # noqa: S608  # constant names
    else:
        source = f"VALUES ({', '.join('?' * len(names))})"
    return f"INSERT INTO {table.name} ({columns}) {source}"


@lru_cache(maxsize=64)
def _update_sql(dialect: Dialect, table: Table, names: tuple[str, ...]) -> str:
    """names: the columns, `id` last."""
    if dialect.name == "postgresql":
        values = ", ".join(f"{name} = new.{name}" for name in names[:-1])
        values += f" FROM {_recordset(dialect, table, names)} WHERE {table.name}.id = new.id"
    else:
        values = ", ".join(f"{name} = ?" for name in names[:-1]) + " WHERE id = ?"
    return f"UPDATE {table.name} SET {values}"  # noqa: S608  # constant names


def _recordset(dialect: Dialect, table: Table, names: tuple[str, ...]) -> str:
    typed = ", ".join(f"{name} {table.c[name].type.compile(dialect)}" for name in names)
    return f"json_to_recordset(%s) AS new({typed})"
