"""Runs below HTTP: create, list, tag, delete, wait and history."""

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from remotelr import rules
from remotelr.rules import InvalidPolicy, Report, RunFinished, Waiting, policy_from_json
from remotelr.rules import preview as preview_of
from remotelr_service.db.writer.transaction import WriteTransaction
from remotelr_service.errors import ExperimentConflict, RunNotFound, TooManyTags
from remotelr_service.features.runs import history, runs
from remotelr_service.features.training import deadlines, decisions, reports
from remotelr_service.live import waiters
from support.fixtures.processes import Process
from support.rules.run_histories import PLATEAU, spec


def put(process: Process, key: str, **rest: Any) -> Any:
    return process.ask(runs.put_run(process.writer, key, spec(PLATEAU), **rest))


def test_asking_for_a_run_again_gives_the_same_run(process: Process):
    made, created = put(process, "run", experiment="digits", tags={"team": "vision"})
    found, again = put(process, "run", experiment="digits")

    assert (True, False) == (created, again)
    assert made == found == runs.get_run(process.reads, "run")
    assert ("digits", {"team": "vision"}, 0, 1.0) == (
        made.stored.experiment,
        made.stored.tags,
        made.run.epoch,
        made.run.learning_rate,
    )
    assert (1, "start", 1.0) == (made.decision.seq, made.decision.reason, made.decision.learning_rate)


def test_runs_are_found_by_the_tags_they_have_now(process: Process):
    for key, tags in [("a", {"team": "vision"}), ("b", {"team": "vision", "gpu": "8"}), ("c", {"team": "sound"})]:
        put(process, key, tags=tags)

    def found(tag: tuple[str, str], after: str | None = None) -> list[str]:
        return [view.run.key for view in runs.list_runs(process.reads, tag=tag, after=after).runs]

    before = [found(("team", "vision")), found(("team", "vision"), after="a"), found(("gpu", "8")), found(("gpu", "9"))]
    process.ask(runs.tag_run(process.writer, "a", {"team": "sound", "gpu": "8"}))
    process.ask(runs.delete_run(process.writer, "b"))

    assert [["a", "b"], ["b"], ["b"], []] == before
    assert [[], ["a", "c"], ["a"]] == [found(tag) for tag in (("team", "vision"), ("team", "sound"), ("gpu", "8"))]


def test_a_run_does_not_change_its_experiment(process: Process):
    put(process, "run", experiment="digits")
    with pytest.raises(ExperimentConflict, match="experiment 'digits', not to 'letters'"):
        put(process, "run", experiment="letters")


def test_a_policy_that_lacks_its_rate_makes_no_run(process: Process):
    with pytest.raises(InvalidPolicy):
        process.ask(runs.put_run(process.writer, "run", spec(PLATEAU, initial_learning_rate=None)))
    with pytest.raises(RunNotFound):
        runs.get_run(process.reads, "run")


def test_runs_are_listed_in_pages_that_neither_repeat_nor_miss_one(process: Process):
    keys = sorted(f"run {number}" for number in range(7))
    for key in reversed(keys):
        put(process, key)
    listed: list[str] = []
    after: str | None = None
    while True:
        page = runs.list_runs(process.reads, after=after, limit=3)
        listed += [view.run.key for view in page.runs]
        after = page.after
        if after is None:
            break

    assert keys == listed


def test_a_full_last_page_has_no_next_page(process: Process):
    for key in ("a", "b"):
        put(process, key)

    assert runs.list_runs(process.reads, limit=2).after is None


def test_runs_are_found_by_experiment_status_and_tag(process: Process):
    put(process, "a", experiment="digits", tags={"team": "vision", "a.b": "%"})
    put(process, "b", experiment="digits", tags={"team": "Vision"})
    put(process, "c", tags={"team": "vision"})
    process.finish("c", "completed")

    def found(**by: Any) -> list[str]:
        return [view.run.key for view in runs.list_runs(process.reads, **by).runs]

    assert ["a", "b"] == found(experiment="digits")
    assert ["c"] == found(status="completed")
    assert ["a", "c"] == found(tag=("team", "vision"))
    assert ["a"] == found(tag=("a.b", "%"))
    assert [] == found(tag=("team", "%"))
    assert ["a"] == found(tag=("team", "vision"), experiment="digits", status="running")


def test_a_listed_run_is_the_run(process: Process):
    for key in ("a", "b"):
        put(process, key)
    process.train("b", [1.0] * 4)

    assert [runs.get_run(process.reads, key) for key in ("a", "b")] == list(runs.list_runs(process.reads).runs)


def test_tags_are_set_and_removed_one_by_one(process: Process):
    put(process, "run", tags={"team": "vision", "old": "yes", "model": "x"})
    tagged = process.ask(
        runs.tag_run(process.writer, "run", {"team": "speech", 'quo"te': "ü", "old": None, "never": None})
    )

    assert {"team": "speech", "model": "x", 'quo"te': "ü"} == tagged.stored.tags
    assert tagged == runs.get_run(process.reads, "run")
    assert ["run"] == [view.run.key for view in runs.list_runs(process.reads, tag=('quo"te', "ü")).runs]


def test_a_run_does_not_gather_more_tags_than_it_may_have(process: Process):
    put(process, "run", tags={f"t{number}": "" for number in range(32)})
    with pytest.raises(TooManyTags, match="may have 32 tags, got 33"):
        process.ask(runs.tag_run(process.writer, "run", {"one-more": ""}))
    tagged = process.ask(runs.tag_run(process.writer, "run", {"one-more": "", "t0": None}))

    assert 32 == len(tagged.stored.tags)


def test_a_finished_run_stays_finished_until_a_new_attempt(process: Process):
    put(process, "run")
    assert "completed" == process.finish("run", "completed").run.status
    assert "completed" == process.finish("run", "completed").run.status
    with pytest.raises(RunFinished):
        process.finish("run", "failed")


def test_a_run_can_begin_and_finish_repeatedly(process: Process):
    """Rarely changed columns are written only after a change against the stored row, not an older one."""
    process.put("run")
    for attempt in range(4):
        process.attempt("run", f"attempt {attempt}", epoch=attempt)
        assert ("running", attempt + 1) == (process.stored_run("run").status, process.report("run", attempt, 0.5).epoch)
        process.finish("run", ("completed", "failed")[attempt % 2])
        assert ("completed", "failed")[attempt % 2] == process.stored_run("run").status


def test_a_run_that_is_made_anew_in_the_transaction_that_deletes_it_is_stored_whole(process: Process):
    for status in ("completed", "running", "completed"):
        process.put("run")
        process.attempt("run", status, epoch=0)
        process.finish("run", "completed")

        def again(tx: WriteTransaction, status: str = status) -> None:
            locked = tx.find("run")
            assert locked is not None
            tx.delete(locked)
            stored = tx.create(rules.create("run", spec(PLATEAU)), experiment=None, tags={})
            if status != "running":
                tx.append(stored, rules.finish(stored.run, "completed"))

        process.ask(process.writer.submit(again, "run"))
        assert status == process.stored_run("run").status
        process.ask(runs.delete_run(process.writer, "run", by=None))


def test_a_deleted_run_has_no_events_and_its_key_is_free(process: Process):
    put(process, "run")
    process.train("run", [1.0] * 3)
    process.ask(runs.delete_run(process.writer, "run"))
    for look in (runs.get_run, history.history, history.events, decisions.get_decision):
        with pytest.raises(RunNotFound):
            look(process.reads, "run")
    with pytest.raises(RunNotFound):
        process.ask(runs.delete_run(process.writer, "run"))
    put(process, "run")

    assert 1 == len(process.events("run"))


def test_a_waiting_request_gets_the_decision_at_once(process: Process, monkeypatch: pytest.MonkeyPatch):
    """
    And not when the database is looked into again, which here would be too late.
    """
    monkeypatch.setattr(waiters, "POLL_S", 600.0)
    put(process, "run")

    async def wait_and_report() -> Any:
        waiting = asyncio.create_task(wait(process, after=1, wait_s=60))
        await asyncio.sleep(0.1)
        await report(process, 0)
        return await waiting

    assert 2 == process.ask(wait_and_report()).seq


def test_a_waiting_request_gets_the_decision_of_another_replica(
    postgres_url: str, start_process: Callable[..., Process]
):
    here, there = start_process(postgres_url), start_process(postgres_url)
    put(here, "run")
    threading.Timer(0.1, lambda: there.report("run", 0, 0.5)).start()

    assert 2 == here.ask(wait(here, after=1, wait_s=60)).seq


def test_a_decision_that_is_there_is_not_waited_for_and_one_that_does_not_come_not_for_ever(process: Process):
    put(process, "run")
    there = process.ask(wait(process, after=0, wait_s=60))
    nothing = process.ask(wait(process, after=1, wait_s=0.1))

    assert 1 == there.seq
    assert nothing is None
    assert {} == process.waiters._waiters


def test_many_wait_for_a_decision_without_a_thread_or_a_connection_each(process: Process):
    put(process, "run")

    async def wait_many() -> tuple[Any, int, Any]:
        waiting = [asyncio.create_task(wait(process, after=1, wait_s=20)) for _ in range(200)]
        await asyncio.sleep(0.5)
        held = process.reads.pool.checkedout()
        await report(process, 0)
        return await asyncio.gather(*waiting), held, process.reads.pool.checkedout()

    answers, held, _ = process.ask(wait_many())

    assert [2] * 200 == [answer.seq for answer in answers]
    assert held < 10


def _next_rate(row: history.HistoryRow) -> float | None:
    return None if row.decision is None else row.decision.learning_rate


def test_history_has_a_row_for_every_report_with_the_rate_its_epoch_ran_with(process: Process):
    put(process, "run")
    process.attempt("run", "first", 0)
    answered = [1.0, *process.train("run", [1.0] * 6)]
    rows = history.history(process.reads, "run")

    assert list(range(6)) == [row.event.epoch for row in rows]
    assert answered[:-1] == [row.learning_rate for row in rows]
    assert answered[1:] == [_next_rate(row) for row in rows]
    assert {0.5} <= {_next_rate(row) for row in rows if row.decision and row.decision.reason == "plateau"}
    assert rows[2:4] == history.history(process.reads, "run", after=rows[1].event.seq, limit=2)


def test_history_contains_superseded_reports_and_their_replacements(process: Process):
    put(process, "run")
    process.attempt("run", "attempt 1", 0)
    process.train("run", [1.0] * 4)
    process.attempt("run", "attempt 2", 2)
    process.train("run", [0.5] * 2, first=2)
    rows = history.history(process.reads, "run")

    assert [(0, None), (1, None), (2, 2), (3, 2), (2, None), (3, None)] == [
        (row.event.epoch, row.event.superseded_by) for row in rows
    ]
    assert rows[2].learning_rate == rows[4].learning_rate


def test_history_gives_every_rank_the_decision_of_its_point_also_when_its_time_was_over(process: Process):
    """
    The point 0 is closed without rank 2, which comes late; then an attempt goes back to it, and it is decided again.
    """
    process.put("run", {"schedule": PLATEAU, "aggregate": {"ranks": "all", "timeout_s": 0.05}}, world_size=3)
    for rank in (1, 0):
        process.report("run", 0, 1.0, rank=rank)
    time.sleep(0.1)
    process.ask(deadlines.decide_due(process.writer, process.reads, deadlines.Waits()))
    process.report("run", 0, 1.0, rank=2)
    waiting = process.report("run", 1, 1.0, rank=1)
    first = history.history(process.reads, "run")
    process.attempt("run", "again", 0)
    for rank in range(3):
        process.report("run", 0, 9.0, rank=rank)
    rows = history.history(process.reads, "run")

    assert isinstance(waiting, Waiting)
    assert [(0, 1.0), (0, 1.0), (0, 1.0), (1, None)] == [(row.event.epoch, _next_rate(row)) for row in first]
    assert ["schedule"] * 3 + [None] == [row.decision and row.decision.reason for row in first]
    assert [_next_rate(row) for row in first] == [_next_rate(row) for row in rows[:4]]
    assert [None] * 3 == [row.event.superseded_by for row in rows[4:]]
    assert all(_next_rate(row) is not None for row in rows[4:])


def test_history_gives_the_rate_in_force_after_a_gap_and_to_a_late_rank(process: Process):
    process.put("run", {"type": "piecewise_constant", "boundaries": [1], "values": [1.0, 0.5]}, world_size=2)
    process.report("run", 2, 0.5)
    process.report("run", 2, 0.5, rank=1)
    rows = history.history(process.reads, "run")

    assert [(0, 1.0), (1, 1.0)] == [(row.event.rank, row.learning_rate) for row in rows]


def test_events_come_in_pages_with_their_times(process: Process):
    put(process, "run")
    process.train("run", [1.0] * 3)
    first = history.events(process.reads, "run", limit=2)
    rest = history.events(process.reads, "run", after=2)

    assert [1, 2, 3, 4] == [event.seq for event, _ in (*first, *rest)]
    assert all(at.tzinfo is not None for _, at in first)
    assert first[0][1] <= rest[-1][1]


def test_a_preview_is_the_curve_a_run_would_have(process: Process):
    losses = [1.0, 0.9, 0.9, 0.9, 0.9, 0.8]
    put(process, "run")
    answered = [1.0, *process.train("run", losses)]
    preview = preview_of(policy_from_json(PLATEAU), 1.0, 7, metrics=[{"val_loss": loss} for loss in losses])

    assert answered == preview.learning_rates
    assert preview.momentum is None


def test_a_preview_may_begin_later_and_shows_the_momentum_of_a_policy_that_has_one():
    policy = policy_from_json({"type": "one_cycle", "max_lr": 0.1, "total_steps": 20})
    whole, tail = preview_of(policy, None, 20), preview_of(policy, None, 5, start=15)

    assert whole.learning_rates[15:] == tail.learning_rates
    assert whole.momentum is not None and tail.momentum is not None
    assert whole.momentum[15:] == tail.momentum


async def wait(process: Process, after: int, wait_s: float) -> Any:
    return await decisions.wait_for_decision(process.waiters, "run", after, wait_s)


async def report(process: Process, epoch: int) -> Any:
    return await reports.report(process.writer, "run", Report(epoch=epoch, metrics={"val_loss": 0.5}))
