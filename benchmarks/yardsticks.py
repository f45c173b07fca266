"""Yardsticks besides the echo: PostgreSQL's pgbench, and a commit with the bare driver."""

import itertools
import re
import shutil
import sqlite3
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psycopg
from sqlalchemy import make_url

# About the size that the service stores for a report.
ROW = (
    "CREATE TABLE yardstick (run_id bigint NOT NULL, seq bigint NOT NULL, payload text, state text, learning_rate "
    "double precision, created_at text, PRIMARY KEY (run_id, seq))"
)
PAYLOAD = '{"metrics":{"loss":0.25,"accuracy":0.91015625,"val_loss":0.2625,"val_accuracy":0.890625}}'
STATE = '{"schedule":{"best":0.2625,"wait":0,"cooldown":0,"learning_rate":0.001}}'
VALUES = (PAYLOAD, STATE, 0.001, "2026-01-01T00:00:00.000000+00:00")
COMMITS = 200
WARM_UP = 1_000


def sqlite_commit_s(folder: Path) -> Callable[[], float]:
    """A measure: the median seconds of one such row committed by sqlite3 alone, synced as the service does.

    The connections of these measures are left to the end of the process.
    """
    file = folder / "yardstick.db"
    connection = sqlite3.connect(file, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute(ROW)
    numbers = itertools.count()

    def commit() -> None:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("INSERT INTO yardstick VALUES (1, ?, ?, ?, ?, ?)", (next(numbers), *VALUES))
        connection.execute("COMMIT")

    # Until the log is written over for the first time it grows, and a growing file is slower to sync.
    for _ in range(WARM_UP):
        commit()
    return lambda: _median_s(commit)


def postgres_commit_s(url: str) -> Callable[[], float]:
    """The same by psycopg alone."""
    connection = psycopg.connect(url)
    connection.execute(ROW.encode())
    # A transaction left open keeps PostgreSQL from clearing away what is outdated, in all of its databases: the
    # service beside it did 30 % less.
    connection.commit()
    numbers = itertools.count()

    def commit() -> None:
        connection.execute("INSERT INTO yardstick VALUES (1, %s, %s, %s, %s, %s)", (next(numbers), *VALUES))
        connection.commit()

    return lambda: _median_s(commit)


def pgbench_tps(url: str, seconds: float, binaries: Path) -> Callable[[], float]:
    """A measure: transactions per second of `pgbench -N` with 32 clients on the PostgreSQL at `url`."""
    program = shutil.which("pgbench", path=str(binaries)) or shutil.which("pgbench")
    if program is None:
        raise RuntimeError("there is no pgbench: install Debian's postgresql-contrib, or the test dependencies")
    where, environment = _arguments(url)
    subprocess.run([program, "-i", "-q", "-s", "32", *where], env=environment, capture_output=True, check=True)

    def measure() -> float:
        # -N: one update, one select and one insert. -M prepared would be kinder to it; this is its default.
        words = [program, "-N", "-n", "-c", "32", "-j", "2", "-T", str(max(round(seconds), 1)), *where]
        done = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
        found = re.search(r"tps = ([0-9.]+)", done.stdout)
        assert found is not None, done.stdout
        return float(found[1])

    return measure


def _arguments(url: str) -> tuple[list[str], dict[str, str]]:
    parsed = make_url(url)
    words = ["-h", str(parsed.host), "-p", str(parsed.port or 5432), "-U", str(parsed.username), str(parsed.database)]
    return words, {"PGPASSWORD": str(parsed.password or ""), "PATH": "/usr/bin:/bin"}


def _median_s(commit: Callable[[], None]) -> float:
    times = []
    for _ in range(COMMITS):
        began = time.perf_counter()
        commit()
        times.append(time.perf_counter() - began)
    return statistics.median(times)
