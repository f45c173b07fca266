"""A database with many runs and events, loaded by its own SQL from runs that the service made.

Every copied history is one the service really wrote, so all of them replay.
"""

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import psycopg

from benchmarks.servers import Server
from remotelr_service.db.tables import events, runs

REPORTS = 48  # and a creation and an attempt: 50 events for each run
CONSTANT = {"schedule": {"type": "constant", "learning_rate": 0.1}}


def make_templates(server: Server, long: int) -> None:
    """The two runs that are copied: `template`, and `long`, whose history is continued to so many reports."""
    server.create_runs("template", 1)
    _report(server, "template", range(REPORTS))
    server.ask("PUT", "/v1/runs/long", {"policy": CONSTANT})
    server.ask("POST", "/v1/runs/long/attempts", {"key": "bench", "epoch": 0})
    _report(server, "long", range(1))
    assert long >= 1


def fill_sqlite(file: Path, copies: int, long: int) -> None:
    """Fill a file that no service has open."""
    with closing(sqlite3.connect(file, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = OFF")
        numbers = "WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < {}) "
        connection.execute("BEGIN")
        for count, statement in _statements(copies, long):
            connection.execute(statement.replace("INSERT", numbers.format(count) + "INSERT", 1))
        for statement in _ENDING:
            connection.execute(statement.format(long=long))
        connection.execute("COMMIT")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def fill_postgres(url: str, copies: int, long: int) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        with connection.transaction():
            for count, statement in _statements(copies, long):
                numbers = f"generate_series(1, {count}) AS numbers(n)"
                connection.execute(statement.replace("numbers", numbers, 1).encode())
            for statement in _ENDING:
                connection.execute(statement.format(long=long).encode())
        connection.execute("VACUUM ANALYZE")


_ENDING = ("UPDATE runs SET seq = 2 + {long}, decided_seq = 2 + {long}, epoch = {long} WHERE key = 'long'",)


def _statements(copies: int, long: int) -> list[tuple[int, str]]:
    """How many numbers each needs, and the statement that copies for each of them."""
    head = _names(runs.c.keys(), without=("id", "key"))
    body = _names(events.c.keys(), without=("run_id",))
    rest = _names(events.c.keys(), without=("run_id", "seq", "epoch", "effective_from"))
    heads = (
        f"INSERT INTO runs (key, {head}) SELECT 'copy-' || (1000000 + n), {_of('one', head)} "
        f"FROM numbers, runs AS one WHERE one.key = 'template'"
    )
    bodies = (
        f"INSERT INTO events (run_id, {body}) SELECT runs.id, {_of('one', body)} FROM numbers, runs, events AS one "
        f"WHERE runs.key LIKE 'copy-%' AND one.run_id = (SELECT id FROM runs WHERE key = 'template')"
    )
    longer = (
        f"INSERT INTO events (run_id, seq, epoch, effective_from, {rest}) "
        f"SELECT run_id, seq + n, epoch + n, effective_from + n, {_of('one', rest)} FROM numbers, events AS one "
        f"WHERE kind = 'report' AND run_id = (SELECT id FROM runs WHERE key = 'long')"
    )
    return [(copies, heads), (1, bodies), (long - 1, longer)]


def _report(server: Server, run: str, epochs: Sequence[int]) -> None:
    reports = [{"epoch": epoch, "metrics": {"val_loss": 1.0 / (1 + epoch)}} for epoch in epochs]
    server.ask("POST", f"/v1/runs/{run}/reports/batch", {"reports": reports})


def _names(names: Sequence[str], without: tuple[str, ...]) -> str:
    return ", ".join(name for name in names if name not in without)


def _of(table: str, names: str) -> str:
    return ", ".join(f"{table}.{name}" for name in names.split(", "))
