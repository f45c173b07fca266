"""Deadlines of points below HTTP: which points are due, and the clock that decides."""

import ast
import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import remotelr_service
from remotelr.rules import InvalidReport, Report, Waiting
from remotelr_service.db.engine import reading
from remotelr_service.db.queries import runs
from remotelr_service.features.training import deadlines, reports
from remotelr_service.features.training.deadlines import Waits
from support.fixtures.processes import Process, damage
from support.rules.run_histories import PLATEAU

IMPATIENT = {"schedule": PLATEAU, "aggregate": {"ranks": "all", "timeout_s": 0.05}}
PATIENT = {"schedule": PLATEAU, "aggregate": {"ranks": "all", "timeout_s": 3600}}


def decide_due(process: Process) -> list[Any]:
    return process.ask(deadlines.decide_due(process.writer, process.reads, Waits()))


def due(process: Process) -> list[str]:
    with reading(process.reads) as connection:
        now = runs.database_time(connection)
        return [key for key, deadline, _ in runs.list_waiting(connection, 100) if deadline <= now]


def deadline_at(process: Process, key: str) -> Any:
    with reading(process.reads) as connection:
        stored = runs.find_run(connection, key)
    assert stored is not None
    return stored.deadline_at


def first_deadline(process: Process, world_size: int) -> Any:
    """The deadline of a new run, `run`, after the report of one rank."""
    process.put("run", PATIENT, world_size=world_size)
    process.report("run", 0, 1.0, rank=1)
    return deadline_at(process, "run")


def wait_out() -> None:
    time.sleep(0.1)


def test_only_due_points_are_decided_and_only_once(process: Process):
    for key, policy in [("soon", IMPATIENT), ("later", PATIENT)]:
        process.put(key, policy, world_size=2)
        process.report(key, 0, 1.0, rank=1)
    wait_out()

    assert [("soon", 1)] == [(decision.run, decision.epoch) for decision in decide_due(process)]
    assert [] == decide_due(process)
    assert process.replayed("soon") == process.stored_run("soon")


def test_a_run_is_due_so_long_after_its_points_first_report_and_not_after_its_last(process: Process):
    first = first_deadline(process, 3)
    wait_out()
    process.report("run", 0, 1.0, rank=2)

    assert first is not None
    assert first == deadline_at(process, "run")


@pytest.mark.parametrize("ending", ["decision", "finish", "attempt"])
def test_a_point_without_waiting_ranks_is_not_due(process: Process, ending: str):
    process.put("run", PATIENT, world_size=2)
    process.report("run", 0, 1.0, rank=1)
    match ending:
        case "decision":
            process.report("run", 0, 1.0, rank=0)
        case "finish":
            process.finish("run", "failed")
        case _:
            process.attempt("run", "second", 0)

    assert deadline_at(process, "run") is None


def test_after_a_decision_the_next_point_that_waits_is_due_by_its_own_first_report(process: Process):
    first = first_deadline(process, 2)
    wait_out()
    process.report("run", 1, 1.0, rank=1)
    process.report("run", 0, 1.0, rank=0)
    second = deadline_at(process, "run")

    assert 0.1 <= (second - first).total_seconds() < 60


def test_replicas_that_notice_together_take_one_decision(postgres_url: str, start_process: Callable[..., Process]):
    here, there = start_process(postgres_url), start_process(postgres_url)
    here.put("run", IMPATIENT, world_size=2)
    for epoch in range(5):
        here.report("run", epoch, 1.0, rank=1)
        wait_out()

        async def both() -> list[Any]:
            looks = (deadlines.decide_due(each.writer, each.reads, Waits()) for each in (here, there))
            return list(await asyncio.gather(*looks))

        here.ask(both())

    closings = [event.epoch for event in here.events("run") if event.kind == "timeout"]
    assert list(range(5)) == closings


def test_a_database_clock_that_steps_back_delays_no_deadline(process: Process):
    """
    F11. The replica has seen the waiting point before the step.
    """
    process.put("run", PATIENT, world_size=2)
    process.report("run", 0, 1.0, rank=1)
    elapsed = [0.0]
    waits = Waits(lambda: elapsed[0])
    before = process.ask(deadlines.decide_due(process.writer, process.reads, waits))
    # The database's clock does not reach the deadline in this test: an hour by the monotonic clock is a step back.
    elapsed[0] = 3601.0
    after = process.ask(deadlines.decide_due(process.writer, process.reads, waits))

    assert ([], [1]) == (before, [decision.epoch for decision in after])
    assert process.replayed("run") == process.stored_run("run")


def test_a_replica_that_starts_after_the_step_waits_no_longer_than_the_timeout():
    elapsed = [0.0]
    waits = Waits(lambda: elapsed[0])
    changed_at = datetime(2026, 12, 1, 12, tzinfo=UTC)
    waiting = [("run", changed_at + timedelta(seconds=4), changed_at)]
    now = changed_at - timedelta(hours=1)

    assert [] == waits.list_due(now, waiting)
    elapsed[0] = 4.0
    assert [("run", changed_at + timedelta(seconds=4))] == waits.list_due(now + timedelta(seconds=4), waiting)


def test_a_later_point_of_a_run_has_a_wait_of_its_own(process: Process):
    process.put("run", PATIENT, world_size=2)
    elapsed = [0.0]
    waits = Waits(lambda: elapsed[0])
    for epoch in range(2):
        process.report("run", epoch, 1.0, rank=1)
        assert [] == process.ask(deadlines.decide_due(process.writer, process.reads, waits))
        process.report("run", epoch, 1.0, rank=0)
        elapsed[0] += 3000.0

    assert [] == process.ask(deadlines.decide_due(process.writer, process.reads, waits))


def test_a_repeated_report_after_the_deadline_decides_the_point(process: Process):
    process.put("run", IMPATIENT, world_size=2)
    assert isinstance(process.report("run", 0, 1.0, rank=1), Waiting)
    wait_out()

    assert 1 == process.report("run", 0, 1.0, rank=1).epoch


def test_an_overdue_point_is_decided_only_after_an_older_overdue_point(process: Process):
    process.put("run", PATIENT, world_size=2)
    process.report("run", 0, 1.0, rank=1)
    process.report("run", 1, 1.0, rank=1)
    process.put("run", IMPATIENT, "replace", world_size=2)
    wait_out()
    answers = [process.report("run", 1, 1.0, rank=1) for _ in range(2)]

    assert [Waiting, 2] == [type(answers[0]), answers[1].epoch]


def test_a_run_that_cannot_be_decided_holds_up_no_other_and_tells_the_next_rank_why(process: Process):
    """
    The new policy counts steps, and no report contains any.
    """
    process.put("run", IMPATIENT, world_size=3)
    process.report("run", 0, 1.0, rank=1)
    process.put("run", {**IMPATIENT, "unit": "step"}, "replace", world_size=3)
    wait_out()
    decided = decide_due(process)

    assert ([], []) == (decided, due(process))
    with pytest.raises(InvalidReport):
        process.report("run", 0, 1.0, rank=2)
    assert (1, 10) == ((answer := process.report("run", 0, 1.0, rank=2, step=10)).epoch, answer.step)


def test_a_run_whose_log_is_damaged_holds_up_no_other(process: Process):
    for key in ("a", "b", "c"):
        process.put(key, IMPATIENT, world_size=2)
        process.report(key, 0, 1.0, rank=1)
    damage(process.url, "b")
    wait_out()

    assert ["a", "c"] == sorted(decision.run for decision in decide_due(process))
    assert ["b"] == due(process)


def test_a_waiting_rank_gets_the_decision_of_any_replica(process: Process):
    process.put("run", IMPATIENT, world_size=2)
    report = Report(epoch=0, metrics={"val_loss": 1.0}, rank=1)

    async def wait_and_decide() -> Any:
        waiting = await reports.report(process.writer, "run", report)
        assert isinstance(waiting, Waiting)
        answer = asyncio.create_task(reports.await_ranks(process.writer, process.waiters, report, waiting, 10.0))
        await asyncio.sleep(0.1)
        (decision,) = await deadlines.decide_due(process.writer, process.reads, Waits())
        return await answer, decision

    answer, decision = process.ask(wait_and_decide())

    assert (decision.seq, decision.learning_rate) == (answer.seq, answer.learning_rate)


@pytest.mark.parametrize("folder", ["db", "features", "live"])
def test_nothing_tells_the_time_by_a_clock_of_its_own(folder: str):
    """
    F19: the clocks of replicas differ, and jump. Durations are monotonic, and moments are the database's.
    """
    clocks = {"now", "utcnow", "today", "time", "time_ns"}
    files = list((Path(remotelr_service.__file__).parent / folder).rglob("*.py"))
    found = [
        f"{file.name}:{node.lineno}"
        for file in files
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
        if node.value.id in ("datetime", "time", "date") and node.attr in clocks
    ]

    assert len(files) > 5
    assert [] == found
