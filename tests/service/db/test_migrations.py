"""Migrations: safe to start at once, safe to fail, and equal to the tables in the code."""

import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import inspect, text

from remotelr_service.db import migrate
from remotelr_service.db.engine import migration_engine, open_database, reading
from remotelr_service.db.tables import events, runs
from remotelr_service.errors import SchemaOutdated

# Adds a table and a column, then fails; `mended` is the same with the fault taken out.
BROKEN = """
import sqlalchemy as sa
from alembic import op

revision = "9999"
down_revision = "{head}"


def upgrade():
    op.create_table("half_way", sa.Column("id", sa.Integer))
    op.add_column("runs", sa.Column("half_way", sa.Text))
    {fault}


def downgrade():
    op.drop_column("runs", "half_way")
    op.drop_table("half_way")
"""


def test_the_migrations_make_the_tables_of_the_code(database_url: str):
    command.check(migrate.config(database_url))


def test_there_is_one_newest_migration():
    assert len(ScriptDirectory.from_config(migrate.config("sqlite:///unused")).get_heads()) == 1


def test_an_empty_database_is_brought_to_this_release(empty_database_url: str):
    migrate.upgrade(empty_database_url)

    assert migrate.head() == migrate.current(empty_database_url)


def test_three_processes_may_migrate_at_once(empty_database_url: str):
    upgrade = "import sys; from remotelr_service.db.migrate import upgrade; upgrade(sys.argv[1])"
    started = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", upgrade, empty_database_url], stderr=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    ended = [(process.communicate()[1], process.returncode) for process in started]

    assert ended == [("", 0)] * 3
    assert migrate.head() == migrate.current(empty_database_url)


def test_a_migration_waits_for_a_process_that_creates_the_same_sqlite_file(empty_sqlite_url: str):
    """
    SQLite does not wait there: setting the journal mode of a file that another process writes fails at once.
    """
    file = empty_sqlite_url.removeprefix("sqlite:///")
    with (
        closing(sqlite3.connect(file, isolation_level=None, check_same_thread=False)) as other,
        closing(sqlite3.connect(file)) as another,
    ):
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(sqlite3.OperationalError, match="database is locked"):
            another.execute("PRAGMA journal_mode = WAL")
        release = threading.Timer(1.0, other.execute, ["ROLLBACK"])
        release.start()
        migrate.upgrade(empty_sqlite_url)
        release.join()

    assert migrate.head() == migrate.current(empty_sqlite_url)


def test_a_migration_that_fails_half_way_leaves_nothing_and_can_be_tried_again(database_url: str, tmp_path: Path):
    at = migrate.current(database_url)
    planted = plant(tmp_path, fault='raise RuntimeError("planted")')
    with pytest.raises(RuntimeError, match="planted"):
        command.upgrade(migrate.config(database_url, planted), "head")
    after_failure = (migrate.current(database_url), columns(database_url))
    command.upgrade(migrate.config(database_url, plant(tmp_path, fault="pass")), "head")

    assert (at, {"runs": False, "half_way": False}) == after_failure
    assert ("9999", {"runs": True, "half_way": True}) == (migrate.current(database_url), columns(database_url))


def test_the_tables_can_be_taken_down_and_made_again(database_url: str):
    """
    With rows in them: a downgrade that only works on empty tables is none.
    """
    settings = migrate.config(database_url)
    for _ in range(2):
        fill(database_url)
        command.downgrade(settings, "base")
        assert migrate.current(database_url) is None
        command.upgrade(settings, "head")

    command.check(settings)


def test_a_database_of_a_newer_release_is_refused(database_url: str, tmp_path: Path):
    command.upgrade(migrate.config(database_url, plant(tmp_path, fault="pass")), "head")
    for refusing in (migrate.upgrade, migrate.check):
        with pytest.raises(SchemaOutdated, match="made by a newer release"):
            refusing(database_url)


def test_an_outdated_database_is_refused_with_the_command_to_run(empty_database_url: str):
    with pytest.raises(SchemaOutdated, match="run `remotelr db upgrade`"):
        migrate.check(empty_database_url)


def test_a_database_of_this_release_is_not_touched_again(database_url: str):
    migrate.check(database_url)
    migrate.upgrade(database_url)

    assert migrate.head() == migrate.current(database_url)


def test_an_unknown_revision_is_not_guessed_at(database_url: str):
    with pytest.raises(CommandError):
        command.upgrade(migrate.config(database_url), "no such revision")


def plant(folder: Path, fault: str) -> Path:
    """This release's migrations with one more behind them."""
    here = migrate._folder()
    planted = folder / "migrations"
    (planted / "versions").mkdir(parents=True, exist_ok=True)
    for file in (here / "env.py", *sorted((here / "versions").glob("*.py"))):
        (planted / file.relative_to(here)).write_text(file.read_text())
    (planted / "versions" / "9999_planted.py").write_text(BROKEN.format(head=migrate.head(), fault=fault))
    return planted


def columns(url: str) -> dict[str, bool]:
    """What of the planted migration is there."""
    engine = migration_engine(url)
    with engine.begin() as connection:
        inspector = inspect(connection)
        found = {
            "runs": "half_way" in {column["name"] for column in inspector.get_columns("runs")},
            "half_way": inspector.has_table("half_way"),
        }
    engine.dispose()
    return found


def fill(url: str) -> None:
    database = open_database(url)
    with database.writes.begin() as connection:
        row = {"key": "run", "tags": "{}", "spec": "{}", "state": "{}", "status": "running"}
        numbers: dict[str, Any] = dict.fromkeys(("policy_version", "rules_version", "seq", "decided_seq"), 1)
        now = datetime.now(UTC)
        zeros = {"attempt": 0, "epoch": 0, "learning_rate": 0.1, "created_at": now, "updated_at": now}
        run_id = connection.execute(runs.insert().returning(runs.c.id), row | numbers | zeros).scalar_one()
        event = {"run_id": run_id, "seq": 1, "kind": "created", "attempt": 0, "effective_from": 0, "payload": "{}"}
        connection.execute(events.insert(), event | {"created_at": now})
    with reading(database.reads) as connection:
        assert connection.execute(text("SELECT count(*) FROM events")).scalar() == 1
    database.close()
