"""`remotelr db prune`: deletes old finished runs whole, and can be interrupted."""

import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta

import pytest
from sqlalchemy import text

from remotelr.rules import Command
from remotelr_service.errors import DatabaseUnavailable
from remotelr_service.features.bulk import bulk
from remotelr_service.features.bulk.selector import Selector
from remotelr_service.features.runs import pruning, runs
from remotelr_service.features.runs.pruning import PruneFilter
from remotelr_service.http.auth import audit
from support.fixtures.processes import Process

LONG_AGO = timedelta(days=30)
STALE = PruneFilter(age=timedelta(days=7))
EVERY = Selector(status="running")


def ended(process: Process, *keys: str, ago: timedelta = LONG_AGO) -> None:
    """Runs that were trained, and ended so long ago."""
    for key in keys:
        process.put(key)
        process.train(key, [1.0, 0.9])
        process.finish(key, "completed")
        age(process, key, ago)


def age(process: Process, key: str, ago: timedelta) -> None:
    def action(tx) -> None:
        then = tx.now - ago
        at = then if process.reads.dialect.name == "postgresql" else then.isoformat(timespec="microseconds")
        tx._connection.execute(text("UPDATE runs SET updated_at = :at WHERE key = :key"), {"at": at, "key": key})

    process.ask(process.writer.submit(action))


def prune(process: Process, stale: PruneFilter = STALE) -> list[str]:
    async def all_of_it() -> list[str]:
        return [key async for keys in pruning.prune(process.writer, process.reads, stale, by="test") for key in keys]

    return process.ask(all_of_it())


def left(process: Process) -> list[str]:
    return [view.run.key for view in runs.list_runs(process.reads).runs]


def counted(process: Process, table: str) -> int:
    with process.reads.connect() as connection:
        found: int = connection.execute(text(f"SELECT count(*) FROM {table}")).scalar_one()
        return found


def test_prune_deletes_only_old_finished_runs_with_their_events(process: Process):
    ended(process, "old-1", "old-2")
    ended(process, "new", ago=timedelta(days=1))
    process.put("running")
    process.train("running", [1.0])
    age(process, "running", LONG_AGO)
    named = pruning.list_stale(process.reads, STALE)
    gone = prune(process)

    assert ["old-1", "old-2"] == named == gone
    assert ["new", "running"] == left(process)
    assert len(process.events("new")) + len(process.events("running")) == counted(process, "events")
    assert process.replayed("new") == process.stored_run("new")
    assert [] == prune(process)


def test_more_than_fit_a_transaction_go_in_several(process: Process, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pruning, "BATCH_SIZE", 2)
    monkeypatch.setattr(pruning.list_stale, "__defaults__", (None, 2))
    ended(process, *(f"run-{number}" for number in range(5)))

    assert [f"run-{number}" for number in range(5)] == prune(process)
    assert [] == left(process)


def test_a_run_that_begins_again_during_a_prune_is_not_deleted(process: Process, monkeypatch: pytest.MonkeyPatch):
    ended(process, "gone", "resumed")
    looked_for = iter([pruning.list_stale(process.reads, STALE), []])
    process.attempt("resumed", "another attempt", 2)
    monkeypatch.setattr(pruning, "list_stale", lambda *_: next(looked_for))

    assert ["gone"] == prune(process)
    assert ["resumed"] == left(process)


def test_an_interrupted_prune_can_be_started_again(
    process: Process, monkeypatch: pytest.MonkeyPatch, start_process: Callable[..., Process]
):
    """
    The second transaction fails when some of its runs are gone already: none of them is.
    """
    monkeypatch.setattr(pruning.list_stale, "__defaults__", (None, 2))
    ended(process, *(f"run-{number}" for number in range(4)))
    right, seen = pruning.audit.note_deletion, []

    def fail_late(tx, stored, by) -> None:
        seen.append(stored.run.key)
        if len(seen) > 3:
            raise DatabaseUnavailable("gone")
        right(tx, stored, by)

    monkeypatch.setattr(pruning.audit, "note_deletion", fail_late)
    with pytest.raises(DatabaseUnavailable):
        prune(process)
    after = left(process)
    monkeypatch.setattr(pruning.audit, "note_deletion", right)
    again = prune(process)

    assert ["run-2", "run-3"] == after == again
    assert 0 == counted(process, "events")


def commanded(process: Process, ago: timedelta) -> int:
    """The number of a command to all runs, that was finished so long ago."""
    noted, _ = process.ask(bulk.create_bulk(process.writer, process.reads, EVERY, Command(type="scale", factor=0.5)))
    process.ask(bulk.execute_bulk(process.writer, process.reads, noted.id))

    def action(tx) -> None:
        then = tx.now - ago
        at = then if process.reads.dialect.name == "postgresql" else then.isoformat(timespec="microseconds")
        set_at = text("UPDATE bulk_commands SET finished_at = :at WHERE id = :id")
        tx._connection.execute(set_at, {"at": at, "id": noted.id})

    process.ask(process.writer.submit(action))
    return noted.id


def prune_bulk(process: Process, stale: PruneFilter = STALE) -> list[int]:
    async def all_of_it() -> list[int]:
        return [each async for each in pruning.prune_bulk(process.writer, process.reads, stale, by="test")]

    return process.ask(all_of_it())


def test_prune_deletes_bulk_results_but_not_their_effects(process: Process):
    process.put("run")
    old, new = commanded(process, LONG_AGO), commanded(process, timedelta(days=1))
    unfinished, _ = process.ask(bulk.create_bulk(process.writer, process.reads, EVERY, Command(type="stop")))
    of_an_experiment = prune_bulk(process, PruneFilter(age=STALE.age, experiment="digits"))
    gone = prune_bulk(process)

    assert ([], [old], []) == (of_an_experiment, gone, prune_bulk(process))
    assert (2, 1) == (counted(process, "bulk_commands"), counted(process, "bulk_results"))
    assert [new, unfinished.id] == [bulk.get_bulk(process.reads, each).bulk.id for each in (new, unfinished.id)]
    assert ["scale", "scale"] == [event.payload["type"] for event in process.events("run") if event.kind == "command"]
    entries, _ = audit.list_audit(process.reads)
    assert [("bulk_command_deleted", str(old), "test", 1)] == [
        (entry.action, entry.subject, entry.actor, entry.details["runs"]) for entry in entries
    ]


def test_db_prune_prints_the_deleted_runs_and_a_dry_run_deletes_none(process: Process):
    ended(process, "old")
    process.put("running")
    commanded(process, LONG_AGO)
    process.close()
    command = [sys.executable, "-m", "remotelr_service", "db", "prune", "--older-than-days", "7"]
    dry_run, first, second = [
        subprocess.run([*command, "--database-url", process.url, *more], capture_output=True, text=True, check=True)
        for more in (["--dry-run"], [], [])
    ]

    assert ("old\n", ["1 bulk commands would be deleted", "1 runs would be deleted"]) == _output(dry_run)
    assert ("old\n", ["1 bulk commands deleted", "1 runs deleted"]) == _output(first)
    assert ("", ["0 runs deleted"]) == _output(second)


def _output(done: subprocess.CompletedProcess[str]) -> tuple[str, list[str]]:
    return done.stdout, [line for line in done.stderr.splitlines() if line.endswith("deleted")]
