"""Engines: URLs, settings of connections, and the exclusion of a second process."""

import os
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError
from typing_extensions import override

from remotelr_service.db import migrate, sqlite_file
from remotelr_service.db.engine import open_database, parse_url, reading
from remotelr_service.errors import DatabaseDamaged, DatabaseInUse, DatabaseUnavailable, InvalidDatabaseUrl
from support.fixtures.processes import Process


@pytest.mark.parametrize(
    ("url", "password", "host", "database"),
    [
        ("postgres://user:word@host/name", "word", "host", "name"),
        ("postgresql://user:word@host:5432/name", "word", "host", "name"),
        ("postgresql+psycopg://user:word@host/name", "word", "host", "name"),
        ("postgresql://user:p@ss@host/name", "p@ss", "host", "name"),
        ("postgresql://user:100%@host/name", "100%", "host", "name"),
        ("postgresql://user:p%40ss%2F@host/name", "p@ss/", "host", "name"),
        ("postgresql://user:two words@host/my name", "two words", "host", "my name"),
        ("postgresql://host/name", None, "host", "name"),
        ("sqlite:///my folder/100%.db", None, None, "my folder/100%.db"),
    ],
)
def test_a_database_url_gives_the_place_of_the_database(url, password, host, database):
    parsed = parse_url(url)

    assert (password, host, database) == (parsed.password, parsed.host, parsed.database)


@pytest.mark.parametrize("url", ["mysql://host/name", "sqlite://", "sqlite:///:memory:", "postgresql", "", "a b c"])
def test_a_url_that_names_no_database_of_ours_is_refused(url):
    with pytest.raises(InvalidDatabaseUrl):
        parse_url(url)


def test_a_connection_that_is_read_from_while_its_database_is_closed_is_closed_after(database_url: str):
    database = open_database(database_url)
    with reading(database.reads) as connection:
        driven = connection.connection.driver_connection
        database.close()
        assert 1 == connection.scalar(text("SELECT 1"))

    with pytest.raises(Exception, match="closed"):
        driven.execute("SELECT 1")


def test_the_error_of_an_invalid_url_does_not_contain_its_password():
    with pytest.raises(InvalidDatabaseUrl) as refusal:
        parse_url("mysql://user:secret@host/name")

    assert "secret" not in str(refusal.value)


def test_a_new_sqlite_file_in_a_folder_with_a_difficult_name_is_ours_alone(tmp_path: Path):
    file = tmp_path / "a folder with 100%" / "remotelr.db"
    file.parent.mkdir()
    migrate.upgrade(f"sqlite:///{file}")

    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_second_process_on_the_same_sqlite_file_is_refused(sqlite_url: str):
    database = open_database(sqlite_url)
    second = "import sys; from remotelr_service.db.engine import open_database; open_database(sys.argv[1])"
    done = subprocess.run([sys.executable, "-c", second, sqlite_url], capture_output=True, text=True, check=False)
    database.close()

    assert done.returncode != 0
    assert f"another service process ({os.getpid()}) uses" in done.stderr


def test_a_sqlite_file_is_free_again_when_its_process_is_gone(sqlite_url: str):
    open_database(sqlite_url).close()
    open_database(sqlite_url).close()


def test_a_sqlite_file_in_use_is_not_reported_as_damaged(sqlite_url: str):
    database = open_database(sqlite_url)
    with pytest.raises(DatabaseInUse):
        open_database(sqlite_url)
    database.close()


@pytest.mark.parametrize("offset", [0, 8192])
def test_a_damaged_sqlite_file_is_refused_and_left_as_it_is(sqlite_url: str, offset: int):
    """
    F31: a service on a fresh file would begin every run anew, with the wrong rate.
    """
    file = Path(sqlite_url.removeprefix("sqlite:///"))
    content = bytearray(file.read_bytes())
    content[offset : offset + 4096] = b"\xff" * 4096
    file.write_bytes(content)
    with pytest.raises(DatabaseDamaged, match="restore the last backup"):
        open_database(sqlite_url)

    assert content == file.read_bytes()


class Endless(sqlite3.Connection):
    """A connection to a file so big that it is never checked to its end."""

    @override
    def execute(self, statement: str, *given: Any) -> sqlite3.Cursor:
        endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
        return super().execute(endless if "quick_check" in statement else statement, *given)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("limit_s", [0.0, 0.1])
def test_a_sqlite_file_is_checked_no_longer_than_a_start_may_take(
    sqlite_url: str, limit_s: float, monkeypatch: pytest.MonkeyPatch
):
    connect = sqlite3.connect
    monkeypatch.setattr(sqlite_file, "CHECK_LIMIT_S", limit_s)
    monkeypatch.setattr(sqlite3, "connect", lambda *given, **named: connect(*given, **{"factory": Endless, **named}))

    open_database(sqlite_url).close()


def test_a_file_of_something_else_is_not_migrated(tmp_path: Path):
    file = tmp_path / "notes.txt"
    file.write_text("these are my notes " * 500)
    with pytest.raises(DatabaseDamaged):
        migrate.upgrade(f"sqlite:///{file}")

    assert file.read_text() == "these are my notes " * 500


def test_every_write_to_sqlite_is_on_disk_before_its_commit_returns(sqlite_url: str):
    database = open_database(sqlite_url)
    with database.writes.begin() as connection:
        found = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout", "journal_size_limit")
        }
    database.close()

    assert found == {
        "journal_mode": "wal",
        "synchronous": 2,
        "foreign_keys": 1,
        "busy_timeout": 5000,
        "journal_size_limit": 64 * 1024 * 1024,
    }


def test_a_reader_of_sqlite_can_neither_write_nor_checkpoint(sqlite_url: str):
    database = open_database(sqlite_url)
    with database.reads.begin() as connection:
        limit = connection.exec_driver_sql("PRAGMA wal_autocheckpoint").scalar()
        with pytest.raises(OperationalError, match="readonly"):
            connection.exec_driver_sql("DELETE FROM runs")
    database.close()

    assert limit == 0


def test_a_write_to_sqlite_has_the_write_lock_from_its_beginning(sqlite_url: str):
    """
    A lock taken at the first write fails at once if another connection wrote since the first read.
    """
    database = open_database(sqlite_url)
    other = sqlite3.connect(database.writes.url.database or "", timeout=0)
    with database.writes.begin(), pytest.raises(sqlite3.OperationalError, match="locked"):
        other.execute("BEGIN IMMEDIATE")
    other.close()
    database.close()


def test_sqlite_takes_no_value_of_another_type(sqlite_url: str):
    database = open_database(sqlite_url)
    with database.writes.begin() as connection:
        tables = connection.exec_driver_sql("SELECT name, strict FROM pragma_table_list WHERE schema = 'main'").all()
    database.close()

    assert {("runs", 1), ("events", 1)} <= {tuple(row) for row in tables}


def test_no_transaction_on_postgresql_waits_without_end(postgres_url: str):
    database = open_database(postgres_url)
    with database.reads.begin() as connection:
        found = {
            name: connection.exec_driver_sql(f"SHOW {name}").scalar()
            for name in (
                "lock_timeout",
                "statement_timeout",
                "idle_in_transaction_session_timeout",
                "transaction_isolation",
                "synchronous_commit",
            )
        }
    database.close()

    assert found == {
        "lock_timeout": "300ms",
        "statement_timeout": "2s",
        "idle_in_transaction_session_timeout": "5s",
        "transaction_isolation": "read committed",
        "synchronous_commit": "on",
    }


def test_nothing_on_postgresql_outlives_its_transaction(postgres_url: str, start_process: Callable[..., Process]):
    """
    Behind PgBouncer's transaction mode the next transaction has another server connection, and another
    client has this one: no prepared statements, no settings.
    """
    process = start_process(postgres_url)
    process.put("run")
    process.train("run", [1.0] * 20)
    raw = process.database.writes.raw_connection()
    cursor = raw.cursor()
    cursor.execute("SELECT count(*) FROM pg_prepared_statements")
    prepared = cursor.fetchone()
    cursor.execute("SELECT setting FROM pg_settings WHERE name IN ('lock_timeout', 'statement_timeout')")
    timeouts = cursor.fetchall()
    raw.close()

    assert prepared == (0,)
    assert timeouts == [("0",), ("0",)]


def test_a_database_that_cannot_be_reached_is_said_to_be_away():
    database = open_database("postgresql://user:word@127.0.0.1:1/name")
    with pytest.raises(DatabaseUnavailable), reading(database.reads) as connection:
        connection.execute(text("SELECT 1"))
    database.close()


@pytest.mark.parametrize(
    ("url", "hosts", "ports"),
    [
        ("postgresql://u@h1:5433,h2:5434/d?target_session_attrs=read-write", "h1,h2", "5433,5434"),
        ("postgres://u:p@ss@h1,h2:1/d", "h1,h2", "5432,1"),
        ("postgresql+psycopg://h1,h2/d", "h1,h2", "5432,5432"),
        ("postgresql://u@[::1]:5,h2/d", "::1,h2", "5,5432"),
    ],
)
def test_several_hosts_are_written_as_libpq_has_them(url: str, hosts: str, ports: str):
    parsed = parse_url(url)
    _, arguments = parsed.get_dialect()().create_connect_args(parsed)

    assert (hosts, ports, "d") == (arguments["host"], arguments["port"], arguments["dbname"])
    assert parsed.query.get("target_session_attrs") == arguments.get("target_session_attrs")


def test_a_host_that_does_not_answer_is_passed_over_for_the_next(postgres_url: str):
    """Migrations, readers and the writer; `live` connects by the same arguments."""
    account, _, server = postgres_url.rpartition("@")
    several = f"{account}@127.0.0.1:1,{server}?target_session_attrs=read-write"
    migrate.upgrade(several)
    database = open_database(several)
    with reading(database.reads) as connection:
        assert 1 == connection.scalar(text("SELECT 1"))
    with database.writes.begin() as connection:
        assert "off" == connection.scalar(text("SELECT current_setting('transaction_read_only')"))

    database.close()
