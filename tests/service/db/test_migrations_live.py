"""Migrations of databases that are full, that are in use, and that are killed half-way."""

import hashlib
import random
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest
from alembic import command
from sqlalchemy import insert, select, text

from remotelr_service.db import migrate
from remotelr_service.db.engine import migration_engine, open_database, reading
from remotelr_service.db.schema_check import schema_mismatch, stored_revision
from remotelr_service.db.tables import events, runs
from support.fixtures.balancer import Balancer, Trainer, create_runs, is_ready
from support.fixtures.service import serving

# What an answer may take on a machine that has much else to do.
BUSY_S = 30.0
# Adds, as a release that others still serve beside may: columns that need no value, an index.
ADDITIVE = """
import time
import sqlalchemy as sa
from alembic import op

revision = "9999"
down_revision = "{head}"


def upgrade():
    op.add_column("runs", sa.Column("added", sa.Text))
    time.sleep({pause_s})
    op.add_column("events", sa.Column("added", sa.Text))
    op.create_index("ix_events_added", "events", ["added"])
    time.sleep({last_s})


def downgrade():
    op.drop_index("ix_events_added", "events")
    op.drop_column("events", "added")
    op.drop_column("runs", "added")
"""
ROWS = 10_000
RUNS = 100


def planted(folder: Path, pause_s: float = 0.0, last_s: float = 0.0) -> Path:
    """This release's migrations, and one more that adds."""
    here, there = migrate._folder(), folder / "migrations"
    (there / "versions").mkdir(parents=True, exist_ok=True)
    for file in (here / "env.py", *(here / "versions").glob("*.py")):
        (there / file.relative_to(here)).write_text(file.read_text())
    (there / "versions" / "9999_added.py").write_text(
        ADDITIVE.format(head=migrate.head(), pause_s=pause_s, last_s=last_s)
    )
    return there


def fill(url: str) -> None:
    """10,000 events of 100 runs, with rates of every kind of double."""
    database, now, rng = open_database(url), datetime.now(UTC), random.Random(1)
    run = {"tags": "{}", "spec": "{}", "state": '{"é": "\U0001f600"}', "status": "running", "attempt": 1}
    run |= dict.fromkeys(("policy_version", "rules_version", "decided_seq", "seq", "epoch"), 1)
    run |= {"created_at": now, "updated_at": now}
    event = {"kind": "report", "attempt": 1, "rank": 0, "reason": "plateau", "action": "continue", "created_at": now}
    with database.writes.begin() as connection:
        for number in range(RUNS):
            rate = rng.uniform(1e-308, 1e3)
            row = run | {"key": f"run-{number}", "learning_rate": rate}
            run_id = connection.execute(insert(runs).returning(runs.c.id), row).scalar_one()
            connection.execute(
                insert(events),
                [
                    event | {"run_id": run_id, "seq": seq + 1, "epoch": seq, "effective_from": seq + 1}
                    | {"payload": f'{{"val_loss": {rng.random()!r}}}', "learning_rate": rng.lognormvariate(-5, 3)}
                    for seq in range(ROWS // RUNS)
                ],
            )  # fmt: skip
    database.close()


def content(url: str) -> tuple[int, str]:
    """The number of rows in this release's tables, and a hash of their content."""
    database, count, sha = open_database(url), 0, hashlib.sha256()
    with reading(database.reads) as connection:
        for table in (runs, events):
            for row in connection.execute(select(table).order_by(*table.primary_key.columns)):
                sha.update(repr(tuple(row)).encode())
                count += 1
    database.close()
    return count, sha.hexdigest()


def test_up_and_down_and_up_again_every_row_is_as_it_was(database_url: str, tmp_path: Path):
    fill(database_url)
    before = content(database_url)
    settings = migrate.config(database_url, planted(tmp_path))
    seen = []
    for _ in range(2):
        migrate.apply(settings)
        seen.append(content(database_url))
        command.downgrade(settings, migrate.head())
        seen.append(content(database_url))

    assert before[0] == ROWS + RUNS
    assert [before] * 4 == seen


def test_a_migration_that_is_killed_leaves_nothing_behind(database_url: str, tmp_path: Path):
    fill(database_url)
    before, folder = content(database_url), planted(tmp_path, pause_s=0.4, last_s=60.0)
    code = "import sys; from remotelr_service.db import migrate as m; print(1, flush=True); from pathlib import Path; "
    code += "m.apply(m.config(sys.argv[1], Path(sys.argv[2])))"
    rng, revisions = random.Random(5), []
    for _ in range(5):
        process = subprocess.Popen([sys.executable, "-c", code, database_url, str(folder)], stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(rng.uniform(0.05, 0.9))
        process.kill()
        process.wait()
        process.stdout.close()
        revisions.append(migrate.current(database_url))
    migrate.apply(migrate.config(database_url, planted(tmp_path)))

    # The last of its two pauses comes before COMMIT: however late it was killed, nothing had happened yet.
    assert {migrate.head()} == set(revisions)
    assert ("9999", before) == (migrate.current(database_url), content(database_url))


def test_replicas_serve_on_while_the_tables_are_migrated(postgres_url: str, start_service, tmp_path: Path):
    """
    A reader holds a table for seconds; the migration needs its lock, and other queries would queue behind it.
    """
    replicas = [start_service(postgres_url, REMOTELR_LOG_LEVEL="warning") for _ in range(2)]
    for each in replicas:
        each.wait_ready()
    ending = threading.Event()
    with Balancer([each.url for each in replicas]) as balancer, psycopg.connect(plain(postgres_url)) as reader:
        trainers = [Trainer(f"run-{number}", balancer, ending) for number in range(16)]
        create_runs(replicas[0].url, [each.run_key for each in trainers])
        for each in trainers:
            each.start()
        time.sleep(0.5)
        reader.execute("SELECT count(*) FROM events")
        release = threading.Timer(1.5, reader.commit)
        release.start()
        began = time.monotonic()
        migrate.apply(migrate.config(postgres_url, planted(tmp_path)))
        took_s = time.monotonic() - began
        release.join()
        time.sleep(0.5)
        ready = [is_ready(each.url) for each in replicas]
        ending.set()
        for each in trainers:
            each.join()
    seen = sum((each.seen for each in trainers), Counter())
    stall_s = max(each.longest_s for each in trainers)
    print(f"migrated in {took_s:.2f} s, longest answer {stall_s:.2f} s: {dict(seen)}")

    assert "9999" == migrate.current(postgres_url)
    assert {"200"} == set(seen)
    assert [True, True] == ready
    assert took_s >= 1.0
    assert stall_s <= BUSY_S


def test_an_older_release_does_not_start_on_tables_of_a_newer_one(database_url: str, start_service, tmp_path: Path):
    migrate.apply(migrate.config(database_url, planted(tmp_path)))
    service = start_service(database_url)
    service.process.wait(90)

    assert 1 == service.process.returncode
    assert re.search(r"^remotelr: the database is at 9999, which this release does not know", service.log.read_text())


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("UPDATE alembic_version SET version_num = '0000'", "at 0000, this release needs"),
        ("DELETE FROM alembic_version", "at None, this release needs"),
        ("UPDATE alembic_version SET version_num = '9999'", None),
    ],
    ids=["behind", "none", "ahead"],
)
def test_readyz_reports_tables_that_change_while_the_service_runs(database_url: str, statement: str, said: str | None):
    with serving(database_url) as service:
        before = service.http.get("/readyz")
        execute(database_url, statement)
        after, alive = service.http.get("/readyz?verbose=true"), service.http.get("/livez")

    assert (200, 200) == (before.status_code, alive.status_code)
    assert (200 if said is None else 503) == after.status_code
    assert (said or "ok") in after.json()["checks"]["schema"]


def test_tables_that_a_newer_release_took_a_column_from_are_not_ready(database_url: str):
    database = open_database(database_url)
    at = stored_revision(database.reads)
    fits = schema_mismatch(database.reads, "9999")
    database.close()
    execute(database_url, "ALTER TABLE events RENAME COLUMN notes TO remarks")
    with serving(database_url) as service:
        execute(database_url, "UPDATE alembic_version SET version_num = '9999'")
        after = service.http.get("/readyz?verbose=true")

    assert (migrate.head(), None) == (at, fits)
    assert (503, "at 9999, where this release misses events.notes") == (
        after.status_code,
        after.json()["checks"]["schema"],
    )


def test_the_command_line_keeps_off_a_file_that_a_service_has(sqlite_url: str, tmp_path: Path):
    with serving(sqlite_url):
        command_line = [sys.executable, "-m", "remotelr_service", "db", "upgrade", "--database-url", sqlite_url]
        done = subprocess.run(command_line, capture_output=True, text=True, check=False, cwd=tmp_path)

    assert 1 == done.returncode
    assert re.match(r"remotelr: another service process \(\d+\) uses .*; stop it", done.stderr)


def execute(url: str, statement: str) -> None:
    engine = migration_engine(url)
    with engine.begin() as connection:
        connection.execute(text(statement))
    engine.dispose()


def plain(url: str) -> str:
    return url.replace("+psycopg", "")
