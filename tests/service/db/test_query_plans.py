"""Queries of trainers and lists use an index, so their cost does not depend on the number of rows.

On SQLite, whose planner ignores the number of rows; PostgreSQL's does not, so benchmarks/growth.py measures it.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import Engine, event

from remotelr.rules import Command
from remotelr_service.db import driver
from remotelr_service.db.engine import reading
from remotelr_service.db.queries import feed, stalls
from remotelr_service.features.bulk import bulk
from remotelr_service.features.bulk.executor import BulkExecutor
from remotelr_service.features.bulk.selector import Bound, Selector
from remotelr_service.features.commands import commands
from remotelr_service.features.runs import history, runs
from remotelr_service.features.training import decisions, override_expiry
from support.fixtures.processes import Process

READ_THROUGH = "runs|events|earlier|of_run|bulk_commands|bulk_results|run_tags\\w*"
COSTLY = re.compile(rf"SCAN ({READ_THROUGH})\b(?! USING (COVERING )?INDEX)|TEMP B-TREE")

Ask = Callable[[Process], Any]


@pytest.fixture
def process(start_process: Callable[..., Process], sqlite_url: str) -> Process:
    process = start_process(sqlite_url)
    process.put("run", world_size=2)
    process.put("other")
    process.attempt("run", "first", 0)
    process.train("run", [1.0, 0.9, 0.8])
    return process


MEASURED = Selector(experiment="vision", metrics={"val_loss": Bound(gt=0.0)})


def ordered(process: Process) -> int:
    """The number of a command to many."""
    stop = Command(type="stop", key="once")
    return process.ask(bulk.create_bulk(process.writer, process.reads, Selector(runs=("run",)), stop))[0].id


@contextmanager
def statements_of(*engines: Engine) -> Iterator[list[tuple[str, Any]]]:
    """The statements executed within the block, with their parameters."""
    seen: list[tuple[str, Any]] = []
    to_driver = pytest.MonkeyPatch()
    for name in ("fetch", "execute", "execute_many"):
        to_driver.setattr(driver, name, _noted(getattr(driver, name), seen))

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, _context: Any, many: bool) -> None:
        seen.append((statement, parameters[0] if many else parameters))

    for engine in engines:
        event.listen(engine, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        to_driver.undo()
        for engine in engines:
            event.remove(engine, "before_cursor_execute", note)


def _noted(said: Callable[..., Any], seen: list[tuple[str, Any]]) -> Callable[..., Any]:
    def note(connection: Any, statement: str, parameters: Any = ()) -> Any:
        seen.append((statement, parameters[0] if said.__name__ == "execute_many" else parameters))
        return said(connection, statement, parameters)

    return note


def plans(process: Process, ask: Ask) -> list[str]:
    """How SQLite finds what `ask` reads and writes."""
    with statements_of(process.database.reads, process.database.writes) as statements:
        ask(process)
    with process.database.reads.connect() as connection:
        return [
            f"{row[3]} ← {statement}"
            for statement, given in statements
            if statement.split()[0] in ("SELECT", "UPDATE", "INSERT", "DELETE")
            for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", given)
        ]


@pytest.mark.parametrize(
    "ask",
    [
        lambda process: process.report("run", 3, 0.7),
        lambda process: process.report("run", 1, 0.9),
        lambda process: process.report("run", 1, 0.5, rank=1),
        lambda process: process.attempt("run", "second", 2),
        lambda process: process.attempt("run", "first", 0),
        lambda process: process.command("run", "scale", 0.5, key="once"),
        lambda process: commands.list_commands(process.reads, "run", after=2, limit=10),
        lambda process: bulk.dry_run(process.reads, MEASURED, Command(type="stop")),
        lambda process: bulk.get_bulk(process.reads, ordered(process), after=1, limit=10),
        lambda process: process.ask(override_expiry.expire_due_overrides(process.writer, process.reads)),
        lambda process: process.ask(BulkExecutor(process.writer, process.reads).take_abandoned()),
        lambda process: decisions.get_decision(process.reads, "run"),
        lambda process: history.history(process.reads, "run", 2, 10),
        lambda process: history.events(process.reads, "run", 2, 10),
        lambda process: runs.get_run(process.reads, "run"),
        lambda process: runs.list_runs(process.reads, after="other", limit=10),
        lambda process: runs.list_runs(process.reads, status="completed", limit=10),
        lambda process: runs.list_runs(process.reads, tag=("team", "vision"), after="other", limit=10),
        lambda process: runs.list_runs(process.reads, tag=("team", "vision"), status="running", limit=10),
        lambda process: runs.list_runs(process.reads, experiment="vision", status="running", after="other", limit=10),
    ],
    ids=[
        "a report",
        "a repeated report",
        "a late rank",
        "a new attempt",
        "a repeated attempt",
        "a command",
        "the commands of a run",
        "the runs of an experiment by what they last measured",
        "what came of a command to many",
        "expired overrides",
        "abandoned commands",
        "the decision in force",
        "a page of the history",
        "a page of the log",
        "a run",
        "a page of the runs",
        "the runs of a status",
        "the runs of a tag",
        "the runs of a tag and a status",
        "the runs of an experiment",
    ],
)
def test_no_query_has_a_costly_plan(process: Process, ask: Ask):
    found = plans(process, ask)

    assert found
    assert [] == [plan for plan in found if COSTLY.search(plan)]


@pytest.mark.parametrize(
    ("question", "by"),
    [
        (lambda connection: feed.list_feed(connection, feed.Cursor(3, ((2, 2),)), 10), "ix_events_position"),
        (lambda connection: feed.list_run_entries(connection, {1: (2, 0)}, 10), "run_id=? AND seq>?"),
        (lambda connection: feed.list_run_entries(connection, {1: (2, 0), 2: (0, 1)}, 10), "run_id=? AND seq>?"),
        (lambda connection: stalls.list_quiet(connection, 30.0, None, among=10), "ix_runs_status_key"),
        (lambda connection: stalls.pace_of(connection, 1), "run_id=?"),
    ],
    ids=["all that is new", "what is new of a run", "what is new of some runs", "the quiet runs", "the pace of a run"],
)
def test_streams_and_stall_checks_use_their_indexes(process: Process, question: Any, by: str):
    def ask(process: Process) -> None:
        with reading(process.reads) as connection:
            question(connection)

    found = plans(process, ask)

    assert any(by in plan for plan in found), found
    assert [] == [plan for plan in found if re.search(r"SCAN (runs|events|stalls)\b(?! USING INDEX)", plan)]


def test_the_runs_of_a_status_are_found_without_the_others(process: Process):
    found = plans(process, lambda process: runs.list_runs(process.reads, status="failed", limit=10))

    assert any("ix_runs_status_key" in plan for plan in found)


def test_the_runs_of_a_tag_are_found_without_the_others(process: Process):
    found = plans(process, lambda process: runs.list_runs(process.reads, tag=("team", "vision"), limit=10))

    assert "(name=? AND value=?)" in found[0]
    assert "SEARCH runs USING INTEGER PRIMARY KEY" in found[1]
