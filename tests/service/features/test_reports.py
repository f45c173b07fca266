"""Reports, attempts and commands on a real database."""

import json
import math
from collections.abc import Callable
from dataclasses import asdict, replace

import pytest

from remotelr.rules import (
    AttemptConflict,
    Command,
    Decision,
    InvalidCommand,
    OutOfOrder,
    PolicyConflict,
    Report,
    ReportConflict,
    RunFinished,
    ServerBehind,
    StaleAttempt,
    UnknownAttempt,
    Waiting,
)
from remotelr_service.errors import RunNotFound
from remotelr_service.features.commands import commands
from remotelr_service.features.runs import history
from remotelr_service.features.training import reports
from support.fixtures.processes import Process
from support.rules.run_histories import Story

# It never saturates, so a report that counts twice shows in every rate after it.
STEADY_FALL = {"type": "reduce_on_plateau", "factor": 0.97, "patience": 1, "cooldown": 1}
LOSSES = [1.0, 0.9, 0.95, 0.93, 0.8, 0.85, 0.85, 0.7, 0.9, 0.9]


def test_a_repeated_report_gets_the_same_bytes_and_counts_once(process: Process):
    """
    F1: the answer was lost and the trainer retries.
    """
    process.put("run", STEADY_FALL)
    process.train("run", LOSSES[:4])
    first = process.report("run", 4, 0.8)
    again = process.report("run", 4, 0.8)

    assert again.replayed
    assert json.dumps(asdict(first)) == json.dumps(asdict(replace(again, replayed=False)))
    assert 6 == len(process.events("run"))


def test_a_report_repeated_much_later_gets_its_own_answer_and_not_the_newest(
    database_url: str, start_process: Callable[..., Process]
):
    """
    F2: also after newer epochs and a restart of the service.
    """
    before = start_process(database_url)
    before.put("run", STEADY_FALL)
    rates = before.train("run", LOSSES)
    before.close()
    after = start_process(database_url)
    again = [after.report("run", epoch, loss) for epoch, loss in enumerate(LOSSES)]

    assert rates == [answer.learning_rate for answer in again]
    assert all(answer.replayed for answer in again)
    assert len(LOSSES) + 1 == len(after.events("run"))


def test_another_value_for_a_decided_point_is_rejected_and_the_first_one_holds(process: Process):
    """
    F3.
    """
    process.put("run")
    process.report("run", 0, 0.5)
    before = process.stored_run("run")
    with pytest.raises(ReportConflict) as refusal:
        process.report("run", 0, 0.6)

    assert {"epoch": 0, "known": {"val_loss": 0.5}, "given": {"val_loss": 0.6}} == refusal.value.details
    assert before == process.stored_run("run")


def test_an_epoch_before_the_newest_decision_is_rejected_and_a_gap_is_noted(process: Process):
    """
    F4: validating every few epochs leaves gaps.
    """
    process.put("run")
    process.report("run", 0, 0.5)
    process.report("run", 4, 0.5)
    with pytest.raises(OutOfOrder):
        process.report("run", 2, 0.5)

    assert [{}, {"gap": 3}] == [event.notes for event in process.events("run") if event.kind == "report"]


def test_a_rate_of_the_trainers_own_is_noted_beside_the_decided_one(process: Process):
    """
    F5: it could not wait for the answer, and trained on with another rate.
    """
    process.put("run")
    first = process.report("run", 0, 0.5, learning_rate=0.25)
    again = process.report("run", 0, 0.5, learning_rate=0.25)
    row = history.history(process.reads, "run")[0]

    assert (1.0, 0.25) == (row.learning_rate, row.event.payload["learning_rate"])
    assert {"drift": 1.0} == process.events("run")[1].notes
    assert (1.0, 1.0) == (first.drift, again.drift)


def test_going_back_to_an_older_checkpoint_gives_the_same_curve_again(process: Process):
    """
    F6, invariant 5: the state is as before that epoch; later events are stored as superseded.
    """
    process.put("run", STEADY_FALL)
    process.attempt("run", "first attempt", 0)
    rates = process.train("run", LOSSES)
    restarted = process.attempt("run", "second attempt", 4)
    superseded = [event.seq for event in process.events("run") if event.superseded_by == 2]
    again = process.train("run", LOSSES[4:], first=4)

    assert rates[3] == restarted.learning_rate
    assert rates[4:] == again
    assert 6 == len(superseded)


def test_an_attempt_ahead_of_the_log_gets_the_missing_epochs(process: Process):
    """
    F7: no epoch is invented.
    """
    process.put("run")
    process.train("run", LOSSES[:3])
    with pytest.raises(ServerBehind) as refusal:
        process.attempt("run", "from the future", 7)

    assert 3 == refusal.value.details["epoch"]
    assert 0 == process.stored_run("run").attempt


def test_a_trainer_with_a_newer_decision_than_the_log_gets_server_behind(process: Process):
    process.put("run")
    with pytest.raises(ServerBehind):
        process.report("run", 0, 0.5, last_seq=12)


def test_a_stale_attempt_is_rejected_and_stores_nothing(process: Process):
    """
    F8, invariant 6: two trainers believe the run is theirs.
    """
    process.put("run")
    process.attempt("run", "first attempt", 0)
    process.report("run", 0, 0.5, attempt=1)
    process.attempt("run", "second attempt", 1)
    before = process.events("run")
    with pytest.raises(StaleAttempt) as refusal:
        process.report("run", 1, 0.5, attempt=1)
    with pytest.raises(StaleAttempt):
        process.attempt("run", "first attempt", 0)
    with pytest.raises(UnknownAttempt):
        process.report("run", 1, 0.5, attempt=9)

    assert {"attempt": 2, "action": "stop"} == refusal.value.details
    assert before == process.events("run")


def test_the_same_attempt_key_is_the_same_attempt(process: Process):
    """
    F9: and at another epoch it is a mistake.
    """
    process.put("run")
    first = process.attempt("run", "job 7", 0)
    again = process.attempt("run", "job 7", 0)
    with pytest.raises(AttemptConflict):
        process.attempt("run", "job 7", 1)

    assert replace(first, replayed=True) == again


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 1, 0], [1, 2, 0]])
def test_the_order_in_which_ranks_report_changes_no_rate(process: Process, order: list[int]):
    """
    F10: one decision for the point, the same for every rank.
    """
    policy = {"schedule": STEADY_FALL, "aggregate": {"ranks": "all", "reduce": "mean"}}
    process.put("run", policy, world_size=3)
    losses = {(epoch, rank): [0.1, 0.7, 0.2][(epoch + rank) % 3] for epoch in range(4) for rank in range(3)}
    rates = []
    for epoch in range(4):
        waiting = [process.report("run", epoch, losses[epoch, rank], rank=rank) for rank in order]
        final = [process.report("run", epoch, losses[epoch, rank], rank=rank) for rank in order]
        assert [Waiting, Waiting, Decision] == [type(answer) for answer in waiting]
        assert 1 == len({(answer.seq, answer.learning_rate) for answer in final})
        rates.append(final[0].learning_rate)

    assert [1.0, 0.97, 0.97**2, 0.97**3] == pytest.approx(rates)


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_a_non_finite_loss_leaves_the_rate_finite_and_the_curve_continues(process: Process, loss: float):
    """
    F22: it is stored by its name and read as the same value.
    """
    process.put("run", STEADY_FALL)
    process.train("run", LOSSES[:2])
    decision = process.report("run", 2, loss)
    process.train("run", LOSSES[3:], first=3)
    shown = history.history(process.reads, "run")[2].event.payload["metrics"]["val_loss"]

    assert math.isfinite(decision.learning_rate)
    assert math.isfinite(decision.plateau["best"])
    assert repr(loss) == repr(float(shown))
    assert process.replayed("run") == process.stored_run("run")


def test_a_metric_that_was_not_measured_is_not_one_that_is_not_a_number(process: Process):
    process.put("run")
    process.report("run", 0)
    with pytest.raises(ReportConflict):
        process.report("run", 0, math.nan)

    assert {} == history.history(process.reads, "run")[0].event.payload["metrics"]


def test_a_command_bears_on_the_first_epoch_that_is_not_decided(process: Process):
    """
    F25: the rate of the epoch in training was given out, and stays.
    """
    process.put("run")
    process.attempt("run", "first", 0)
    before = process.report("run", 0, 0.5)
    noted = process.command("run", "set_learning_rate", 0.125)
    again = process.report("run", 0, 0.5)
    after = process.report("run", 1, 0.5)

    assert (2, before.learning_rate) == (noted.effective_from, again.learning_rate)
    assert (0.125, "command") == (after.learning_rate, after.reason)


def test_two_commands_at_once_are_both_in_the_log_and_the_later_one_holds(process: Process):
    """
    F26.
    """
    process.put("run")
    process.attempt("run", "first", 0)
    values = [0.5, 0.25, 0.125]
    answers = process.ask_all(
        *(
            commands.command(process.writer, "run", Command(type="set_learning_rate", value=value, actor=f"at {value}"))
            for value in values
        )
    )
    ordered = {event.seq: event.payload["value"] for event in process.events("run") if event.kind == "command"}

    assert [3, 4, 5] == sorted(answers)
    assert values == sorted(ordered.values(), reverse=True)
    assert ordered[5] == process.report("run", 0, 0.5).learning_rate


def test_a_command_sent_again_under_its_key_counts_once(process: Process):
    process.put("run")
    process.attempt("run", "first", 0)
    first = process.command("run", "scale", 0.5, key="half")
    again = process.command("run", "scale", 0.5, key="half")
    with pytest.raises(InvalidCommand):
        process.command("run", "scale", 0.25, key="half")

    assert first == again
    assert 0.5 == process.report("run", 0, 0.5).learning_rate


def test_a_policy_other_than_the_stored_one_is_rejected_with_the_difference(process: Process):
    """
    F27: two configurations are never mixed.
    """
    process.put("run", {"type": "constant", "learning_rate": 0.5})
    process.put("run", {"type": "constant", "learning_rate": 0.5})
    with pytest.raises(PolicyConflict) as refusal:
        process.put("run", {"type": "constant", "learning_rate": 0.25})

    assert [0.5, 0.25] in refusal.value.details["difference"].values()


def test_a_finished_run_takes_no_new_report_and_an_attempt_wakes_it(process: Process):
    process.put("run")
    process.report("run", 0, 0.5)
    process.finish("run", "completed")
    with pytest.raises(RunFinished):
        process.report("run", 1, 0.5)
    process.attempt("run", "once more", 1)

    assert 2 == process.report("run", 1, 0.5).epoch


def test_a_run_that_is_not_there_is_not_made_up(process: Process):
    for ask in (
        lambda: process.report("nowhere", 0, 0.5),
        lambda: process.attempt("nowhere", "first", 0),
        lambda: process.command("nowhere", "stop"),
        lambda: process.finish("nowhere", "failed"),
    ):
        with pytest.raises(RunNotFound, match="'nowhere'"):
            ask()


def test_a_batch_is_as_if_its_reports_had_come_one_by_one(process: Process):
    for key in ("one by one", "batch"):
        process.put(key, STEADY_FALL)
    rates = process.train("one by one", LOSSES)
    spool = [Report(epoch=epoch, metrics={"val_loss": loss}) for epoch, loss in enumerate(LOSSES)]
    answers = process.ask(reports.report_batch(process.writer, "batch", spool))
    again = process.ask(reports.report_batch(process.writer, "batch", spool))

    assert rates == [answer.learning_rate for answer in answers if isinstance(answer, Decision)]
    assert [replace(answer, replayed=True) for answer in answers if isinstance(answer, Decision)] == again


def test_a_batch_stores_the_reports_before_the_first_rejected_one_only(process: Process):
    process.put("run")
    spool = [
        Report(epoch=epoch, metrics={"val_loss": loss}) for epoch, loss in [(0, 0.5), (1, 0.5), (1, 0.6), (2, 0.5)]
    ]
    answers = process.ask(reports.report_batch(process.writer, "run", spool))

    assert [Decision, Decision, ReportConflict] == [type(answer) for answer in answers]
    assert 2 == process.stored_run("run").epoch


def test_the_service_decides_what_the_rules_alone_decide(process: Process):
    """
    One history on the database and in memory: the same rates, the same state.
    """
    story = Story(STEADY_FALL)
    process.put("run", STEADY_FALL)
    process.attempt("run", "attempt 1", 0)
    story.attempt(0)
    stored, computed = process.train("run", LOSSES), story.train(LOSSES)
    process.attempt("run", "attempt 2", 3)
    story.attempt(3)

    assert computed == stored
    assert replace(story.run, key="run") == process.stored_run("run")
