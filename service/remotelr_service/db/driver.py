"""Executes hot-path statements directly on the DB-API driver, bypassing SQLAlchemy.

SQLAlchemy takes longer for such a statement than the database does. On PostgreSQL, several statements are sent in one
message, because a round trip takes as long as a statement. Statements without rows are pending until the next
statement. A transaction of the writer is two messages:

    BEGIN; SET LOCAL …; SELECT … FOR UPDATE
    INSERT …; UPDATE …; COMMIT
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

from sqlalchemy import Connection, Engine, event
from sqlalchemy.exc import DBAPIError

Statement = tuple[str, Sequence[Any]]

# Pending statements for PostgreSQL, by connection.
_PENDING: WeakKeyDictionary[Connection, list[Statement]] = WeakKeyDictionary()


def fetch(connection: Connection, statement: str, parameters: Sequence[Any]) -> list[tuple[Any, ...]]:
    """Send the statement after the pending ones. Returns the driver's rows. Raises the errors of SQLAlchemy."""
    cursor = _send(connection, (statement, parameters))
    rows: list[tuple[Any, ...]] = cursor.fetchall()
    cursor.close()
    return rows


def execute(connection: Connection, statement: str, parameters: Sequence[Any] = ()) -> None:
    """Execute the statement. On PostgreSQL it is pending, and the next statement or the commit raises its error."""
    if connection.dialect.name == "postgresql":
        _PENDING.setdefault(connection, []).append((statement, parameters))
    else:
        _send(connection, (statement, parameters)).close()


def execute_many(connection: Connection, statement: str, rows: Sequence[Any]) -> None:
    """Execute the statement for each row. SQLite only. Raises the errors of SQLAlchemy."""
    with _errors(connection, statement):
        cursor = _raw(connection).cursor()
        cursor.executemany(statement, rows)
        cursor.close()


def flush_before(engine: Engine) -> None:
    """Send the pending statements of `execute` before any statement or commit of SQLAlchemy. PostgreSQL only."""

    @event.listens_for(engine, "before_cursor_execute")
    def send_before(connection: Connection, *_: Any) -> None:
        if connection in _PENDING:
            _send(connection).close()

    @event.listens_for(engine, "commit")
    def commit(connection: Connection) -> None:
        if connection not in _PENDING:
            return
        try:
            # The driver then knows that the transaction has ended, and sends no second COMMIT.
            _send(connection, ("COMMIT", ())).close()
        except BaseException:
            _roll_back(connection)
            raise

    @event.listens_for(engine, "rollback")
    def discard(connection: Connection) -> None:
        _PENDING.pop(connection, None)


def _roll_back(connection: Connection) -> None:
    """Roll back after a failed commit, which SQLAlchemy takes for the end of the transaction."""
    if connection.invalidated:
        return
    try:
        _raw(connection).rollback()
    except Exception as error:  # noqa: BLE001  # the connection cannot be used again
        connection.invalidate(error)


def _send(connection: Connection, *last: Statement) -> Any:
    """Send the pending statements and `last` in one message. Returns the cursor with the rows of the last statement."""
    statements = [*_PENDING.pop(connection, ()), *last]
    message = "; ".join(statement for statement, _ in statements)
    parameters = [each for _, parameters in statements for each in parameters]
    with _errors(connection, message):
        if connection.dialect.name != "postgresql":
            cursor = _raw(connection).cursor()
            cursor.execute(message, parameters)
            return cursor
        assert connection.dialect.dbapi is not None
        # A message with several statements has no parameters, so the client writes the values into its text.
        cursor = connection.dialect.dbapi.ClientCursor(_raw(connection))
        cursor.execute(message, parameters)
        while cursor.nextset():
            pass
        return cursor


def _raw(connection: Connection) -> Any:
    return connection.connection.driver_connection


@contextmanager
def _errors(connection: Connection, statement: str) -> Iterator[None]:
    dialect = connection.dialect
    assert dialect.dbapi is not None
    try:
        yield
    except UnicodeError as error:
        # The database has another encoding. The pending statements are lost, so the transaction must fail.
        wrong = dialect.dbapi.DataError(str(error))
        raise DBAPIError.instance(statement, None, wrong, dialect.dbapi.Error, dialect=dialect) from error
    except dialect.dbapi.Error as error:
        is_lost = dialect.is_disconnect(error, connection.connection.dbapi_connection, None)
        if is_lost:
            connection.invalidate(error)
        raise DBAPIError.instance(
            statement, None, error, dialect.dbapi.Error, connection_invalidated=is_lost, dialect=dialect
        ) from error
