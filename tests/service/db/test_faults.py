"""What a failed call of the database means: each SQLSTATE of the table, raised by a real PostgreSQL; SQLite's codes.

F13: after a failover a pooled connection leads to a server that takes no writes. The service answers 503 until a new
connection leads to one that does, and needs no restart.
"""

import sqlite3
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psycopg
import pytest

from remotelr.rules import Decision
from remotelr_service.db import faults
from remotelr_service.db.faults import BY_CLASS, BY_STATE, classify_error
from remotelr_service.errors import DatabaseDamaged, DatabaseUnavailable, RunBusy
from remotelr_service.features.health.checks import database_checks
from support.fixtures.processes import Process

# One state of each class; the others are in BY_STATE.
STATES = {
    **BY_STATE,
    "08006": BY_CLASS["08"],
    "53100": BY_CLASS["53"],
    "53300": BY_CLASS["53"],
    "58030": BY_CLASS["58"],
}
ANSWERS = {
    "lost": DatabaseUnavailable,
    "race": RunBusy,
    "slow": DatabaseUnavailable,
    "unavailable": DatabaseUnavailable,
    "damaged": DatabaseDamaged,
}


def administer(url: str, *statements: str) -> None:
    with psycopg.connect(url.replace("postgresql+psycopg", "postgresql"), autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement)  # type: ignore[call-overload]


def fail_inserts_with(url: str, state: str) -> None:
    administer(
        url,
        f"CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        f"RAISE EXCEPTION 'planted' USING ERRCODE = '{state}'; END $$",
        "CREATE TRIGGER fail BEFORE INSERT ON events FOR EACH ROW EXECUTE FUNCTION fail()",
    )


@pytest.mark.parametrize(("state", "fault"), STATES.items())
def test_a_report_that_meets_this_sqlstate_is_rejected_for_now_and_the_same_one_succeeds_later(
    postgres_url: str, start_process: Callable[..., Process], state: str, fault: str
):
    process = start_process(postgres_url)
    process.put("run")
    fail_inserts_with(postgres_url, state)
    with pytest.raises(ANSWERS[fault]):
        process.report("run", 0, 0.5)
    failing = process.writer.failing
    administer(postgres_url, "DROP TRIGGER fail ON events")

    assert isinstance(process.report("run", 0, 0.5), Decision)
    assert (fault in ("lost", "unavailable", "damaged")) == (failing is not None)
    assert process.writer.failing is None


@pytest.mark.parametrize("state", ["22012", "42P01", "P0001"])
def test_another_sqlstate_is_the_error_of_the_action(postgres_url: str, start_process, state: str):
    process = start_process(postgres_url)
    process.put("run")
    fail_inserts_with(postgres_url, state)
    with pytest.raises(Exception, match="planted") as raised:
        process.report("run", 0, 0.5)

    assert "other" == classify_error(raised.value)
    assert process.writer.failing is None


def test_a_server_that_became_read_only_is_rejected_and_used_again_without_a_restart(
    postgres_url: str, start_process: Callable[..., Process]
):
    process = start_process(postgres_url)
    process.put("run")
    process.report("run", 0, 0.5)
    name = postgres_url.rpartition("/")[2]
    administer(postgres_url, f"ALTER DATABASE {name} SET default_transaction_read_only = on", kill_others(name))
    with pytest.raises(DatabaseUnavailable):
        process.report("run", 1, 0.5)
    with pytest.raises(DatabaseUnavailable):
        process.report("run", 1, 0.5)
    checks, failing = database_checks(process.reads), process.writer.failing
    # Only new connections find the server writable again: the pooled ones must have been replaced.
    administer(
        postgres_url,
        "SET default_transaction_read_only = off",
        f"ALTER DATABASE {name} RESET default_transaction_read_only",
    )

    assert isinstance(process.report("run", 1, 0.5), Decision)
    assert "read-only" in checks["database"]
    assert failing is not None
    assert {"database": "ok", "schema": "ok"} == database_checks(process.reads)


def test_connections_that_an_administrator_ends_cost_no_report(postgres_url: str, start_process):
    process = start_process(postgres_url)
    process.put("run")
    for epoch in range(5):
        administer(postgres_url, kill_others(postgres_url.rpartition("/")[2]))

        assert isinstance(process.report("run", epoch, 0.5), Decision)


def kill_others(name: str) -> str:
    return (
        f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}' AND pid <> pg_backend_pid()"
    )


def test_damage_that_is_found_while_serving_is_said_once_and_is_no_traceback(
    sqlite_url: str, start_process: Callable[..., Process], caplog: pytest.LogCaptureFixture
):
    process = start_process(sqlite_url)
    process.put("run")
    for epoch in range(200):
        process.report("run", epoch, 0.5)
    damage_pages(Path(sqlite_url.removeprefix("sqlite:///")), process)
    rejected = 0
    for epoch in range(200, 230):
        with suppress(DatabaseDamaged):
            process.report("run", epoch, 0.5)
            continue
        rejected += 1

    assert rejected > 1
    assert process.writer.failing is not None
    errors = [record for record in caplog.records if record.levelname == "ERROR"]
    assert 1 == sum("is damaged" in getattr(record, "detail", "") for record in errors)


def damage_pages(file: Path, process: Process) -> None:
    """Overwrite the inner pages of the file, with everything of the log in it."""
    process.ask(process.writer.submit(lambda tx: None))
    process.database.writes.dispose()
    with sqlite3.connect(file) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    size = file.stat().st_size
    with file.open("r+b") as opened:
        opened.seek(4096)
        opened.write(b"\xff" * (size - 4096))


@pytest.mark.parametrize(
    ("code", "fault"),
    [
        (sqlite3.SQLITE_CORRUPT, "damaged"),
        (sqlite3.SQLITE_CORRUPT | 1 << 8, "damaged"),
        (sqlite3.SQLITE_NOTADB, "damaged"),
    ],
)
def test_a_code_of_sqlite_is_classified_by_its_primary_code(code: int, fault: str):
    error = sqlite3.DatabaseError("planted")
    error.sqlite_errorcode = code  # type: ignore[misc]

    assert fault == faults._of_driver(error)
