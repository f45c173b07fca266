"""Runs with an expensive policy get a small share of the writer; all others are answered as if there were none."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from remotelr.rules import Decision, Report, policy_from_json
from remotelr_service.db.writer import expensive_runs, writer
from remotelr_service.db.writer.expensive_runs import SHARE, ExpensiveRuns
from remotelr_service.errors import RunBusy
from remotelr_service.features.training import reports
from support.fixtures.processes import Process

EXPENSIVE: dict[str, Any] = {"type": "expression", "expression": "lr * 0.999"}
CHEAP: dict[str, Any] = {"type": "cosine", "initial_learning_rate": 0.1, "decay_steps": 90}


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(("document", "expected"), [(EXPENSIVE, True), (CHEAP, False)])
def test_a_policy_is_expensive_by_what_it_may_evaluate(document: dict[str, Any], expected: bool):
    assert expected is ExpensiveRuns().is_expensive(policy_from_json(document))


def test_an_expensive_run_waits_until_its_action_was_a_small_part_of_the_time():
    clock = Clock()
    runs = ExpensiveRuns(clock)
    runs.charge(0.01)
    soon = runs.may_run()
    clock.now = 0.01 / SHARE

    assert not soon
    assert runs.may_run()


@given(st.lists(st.floats(0.001, 0.5), min_size=1, max_size=50))
def test_expensive_actions_never_take_more_than_their_share_and_one_action(seconds: list[float]):
    clock = Clock()
    runs = ExpensiveRuns(clock)
    for each in seconds:
        clock.now = max(clock.now, runs._next_at) + each
        runs.charge(each)

    assert sum(seconds[:-1]) <= clock.now * SHARE + max(seconds)


def test_the_known_policies_are_forgotten_before_they_fill_the_memory(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(expensive_runs, "_MOST_POLICIES", 3)
    runs = ExpensiveRuns()
    for length in range(1, 20):
        assert not runs.is_expensive(policy_from_json({**CHEAP, "decay_steps": length}))

    assert len(runs._known) <= 3


def test_an_expensive_run_is_rejected_for_now_while_others_are_answered(
    database_url: str, start_process: Callable[..., Process], monkeypatch: pytest.MonkeyPatch
):
    process = start_process(database_url)
    process.put("expensive", EXPENSIVE, initial_learning_rate=0.1)
    process.put("cheap")
    monkeypatch.setattr(expensive_runs, "SHARE", 0.000_001)
    monkeypatch.setattr(writer, "SHARE_WAIT_S", 0.2)
    process.report("expensive", 0, 0.5)
    answers = process.ask_all(
        reports.report(process.writer, "expensive", Report(epoch=1, metrics={"val_loss": 0.5})),
        *(
            reports.report(process.writer, "cheap", Report(epoch=epoch, metrics={"val_loss": 0.5}))
            for epoch in range(20)
        ),
    )

    assert isinstance(answers[0], RunBusy)
    assert all(isinstance(answer, Decision) for answer in answers[1:])


def test_expensive_runs_that_wait_for_their_turn_are_all_answered(
    database_url: str, start_process: Callable[..., Process]
):
    process = start_process(database_url)
    for key in "abc":
        process.put(key, EXPENSIVE, initial_learning_rate=0.1)
    for epoch in range(4):
        answers = process.ask_all(
            *(reports.report(process.writer, key, Report(epoch=epoch, metrics={"val_loss": 0.5})) for key in "abc")
        )

        assert [epoch + 1] * 3 == [answer.epoch for answer in answers]


@pytest.fixture
def in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each report of a batch is stored in a transaction of its own."""
    monkeypatch.setattr(reports, "BATCH_S", 0.0)


@pytest.mark.usefixtures("in_parts")
def test_a_batch_that_takes_long_is_stored_in_parts_and_answered_whole(
    database_url: str, start_process: Callable[..., Process]
):
    process = start_process(database_url)
    process.put("run")
    batch = [Report(epoch=epoch, metrics={"val_loss": 0.5}) for epoch in range(12)]
    answers = process.ask(reports.report_batch(process.writer, "run", batch))

    assert list(range(1, 13)) == [answer.epoch for answer in answers if isinstance(answer, Decision)]


@pytest.mark.usefixtures("in_parts")
def test_a_rejected_report_ends_a_batch_that_is_stored_in_parts(
    database_url: str, start_process: Callable[..., Process]
):
    process = start_process(database_url)
    process.put("run")
    batch = [
        Report(epoch=epoch, metrics={"val_loss": value}) for epoch, value in ((0, 0.5), (1, 0.5), (0, 0.7), (2, 1))
    ]
    answers = process.ask(reports.report_batch(process.writer, "run", batch))

    assert 3 == len(answers)
    assert [Decision, Decision] == [type(answer) for answer in answers[:2]]
    assert 2 == len([event for event in process.events("run") if event.kind == "report"])
