"""Engines of both databases. Only this module configures SQLite and PostgreSQL.

SQLite has no row locks and no server, so one process uses the file, and one connection of it writes. Every write
transaction takes the write lock at BEGIN, which makes read-decide-write safe. No other connection writes or
checkpoints: releases before 3.51.3 can damage a file if two do at once (sqlite.org/wal.html#walresetbug). On
PostgreSQL, replicas exclude each other by row locks on runs.
"""

import asyncio
import re
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.pool import ConnectionPoolEntry, NullPool, QueuePool

from remotelr_service.db import driver
from remotelr_service.db.faults import classify_error, ends_connection
from remotelr_service.db.sqlite_file import SqliteFile, create_file, damaged
from remotelr_service.errors import DatabaseUnavailable, InvalidDatabaseUrl

T = TypeVar("T")

SQLITE_BUSY_TIMEOUT_MS = 5_000
SQLITE_JOURNAL_LIMIT_BYTES = 64 * 1024 * 1024

POSTGRES_LOCK_TIMEOUT_MS = 300
POSTGRES_STATEMENT_TIMEOUT_MS = 2_000
POSTGRES_IDLE_TIMEOUT_MS = 5_000
POSTGRES_MIGRATION_TIMEOUT_MS = 60_000
POSTGRES_TABLE_LOCK_TIMEOUT_MS = 100
# More than one are used only while a transaction stalls.
POSTGRES_WRITE_CONNECTIONS = 4

_POSTGRES_PORT = "5432"
_HOST_AND_PORT = re.compile(r"\[?(?P<name>[^\[\]]*?)\]?(:(?P<port>[0-9]+))?")

_READERS: dict[str, Any] = {"pool_size": 5, "max_overflow": 10, "pool_timeout": 2, "pool_use_lifo": True}


@dataclass(frozen=True, slots=True)
class Database:
    """The engines of one database: `reads` for any thread, `writes` for the writer alone.

    write_connections: the maximal number of write transactions at a time.
    """

    reads: Engine
    writes: Engine
    write_connections: int = 1
    file: SqliteFile | None = None

    def close(self) -> None:
        """Close every connection, and release the lock on the SQLite file."""
        for engine in (self.reads, self.writes):
            # A thread may return its connection after dispose, to the old pool.
            event.listen(engine.pool, "checkin", _close_returned)
            engine.dispose()
        if self.file is not None:
            self.file.close()


def open_database(url: str) -> Database:
    """The database at `url`, for the only service process (SQLite) or one of several (PostgreSQL).

    url: `sqlite:///file` or `postgresql://user:password@host/name`; `postgres://` is the same.

    Raises InvalidDatabaseUrl; for SQLite also DatabaseInUse if another process uses the file, and
    DatabaseDamaged if a quick check fails. PostgreSQL is not contacted.
    """
    parsed = parse_url(url)
    if parsed.get_backend_name() == "postgresql":
        # No pre-ping for the writer, which retries a lost transaction on a new connection.
        return Database(
            reads=_postgres_engine(parsed, pool_pre_ping=True, **_READERS),
            writes=_postgres_engine(parsed, pool_size=POSTGRES_WRITE_CONNECTIONS, pool_timeout=2),
            write_connections=POSTGRES_WRITE_CONNECTIONS,
        )
    file = SqliteFile(_path_of(parsed))
    try:
        file.check_content()
    except BaseException:
        file.close()
        raise
    check = file.check_identity
    return Database(reads=_sqlite_reader(parsed, check=check), writes=_sqlite_writer(parsed, check=check), file=file)


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """A short transaction to read in. Raises DatabaseUnavailable, DatabaseDamaged."""
    try:
        with engine.begin() as connection:
            yield connection
    except (DBAPIError, PoolTimeout) as error:
        fault = classify_error(error)
        if fault == "damaged":
            raise damaged(engine.url.database or "the database", error_text(error)) from error
        if fault == "other":
            raise
        raise DatabaseUnavailable("the database cannot be reached; retry the request") from error


async def run_query(engine: Engine, query: Callable[[Connection], T]) -> T:
    """The result of `query` in a short transaction of its own, in a thread. Raises as `reading`."""

    def run() -> T:
        with reading(engine) as connection:
            return query(connection)

    return await asyncio.to_thread(run)


def migration_engine(url: str) -> Engine:
    """An engine without a pool for one schema change, with long timeouts."""
    parsed = parse_url(url)
    if parsed.get_backend_name() == "sqlite":
        create_file(_path_of(parsed))
        return _sqlite_writer(parsed, poolclass=NullPool)
    return _postgres_engine(
        parsed,
        lock_timeout_ms=POSTGRES_MIGRATION_TIMEOUT_MS,
        statement_timeout_ms=POSTGRES_MIGRATION_TIMEOUT_MS,
        poolclass=NullPool,
    )


def inspection_engine(url: str) -> Engine:
    """An engine without a pool that reads a database, also while another process uses it."""
    parsed = parse_url(url)
    if parsed.get_backend_name() == "sqlite":
        create_file(_path_of(parsed))
        return _sqlite_reader(parsed, poolclass=NullPool)
    return _postgres_engine(parsed, poolclass=NullPool)


def database_exists(url: str) -> bool:
    """Whether the database exists: a SQLite file may not. PostgreSQL is not contacted."""
    parsed = parse_url(url)
    return parsed.get_backend_name() != "sqlite" or Path(str(parsed.database)).exists()


def error_text(error: Exception) -> str:
    """The first line of the driver's message, which contains no password."""
    return str(getattr(error, "orig", None) or error).partition("\n")[0]


def lock_schema(connection: Connection) -> None:
    """Exclude other migrations until this transaction ends. On SQLite BEGIN has done that.

    The transaction does not wait for table locks: all later queries of the service would wait behind it.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(hashtext('remotelr schema'))"))
        connection.execute(text(f"SELECT set_config('lock_timeout', '{POSTGRES_TABLE_LOCK_TIMEOUT_MS}', true)"))


@contextmanager
def exclusive_use(url: str) -> Iterator[None]:
    """Lock a SQLite file against service processes; nothing on PostgreSQL. Raises DatabaseInUse."""
    parsed = parse_url(url)
    if parsed.get_backend_name() != "sqlite":
        yield
        return
    with closing(SqliteFile(_path_of(parsed))):
        yield


def parse_url(url: str) -> URL:
    """The URL with its driver. The password may contain `@` and `%` unquoted. Raises InvalidDatabaseUrl.

    Several hosts are written as libpq has them: `postgresql://user@host1:5432,host2/name?target_session_attrs=primary`.
    """
    try:
        parsed = make_url(_with_hosts_in_query(_with_quoted_password(url)))
    except (ArgumentError, ValueError):
        raise InvalidDatabaseUrl(
            "the database URL cannot be read; use sqlite:///file or postgresql://user:password@host/name"
        ) from None
    match parsed.drivername:
        case "sqlite" | "sqlite+pysqlite":
            if parsed.database in (None, "", ":memory:"):
                raise InvalidDatabaseUrl(
                    "SQLite needs a file, because memory is not durable; use sqlite:///remotelr.db"
                )
            return parsed.set(drivername="sqlite+pysqlite")
        case "postgres" | "postgresql" | "postgresql+psycopg":
            return parsed.set(drivername="postgresql+psycopg")
        case other:
            raise InvalidDatabaseUrl(
                f"databases of the kind {other!r} are not supported; "
                f"use sqlite:///file or postgresql://user:password@host/name"
            )


def transaction_limit_s(engine: Engine) -> float:
    """The maximal seconds of a transaction, including waits for locks, plus 1 s."""
    return (SQLITE_BUSY_TIMEOUT_MS if engine.dialect.name == "sqlite" else POSTGRES_STATEMENT_TIMEOUT_MS) / 1000 + 1


def is_lock_conflict(error: Exception) -> bool:
    """Whether a schema change failed because another process holds a lock; a retry may succeed.

    SQLite does not wait for the lock when it sets the journal mode of a new file, so two processes may collide there.
    """
    code = getattr(getattr(error, "orig", None), "sqlite_errorcode", None)
    return classify_error(error) == "race" or code == sqlite3.SQLITE_BUSY


def _with_quoted_password(url: str) -> str:
    """`a:b@c@host` with its password quoted: the last `@` separates the host."""
    scheme, separator, rest = url.partition("://")
    authority, slash, path = rest.partition("/")
    user_info, at, host = authority.rpartition("@")
    user, colon, password = user_info.partition(":")
    # `%` stays: the password may be quoted already.
    return f"{scheme}{separator}{user}{colon}{quote(password, safe='%')}{at}{host}{slash}{path}"


def _with_hosts_in_query(url: str) -> str:
    """`user@a:1,b/name` as `user@/name?host=a,b&port=1,5432`, which SQLAlchemy passes on to libpq."""
    scheme, separator, rest = url.partition("://")
    authority, slash, path = rest.partition("/")
    user_info, at, hosts = authority.rpartition("@")
    if "," not in hosts:
        return url
    name, _, query = path.partition("?")
    found = [_HOST_AND_PORT.fullmatch(host) for host in hosts.split(",")]
    names = quote(",".join(each["name"] if each else "" for each in found))
    ports = ",".join((each and each["port"]) or _POSTGRES_PORT for each in found)
    return f"{scheme}{separator}{user_info}{at}{slash}{name}?{query}{'&' if query else ''}host={names}&port={ports}"


def _postgres_engine(
    url: URL,
    *,
    lock_timeout_ms: int = POSTGRES_LOCK_TIMEOUT_MS,
    statement_timeout_ms: int = POSTGRES_STATEMENT_TIMEOUT_MS,
    **pool: Any,
) -> Engine:
    engine = create_engine(
        url,
        # The driver must not send BEGIN: it is sent below, in one message with the settings.
        isolation_level="AUTOCOMMIT",
        connect_args={
            # A prepared statement belongs to a server connection; PgBouncer's transaction mode changes those.
            "prepare_threshold": None,
            "connect_timeout": 2,
            "tcp_user_timeout": 3_000,
            "application_name": "remotelr",
        },
        **pool,
    )
    # SET LOCAL, not start-up parameters: PgBouncer's transaction mode passes only this.
    _on_begin(
        engine,
        f"BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL lock_timeout = {lock_timeout_ms}; "
        f"SET LOCAL statement_timeout = {statement_timeout_ms}; "
        f"SET LOCAL idle_in_transaction_session_timeout = {POSTGRES_IDLE_TIMEOUT_MS}",
    )
    driver.flush_before(engine)
    _replace_lost_connections(engine)
    return engine


def _replace_lost_connections(engine: Engine) -> None:
    """Connect anew after the errors of `faults` that end a connection, beside those that SQLAlchemy knows."""
    dialect = engine.dialect
    is_disconnect = dialect.is_disconnect

    def is_lost(error: Any, connection: Any, cursor: Any) -> bool:
        return ends_connection(error) or is_disconnect(error, connection, cursor)

    dialect.is_disconnect = is_lost  # type: ignore[assignment]  # what SQLAlchemy and `driver` both call


def _sqlite_writer(
    url: URL, poolclass: type[QueuePool] | type[NullPool] = QueuePool, check: Callable[[], None] | None = None
) -> Engine:
    """At most one connection; its transactions hold the write lock from BEGIN on."""
    pool: dict[str, Any] = {"pool_size": 1, "max_overflow": 0} if poolclass is QueuePool else {}
    engine = create_engine(url, poolclass=poolclass, **pool)
    _on_connect(
        engine,
        [
            f"PRAGMA busy_timeout = {SQLITE_BUSY_TIMEOUT_MS}",
            "PRAGMA journal_mode = WAL",
            "PRAGMA synchronous = FULL",
            "PRAGMA foreign_keys = ON",
            f"PRAGMA journal_size_limit = {SQLITE_JOURNAL_LIMIT_BYTES}",
        ],
    )
    _on_begin(engine, "BEGIN IMMEDIATE", check)
    return engine


def _sqlite_reader(
    url: URL, poolclass: type[QueuePool] | type[NullPool] = QueuePool, check: Callable[[], None] | None = None
) -> Engine:
    """Connections that cannot write or checkpoint."""
    engine = create_engine(url, poolclass=poolclass, **(_READERS if poolclass is QueuePool else {}))
    _on_connect(
        engine,
        [
            f"PRAGMA busy_timeout = {SQLITE_BUSY_TIMEOUT_MS}",
            "PRAGMA query_only = ON",
            "PRAGMA wal_autocheckpoint = 0",
        ],
    )
    _on_begin(engine, "BEGIN", check)
    return engine


def _on_connect(engine: Engine, pragmas: Sequence[str]) -> None:
    @event.listens_for(engine, "connect")
    def configure(connection: DBAPIConnection, _: Any) -> None:
        # The driver would send BEGIN before the first write only, after the reads: `_on_begin` sends it.
        connection.isolation_level = None
        for pragma in pragmas:
            connection.execute(pragma).close()


def _close_returned(_: DBAPIConnection | None, entry: ConnectionPoolEntry) -> None:
    entry.invalidate()


def _path_of(url: URL) -> Path:
    assert url.database is not None
    return Path(url.database)


def _on_begin(engine: Engine, statement: str, check: Callable[[], None] | None = None) -> None:
    """Begin transactions with `statement`. check: raises if a transaction must not begin."""

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        if check is not None:
            check()
        driver.execute(connection, statement)
