"""Statements said to the database's own driver.

For those few that every report needs: around each of them SQLAlchemy takes longer than the statement itself. And
PostgreSQL is told several in one message, because a message takes as long as what it asks for: what brings no rows
waits for what is said next. A transaction of the writer is two messages:

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

# What PostgreSQL is still to be told, by connection.
_PENDING: WeakKeyDictionary[Connection, list[Statement]] = WeakKeyDictionary()


def fetch(connection: Connection, statement: str, parameters: Sequence[Any]) -> list[tuple[Any, ...]]:
    """The rows it gives, as the driver gives them. Raises what SQLAlchemy would."""
    cursor = _send(connection, (statement, parameters))
    rows: list[tuple[Any, ...]] = cursor.fetchall()
    cursor.close()
    return rows


def execute(connection: Connection, statement: str, parameters: Sequence[Any] = ()) -> None:
    """Raises what SQLAlchemy would; on PostgreSQL what is said next does, or the end of the transaction."""
    if connection.dialect.name == "postgresql":
        _PENDING.setdefault(connection, []).append((statement, parameters))
    else:
        _send(connection, (statement, parameters)).close()


def execute_many(connection: Connection, statement: str, rows: Sequence[Any]) -> None:
    """On SQLite, once for each row. Raises what SQLAlchemy would."""
    with _errors(connection, statement):
        cursor = _raw(connection).cursor()
        cursor.executemany(statement, rows)
        cursor.close()


def flush_before(engine: Engine) -> None:
    """What `execute` has put off on this engine of PostgreSQL is said before anything that SQLAlchemy says."""

    @event.listens_for(engine, "before_cursor_execute")
    def say_before(connection: Connection, *_: Any) -> None:
        if connection in _PENDING:
            _send(connection).close()

    @event.listens_for(engine, "commit")
    def say_last(connection: Connection) -> None:
        if connection not in _PENDING:
            return
        try:
            # The driver sees that the transaction is over, and says COMMIT no second time.
            _send(connection, ("COMMIT", ())).close()
        except BaseException:
            _give_up(connection)
            raise

    @event.listens_for(engine, "rollback")
    def forget(connection: Connection) -> None:
        _PENDING.pop(connection, None)


def _give_up(connection: Connection) -> None:
    """End a transaction whose commit has failed: SQLAlchemy takes it for one that is over."""
    if connection.invalidated:
        return
    try:
        _raw(connection).rollback()
    except Exception as error:  # noqa: BLE001  # whatever it was: that connection is good for nothing more
        connection.invalidate(error)


def _send(connection: Connection, *last: Statement) -> Any:
    """The cursor with what the last statement gave."""
    said = [*_PENDING.pop(connection, ()), *last]
    written = "; ".join(statement for statement, _ in said)
    parameters = [each for _, parameters in said for each in parameters]
    with _errors(connection, written):
        if connection.dialect.name != "postgresql":
            cursor = _raw(connection).cursor()
            cursor.execute(written, parameters)
            return cursor
        assert connection.dialect.dbapi is not None
        # Only without parameters of its own a message may have several statements: they are written into it.
        cursor = connection.dialect.dbapi.ClientCursor(_raw(connection))
        cursor.execute(written, parameters)
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
        # A database of another encoding. What was to be said with it is lost: the transaction must not go on.
        wrong = dialect.dbapi.DataError(str(error))
        raise DBAPIError.instance(statement, None, wrong, dialect.dbapi.Error, dialect=dialect) from error
    except dialect.dbapi.Error as error:
        is_lost = dialect.is_disconnect(error, connection.connection.dbapi_connection, None)
        if is_lost:
            connection.invalidate(error)
        raise DBAPIError.instance(
            statement, None, error, dialect.dbapi.Error, connection_invalidated=is_lost, dialect=dialect
        ) from error
