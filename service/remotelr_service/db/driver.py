"""Statements said to the database's own driver.

For those few that every report needs: around each of them SQLAlchemy takes longer than the statement itself.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError


def fetch(connection: Connection, statement: str, parameters: Any) -> list[tuple[Any, ...]]:
    """The rows it gives, as the driver gives them. Raises what SQLAlchemy would."""
    with _errors(connection, statement):
        cursor = connection.connection.cursor()
        cursor.execute(statement, parameters)
        rows = list(cursor.fetchall())
        cursor.close()
        return rows


def execute(connection: Connection, statement: str, parameters: Any = ()) -> None:
    """Raises what SQLAlchemy would."""
    with _errors(connection, statement):
        cursor = connection.connection.cursor()
        cursor.execute(statement, parameters)
        cursor.close()


def execute_many(connection: Connection, statement: str, rows: Sequence[Any]) -> None:
    """Raises what SQLAlchemy would."""
    with _errors(connection, statement):
        cursor = connection.connection.cursor()
        cursor.executemany(statement, rows)
        cursor.close()


@contextmanager
def _errors(connection: Connection, statement: str) -> Iterator[None]:
    dialect = connection.dialect
    assert dialect.dbapi is not None
    try:
        yield
    except dialect.dbapi.Error as error:
        is_lost = dialect.is_disconnect(error, connection.connection.dbapi_connection, None)
        if is_lost:
            connection.invalidate(error)
        raise DBAPIError.instance(
            statement, None, error, dialect.dbapi.Error, connection_invalidated=is_lost, dialect=dialect
        ) from error
