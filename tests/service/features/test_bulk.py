"""Bulk commands below HTTP: selection, execution exactly once for each run, and recovery after a crash."""

import asyncio
import signal
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from remotelr.rules import Command, InvalidCommand, Report
from remotelr_service.errors import CommandNotFound
from remotelr_service.features.bulk import bulk
from remotelr_service.features.bulk.executor import BulkExecutor
from remotelr_service.features.bulk.selector import Bound, Selector, select_runs
from remotelr_service.features.commands import commands
from remotelr_service.features.runs import runs
from remotelr_service.features.training import reports
from support.fixtures.processes import Process, damage
from support.fixtures.service import ServiceProcess
from support.rules.run_histories import PLATEAU, spec

HALVE = Command(type="scale", factor=0.5, actor="ada", reason="too high", key="halve")
RUNNING = Selector(status="running")


def put(process: Process, key: str, **rest: Any) -> None:
    process.ask(runs.put_run(process.writer, key, spec(PLATEAU), **rest))
    process.attempt(key, "first", 0)


def order(process: Process, selector: Selector = RUNNING, command: Command = HALVE) -> bulk.BulkView:
    """The command, noted and carried out."""
    noted, _ = process.ask(bulk.create_bulk(process.writer, process.reads, selector, command))
    process.ask(bulk.execute_bulk(process.writer, process.reads, noted.id))
    return bulk.get_bulk(process.reads, noted.id)


def commands_of(process: Process, key: str) -> list[Any]:
    return [event for event in process.events(key) if event.kind == "command"]


def test_every_selected_run_has_the_command_with_actor_and_reason_in_its_log(process: Process):
    for key in ("a", "b", "c"):
        put(process, key)
    process.finish("c", "completed")
    view = order(process)

    assert [("a", 3, 1, 1.0, 0.5), ("b", 3, 1, 1.0, 0.5)] == [
        (each.run, each.seq, each.effective_from, each.rate_before, each.rate_after) for each in view.results
    ]
    assert [{"type": "scale", "factor": 0.5, "actor": "ada", "reason": "too high"}] == [
        event.payload for event in commands_of(process, "a")
    ]
    assert [] == commands_of(process, "c")
    assert view.bulk.finished_at is not None
    assert (2, 0) == (view.progress.done, view.progress.failed)
    assert [0.5, 0.5, 1.0] == [
        process.report("a", 0, 1.0).learning_rate,
        process.report("b", 0, 1.0).learning_rate,
        process.stored_run("c").learning_rate,
    ]
    assert process.replayed("a") == process.stored_run("a")


def test_a_run_that_rejects_the_command_gives_the_reason_and_blocks_no_other(process: Process):
    put(process, "a")
    process.put("bounded", {"schedule": PLATEAU, "max_lr": 2.0})
    put(process, "c")
    pin = Command(type="set_learning_rate", value=4.0)
    view = order(process, Selector(runs=("a", "bounded", "c", "nowhere")), pin)
    failed = {each.run: each.code for each in view.results if each.code}

    assert {"bounded": "invalid_command", "nowhere": "run_not_found"} == failed
    assert (4, 2) == (view.progress.done, view.progress.failed)
    assert [4.0, 4.0] == [process.report(key, 0, 1.0).learning_rate for key in ("a", "c")]
    assert ["bounded", "nowhere"] == [
        each.run for each in bulk.get_bulk(process.reads, view.bulk.id, only_failed=True).results
    ]


def test_a_run_whose_log_is_damaged_holds_up_no_other(process: Process):
    for key in ("a", "b", "c"):
        put(process, key)
    damage(process.url, "b")
    view = order(process)

    assert [None, "internal_error", None] == [each.code for each in view.results]
    assert [1, 0, 1] == [len(commands_of(process, key)) for key in ("a", "b", "c")]


def test_a_repeated_bulk_command_changes_no_run_twice(process: Process):
    put(process, "a")
    first = order(process)
    put(process, "b")
    again = order(process)

    assert first == again
    assert [1, 0] == [len(commands_of(process, key)) for key in ("a", "b")]
    with pytest.raises(InvalidCommand, match="'halve' belongs to another command"):
        order(process, command=Command(type="scale", factor=0.25, key="halve"))
    with pytest.raises(InvalidCommand, match="belongs to another command"):
        order(process, Selector(runs=("a",)))


def test_concurrent_requests_with_one_key_are_one_command(process: Process):
    put(process, "a")
    both = process.ask_all(*(bulk.create_bulk(process.writer, process.reads, RUNNING, HALVE) for _ in range(2)))
    process.ask_all(*(bulk.execute_bulk(process.writer, process.reads, noted.id) for noted, _ in both))

    assert {False, True} == {is_known for _, is_known in both}
    assert 1 == len(commands_of(process, "a"))


def test_another_process_completes_the_command_of_a_killed_one_once_for_each_run(
    database_url: str, start_process: Callable[..., Process], monkeypatch: pytest.MonkeyPatch
):
    """
    Killed after every single step, and gone on with by a process that was not there.
    """
    monkeypatch.setattr(bulk, "CHUNK", 2)
    first = start_process(database_url)
    keys = [f"run-{number}" for number in range(7)]
    for key in keys:
        put(first, key)
    noted, _ = first.ask(bulk.create_bulk(first.writer, first.reads, RUNNING, HALVE))
    done: list[int] = []
    process = first
    while bulk.get_bulk(process.reads, noted.id).bulk.finished_at is None:
        process.ask(one_step(process, noted.id))
        done.append(bulk.get_bulk(process.reads, noted.id).progress.done)
        process.close()
        process = start_process(database_url)

    assert [2, 4, 6, 7] == done[:4]
    assert [1] * 7 == [len(commands_of(process, key)) for key in keys]
    assert keys == [each.run for each in bulk.get_bulk(process.reads, noted.id).results]


async def one_step(process: Process, bulk_id: int) -> None:
    """Carry out the command as far as its next transaction."""
    steps = 0

    class Dying:
        async def submit(self, action: Any, *keys: str) -> Any:
            nonlocal steps
            steps += 1
            if steps > 1:
                raise asyncio.CancelledError
            return await process.writer.submit(action, *keys)

    try:
        await bulk.execute_bulk(Dying(), process.reads, bulk_id)  # type: ignore[arg-type]  # a writer whose process dies
    except asyncio.CancelledError:
        return


def test_a_restarted_service_completes_its_bulk_command(
    sqlite_url: str, start_process: Callable[..., Process], start_service: Callable[..., ServiceProcess]
):
    keys = [f"run-{number:03}" for number in range(300)]
    before = start_process(sqlite_url)
    before.ask_all(*(runs.put_run(before.writer, key, spec(PLATEAU)) for key in keys))
    before.close()
    body = {"selector": {"status": "running"}, "command": {"type": "scale", "factor": 0.5}, "key": "halve"}
    killed = start_service(sqlite_url)
    killed.wait_ready()
    begun = httpx.post(f"{killed.url}/v1/commands?wait=0", json=body, timeout=30.0, trust_env=False).json()
    killed.end(signal.SIGKILL)
    back = start_service(sqlite_url)
    back.wait_ready()
    ended = httpx.post(f"{back.url}/v1/commands?wait=60&limit=1000", json=body, timeout=90.0, trust_env=False).json()
    back.end()
    after = start_process(sqlite_url)

    assert begun["id"] == ended["id"]
    assert ("finished", 300, 0) == (ended["status"], ended["done"], ended["failed"])
    assert keys == [each["run"] for each in ended["runs"]]
    assert {1} == {len(commands_of(after, key)) for key in keys}


def test_an_abandoned_command_is_taken_by_exactly_one_replica(postgres_url: str, start_process: Callable[..., Process]):
    here, there = start_process(postgres_url), start_process(postgres_url)
    put(here, "a")
    noted, _ = here.ask(bulk.create_bulk(here.writer, here.reads, RUNNING, HALVE))

    async def look() -> list[int | None]:
        late = [BulkExecutor(each.writer, each.reads, abandoned_s=-1.0) for each in (here, there)]
        patient = BulkExecutor(here.writer, here.reads, abandoned_s=3600.0)
        found = [await patient.take_abandoned(), await late[0].take_abandoned()]
        await late[0].wait(noted.id, 20.0)
        found.append(await late[1].take_abandoned())
        return found

    assert [None, noted.id, None] == here.ask(look())
    assert 1 == len(commands_of(there, "a"))


def test_two_replicas_that_carry_out_one_command_do_each_run_once(
    postgres_url: str, start_process: Callable[..., Process], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(bulk, "CHUNK", 3)
    here, there = start_process(postgres_url), start_process(postgres_url)
    keys = [f"run-{number}" for number in range(10)]
    for key in keys:
        put(here, key)
    noted, _ = here.ask(bulk.create_bulk(here.writer, here.reads, RUNNING, HALVE))

    async def both() -> None:
        await asyncio.gather(*(bulk.execute_bulk(each.writer, each.reads, noted.id) for each in (here, there)))

    here.ask(both())
    view = bulk.get_bulk(here.reads, noted.id)

    assert (10, 0) == (view.progress.done, view.progress.failed)
    assert [1] * 10 == [len(commands_of(here, key)) for key in keys]


def test_a_dry_run_lists_the_effects_and_changes_nothing(process: Process):
    put(process, "a")
    process.put("bounded", {"schedule": PLATEAU, "max_lr": 2.0})
    pin = Command(type="set_learning_rate", value=4.0)
    before = [process.events(key) for key in ("a", "bounded")]
    rehearsal = bulk.dry_run(process.reads, RUNNING, pin)
    after = [process.events(key) for key in ("a", "bounded")]

    assert before == after
    assert [("a", None, 1.0, 4.0, None), ("bounded", None, None, None, "invalid_command")] == [
        (each.run, each.seq, each.rate_before, each.rate_after, each.code) for each in rehearsal.results
    ]


def test_a_dry_run_predicts_the_rates_that_the_runs_then_have(process: Process):
    cosine = {"type": "cosine", "initial_learning_rate": 1.0, "decay_steps": 10}
    process.put("cosine", cosine)
    process.attempt("cosine", "first", 0)
    process.train("cosine", [1.0] * 3)
    (predicted,) = bulk.dry_run(process.reads, RUNNING, HALVE).results
    order(process)

    assert predicted.rate_after == process.report("cosine", 3, 1.0).learning_rate
    assert predicted.rate_before == pytest.approx(2 * predicted.rate_after)


def test_runs_are_selected_by_experiment_status_and_tags(process: Process):
    put(process, "a", experiment="digits", tags={"team": "vision", "size": "big"})
    put(process, "b", experiment="digits", tags={"team": "vision"})
    put(process, "c", tags={"team": "vision", "size": "big"})
    process.finish("c", "failed")

    assert ["a", "b", "c"] == chosen(process)
    assert ["a", "b"] == chosen(process, experiment="digits")
    assert ["c"] == chosen(process, status="failed")
    assert ["a", "c"] == chosen(process, tags={"team": "vision", "size": "big"})
    assert ["a"] == chosen(process, tags={"size": "big"}, status="running")
    assert ["b", "unknown"] == chosen(process, runs=("unknown", "b"))
    assert ["b"] == chosen(process, runs=("b", "c"), status="running")


def test_runs_are_selected_by_the_metrics_of_their_last_report(process: Process):
    for key, losses in {"better": [3.0, 0.5], "worse": [0.5, 3.0], "broken": [0.5, float("nan")], "new": []}.items():
        put(process, key)
        process.train(key, losses)

    assert ["worse"] == chosen(process, metrics={"val_loss": Bound(gt=1.0)})
    assert ["better"] == chosen(process, metrics={"val_loss": Bound(le=0.5)})
    assert ["worse"] == chosen(process, metrics={"val_loss": Bound(ge=3.0, lt=4.0)})
    assert ["broken"] == chosen(process, metrics={"val_loss": Bound(finite=False)})
    assert [] == chosen(process, metrics={"accuracy": Bound(gt=0.0)})


def test_a_report_that_was_rewound_is_not_the_last_one(process: Process):
    put(process, "run")
    process.train("run", [0.5, 9.0], first=0)
    process.attempt("run", "again", 1)

    assert ["run"] == chosen(process, metrics={"val_loss": Bound(lt=1.0)})


def test_reports_are_answered_during_a_bulk_command(process: Process, monkeypatch: pytest.MonkeyPatch):
    """
    Not after it: the runs that have not had their turn have it later than the reports.
    """
    monkeypatch.setattr(bulk, "CHUNK", 5)
    for number in range(40):
        process.put(f"run-{number:02}")
    noted, _ = process.ask(bulk.create_bulk(process.writer, process.reads, RUNNING, HALVE))

    async def meanwhile() -> list[int]:
        carrying = asyncio.create_task(bulk.execute_bulk(process.writer, process.reads, noted.id))
        seen = []
        for epoch in range(3):
            await reports.report(process.writer, "run-39", Report(epoch=epoch, metrics={"val_loss": 1.0}))
            seen.append(bulk.get_bulk(process.reads, noted.id).progress.done)
        await carrying
        return seen

    assert any(done < 40 for done in process.ask(meanwhile()))
    assert 40 == bulk.get_bulk(process.reads, noted.id).progress.done


def test_results_come_in_pages_that_neither_repeat_nor_miss_one(process: Process):
    for number in range(5):
        put(process, f"run-{number}")
    noted = order(process).bulk.id
    seen: list[str] = []
    view = bulk.get_bulk(process.reads, noted, limit=2)
    while True:
        seen += [each.run for each in view.results]
        if not view.more:
            break
        view = bulk.get_bulk(process.reads, noted, after=view.results[-1].place, limit=2)

    assert [f"run-{number}" for number in range(5)] == seen


def test_an_unknown_bulk_command_is_not_found(process: Process):
    with pytest.raises(CommandNotFound):
        bulk.get_bulk(process.reads, 77)


def test_a_single_command_may_have_the_key_of_one_to_many(process: Process):
    put(process, "a")
    order(process)
    process.ask(commands.command(process.writer, "a", HALVE))

    assert 2 == len(commands_of(process, "a"))


def chosen(process: Process, **by: Any) -> list[str]:
    return select_runs(process.reads, Selector(**by))


def test_a_chunk_that_takes_long_is_executed_in_parts_and_every_run_gets_its_result(
    process: Process, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(bulk, "CHUNK_S", 0.0)
    keys = [f"run-{number}" for number in range(5)]
    for key in keys:
        put(process, key)
    view = order(process)

    assert (keys, 5, 0) == ([each.run for each in view.results], view.progress.done, view.progress.failed)
    assert [1] * 5 == [len(commands_of(process, key)) for key in keys]
