"""Migration 0002 with rows in all it touches: what was there stays, and what was only a word becomes a row."""

from typing import Any

from alembic import command
from sqlalchemy import Connection, text

from remotelr_service.db import migrate
from remotelr_service.db.engine import migration_engine

NOW = "2026-11-21T15:00:00.000000+00:00"
RUN = (
    "INSERT INTO runs (key, experiment, tags, spec, policy_version, rules_version, seq, attempt, epoch, learning_rate, "
    "state, decided_seq, status, created_at, updated_at) "
    f"SELECT %s, %s, '{{}}', '{{}}', 1, 1, 1, 0, 0, 0.1, '{{}}', 1, 'running', '{NOW}', '{NOW}'"
)
EVENT = (
    "INSERT INTO events (run_id, seq, kind, attempt, holds_from, payload, learning_rate, reason, action, created_at) "
    f"SELECT id, 1, 'created', 0, 0, '{{}}', 0.1, 'start', 'continue', '{NOW}' FROM runs WHERE key = 'a'"
)
BULK = (
    "INSERT INTO bulk_commands (id, selector, command, runs, count, worked_at, created_at) "
    f"VALUES (1, '{{}}', '{{}}', '[\"a\"]', 1, '{NOW}', '{NOW}')"
)
RESULT = "INSERT INTO bulk_results (bulk_id, place, run, seq) VALUES (1, 0, 'a', 2)"
OLD = "SELECT r.key, r.experiment, e.seq, e.learning_rate FROM runs r LEFT JOIN events e ON e.run_id = r.id ORDER BY 1"


def test_up_and_down_and_up_again_with_rows_everywhere(empty_database_url: str):
    settings = migrate.config(empty_database_url)
    command.upgrade(settings, "0001")
    for run in ("'a', 'digits'", "'b', 'digits'", "'c', NULL"):
        execute(empty_database_url, RUN.replace("%s, %s", run))
    execute(empty_database_url, EVENT)
    before = execute(empty_database_url, OLD)
    seen = []
    for _ in range(2):
        command.upgrade(settings, "0002")
        seen.append((execute(empty_database_url, OLD), execute(empty_database_url, "SELECT name FROM experiments")))
        execute(empty_database_url, "UPDATE events SET why = '{}'")
        execute(empty_database_url, f"UPDATE runs SET release_at = '{NOW}'")
        execute(empty_database_url, BULK)
        execute(empty_database_url, RESULT)
        command.downgrade(settings, "0001")
        seen.append((execute(empty_database_url, OLD), [("digits",)]))

    assert [(before, [("digits",)])] * 4 == seen
    assert 3 == len(before)


def execute(url: str, statement: str) -> list[Any]:
    engine = migration_engine(url)
    try:
        with engine.begin() as connection:
            return rows(connection, statement)
    finally:
        engine.dispose()


def rows(connection: Connection, statement: str) -> list[Any]:
    result = connection.execute(text(statement.replace(":", "\\:")))
    return [tuple(row) for row in result] if result.returns_rows else []
