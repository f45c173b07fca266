"""A PostgreSQL server that a test may kill and restart, and integrity checks of databases."""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
import psycopg
from sqlalchemy import make_url

from support import postgres


class Server:
    """A PostgreSQL server with one port and one folder for all its processes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._account = postgres._account()
        self._binaries = postgres._reachable(postgres.find_binaries(), folder, self._account)
        postgres._initialise(self._binaries, folder, self._account, "secret")
        self._guard, self.port = postgres._start(self._binaries, folder, self._account)
        self.url = f"postgresql+psycopg://{postgres.USER}:secret@127.0.0.1:{self.port}/postgres"

    def kill(self) -> None:
        """SIGKILL to every process of the server at once, as when a machine goes."""
        processes = psutil.Process(self._guard.pid).children(recursive=True)
        for process in processes:
            # Some end by themselves as soon as the first is gone.
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(processes, timeout=60)
        self._guard.wait(60)
        self._close_pipe()

    @contextmanager
    def standing_still(self) -> Iterator[None]:
        """SIGSTOP to every process of the server, as when its machine is moved; its connections stay open."""
        processes = psutil.Process(self._guard.pid).children(recursive=True)
        for process in processes:
            # The postmaster is the first of them: it forks no more.
            with suppress(psutil.NoSuchProcess):
                process.suspend()
        try:
            yield
        finally:
            for process in processes:
                with suppress(psutil.NoSuchProcess):
                    process.resume()

    def start(self) -> float:
        """Start it again. Gives the seconds until it took connections."""
        began = time.monotonic()
        self._guard = postgres._spawn_guard(self._binaries, self._folder, self._account, self.port)
        assert postgres._accepts_connections(self._guard, self.port), (self._folder / "log").read_text()
        return time.monotonic() - began

    def stop(self) -> None:
        postgres._end(self._guard)

    def _close_pipe(self) -> None:
        assert self._guard.stdin is not None
        self._guard.stdin.close()


@contextmanager
def breakable_server() -> Iterator[Server]:
    """A server for this test alone."""
    with TemporaryDirectory(prefix="remotelr-breakable-", ignore_cleanup_errors=True) as name:
        server = Server(Path(name))
        try:
            yield server
        finally:
            if server._guard.poll() is None:
                server.stop()


def query(url: str, statement: str) -> list[tuple[object, ...]]:
    """What PostgreSQL answers to a statement, past the service."""
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:
        cursor = connection.execute(statement)  # type: ignore[arg-type]  # a statement of the test's own
        return cursor.fetchall() if cursor.description else []


def address(url: str) -> tuple[str, int]:
    """Host and port of a database."""
    parsed = make_url(url)
    assert parsed.host is not None
    return parsed.host, parsed.port or 5432


def through(url: str, at: tuple[str, int]) -> str:
    """The same database, reached at another address: a proxy's."""
    return make_url(url).set(host=at[0], port=at[1]).render_as_string(hide_password=False)


def file_of(url: str) -> Path:
    """The SQLite file."""
    database = make_url(url).database
    assert database is not None
    return Path(database)


def integrity(url: str) -> str:
    """`ok`, or the damage: SQLite checks its file; on PostgreSQL tables and indexes must agree."""
    if url.startswith("sqlite"):
        with closing(sqlite3.connect(file_of(url))) as connection:
            return str(connection.execute("PRAGMA integrity_check").fetchone()[0])
    with psycopg.connect(url.replace("+psycopg", "")) as connection:
        for scan in ("indexscan", "indexonlyscan", "bitmapscan"):
            connection.execute(f"SET enable_{scan} = off")
        by_table = connection.execute(_ALL_EVENTS).fetchone()
        connection.execute("RESET ALL")
        connection.execute("SET enable_seqscan = off")
        by_index = connection.execute(_ALL_EVENTS).fetchone()
    return "ok" if by_table == by_index else f"the table has {by_table}, its index {by_index}"


_ALL_EVENTS = "SELECT count(*), md5(string_agg(run_id || ' ' || seq, ',' ORDER BY run_id, seq)) FROM events"
