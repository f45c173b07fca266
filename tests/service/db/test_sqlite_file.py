"""The SQLite file is used by one process, under whatever name, is RemoteLR's own, and stays the file it was."""

import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from remotelr.rules import Decision
from remotelr_service.db import sqlite_file
from remotelr_service.db.engine import open_database
from remotelr_service.errors import DatabaseInUse, DatabaseUnavailable, InvalidDatabaseUrl
from remotelr_service.features.health.checks import database_checks
from support.fixtures.processes import Process


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_a_file_that_another_process_uses_under_another_name_is_refused(
    sqlite_url: str, tmp_path: Path, start_process: Callable[..., Process], link: Callable[..., None]
):
    start_process(sqlite_url)
    link(sqlite_url.removeprefix("sqlite:///"), tmp_path / "other.db")
    with pytest.raises(DatabaseInUse):
        open_database(f"sqlite:///{tmp_path / 'other.db'}")


def test_a_file_that_was_closed_can_be_used_again(sqlite_url: str):
    for _ in range(2):
        open_database(sqlite_url).close()


def test_a_report_into_a_file_that_was_removed_is_not_acknowledged(
    sqlite_url: str, start_process: Callable[..., Process]
):
    process = start_process(sqlite_url)
    process.put("run")
    process.report("run", 0, 0.5)
    Path(sqlite_url.removeprefix("sqlite:///")).unlink()

    with pytest.raises(DatabaseUnavailable, match="was removed or replaced"):
        process.report("run", 1, 0.5)
    assert "was removed or replaced" in database_checks(process.reads)["database"]
    assert process.writer.failing is not None


def test_a_file_that_was_replaced_is_not_written_and_one_that_is_back_is(
    sqlite_url: str, start_process: Callable[..., Process]
):
    process = start_process(sqlite_url)
    process.put("run")
    process.report("run", 0, 0.5)
    file = Path(sqlite_url.removeprefix("sqlite:///"))
    moved = file.rename(file.with_name("moved.db"))
    shutil.copy(moved, file)
    with pytest.raises(DatabaseUnavailable, match="was removed or replaced"):
        process.report("run", 1, 0.5)
    moved.replace(file)

    assert isinstance(process.report("run", 1, 0.5), Decision)


def test_a_file_of_another_application_is_refused_and_not_changed(tmp_path: Path):
    file = tmp_path / "contacts.db"
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("CREATE TABLE contacts (name TEXT)")
        connection.commit()
    before = file.read_bytes()
    with pytest.raises(InvalidDatabaseUrl, match="the tables of another application \\(contacts\\)"):
        open_database(f"sqlite:///{file}")

    assert before == file.read_bytes()


def test_a_file_of_another_application_is_refused_however_large_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Its quick check is cut off at once, and has found nothing."""
    monkeypatch.setattr(sqlite_file, "CHECK_LIMIT_S", 0.0)
    file = tmp_path / "contacts.db"
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("CREATE TABLE contacts (name TEXT)")
        connection.executemany("INSERT INTO contacts VALUES (?)", [("x" * 1_000,)] * 50_000)
        connection.commit()
    with pytest.raises(InvalidDatabaseUrl, match="another application"):
        open_database(f"sqlite:///{file}")
