"""What may happen to a run: one step per point, exact resumes, fences, commands. Read it as the manual."""

from dataclasses import replace
from math import inf, nan

import pytest

from remotelr.rules import ReplayMismatch, Waiting, errors, replay
from support.rules.run_histories import PLATEAU, Story

FLAT = [1.0] * 12
# patience 2: the first value is the best one, then two bad ones halve the rate, and so on.
FLAT_RATES = [1.0, 1.0, 0.5, 0.5, 0.25, 0.25, 0.125, 0.125, 0.0625, 0.0625, 0.03125, 0.03125]


def test_a_report_is_answered_with_the_rate_of_the_next_epoch():
    story = Story()

    decision = story.report(0, 1.0)

    assert (decision.epoch, decision.learning_rate, decision.reason) == (1, 1.0, "schedule")


def test_a_plateau_lowers_the_rate_and_says_so():
    story = Story()
    story.train(FLAT[:2])

    decision = story.report(2, 1.0)

    assert (decision.learning_rate, decision.reason, decision.changed) == (0.5, "plateau", True)


def test_a_repeated_report_gets_the_decision_it_got_before_however_late():
    story = Story()
    first = story.report(0, 1.0)
    story.train(FLAT[1:6], first=1)

    again = story.report(0, 1.0)

    assert again == replace(first, replayed=True)


def test_a_repeated_report_is_counted_once():
    story = Story()

    rates = [story.report(epoch, 1.0).learning_rate for epoch in range(6) for _ in range(3)][::3]

    assert rates == FLAT_RATES[:6]


def test_another_value_for_a_known_point_is_refused_with_both_values():
    story = Story()
    story.report(0, 1.0)
    before = story.run

    with pytest.raises(errors.ReportConflict) as refusal:
        story.report(0, 2.0)

    assert refusal.value.details == {"epoch": 0, "known": {"val_loss": 1.0}, "given": {"val_loss": 2.0}}
    assert story.run == before


def test_nan_reported_twice_is_the_same_report():
    story = Story()
    first = story.report(0, nan)

    assert story.report(0, nan) == replace(first, replayed=True)


def test_a_hole_behind_the_newest_decision_cannot_be_filled():
    story = Story()
    story.report(3, 1.0)

    with pytest.raises(errors.OutOfOrder):
        story.report(1, 1.0)


def test_a_loop_that_began_at_epoch_1_is_refused_epoch_0_with_the_way_epochs_count():
    story = Story()
    story.report(1, 1.0)

    with pytest.raises(errors.OutOfOrder) as refused:
        story.report(0, 1.0)

    assert refused.value.message == (
        "epoch 0 was skipped and is before the newest decision, for epoch 2; epochs count from 0; begin an attempt at "
        "epoch 0 to rewind"
    )


def test_a_gap_forward_is_taken_and_noted():
    story = Story()
    story.report(0, 1.0)

    story.report(4, 1.0)

    assert story.log.events[-1].notes == {"gap": 3}


@pytest.mark.parametrize("epoch", range(13))
def test_a_run_that_resumes_at_any_epoch_goes_on_as_if_nothing_had_happened(epoch):
    story = Story()
    story.attempt(0)
    story.train(FLAT)

    first = story.attempt(epoch).learning_rate
    rest = story.train(FLAT[epoch:], first=epoch)

    assert [first, *rest] == [1.0, *FLAT_RATES][epoch:]


def test_a_run_preempted_more_often_than_its_patience_still_lowers_its_rate():
    """Keras measured: 24 epochs, patience 5, preempted every 3: no reduction instead of 4."""
    story = Story({**PLATEAU, "patience": 5}, initial_learning_rate=0.1)

    for epoch in range(24):
        if epoch % 3 == 0:
            story.attempt(epoch)
        story.report(epoch, 1.0)

    assert story.run.learning_rate == pytest.approx(0.1 * 0.5**4)


def test_superseded_reports_stay_in_the_log_and_are_marked():
    story = Story()
    story.attempt(0)
    story.train(FLAT[:4])

    story.attempt(2)

    marks = [(event.epoch, event.superseded_by) for event in story.log.events if event.kind == "report"]
    assert marks == [(0, None), (1, None), (2, 2), (3, 2)]


def test_an_older_attempt_is_rejected_with_the_action_stop():
    story = Story()
    story.attempt(0)
    story.attempt(0)

    with pytest.raises(errors.StaleAttempt) as refusal:
        story.report(0, 1.0, attempt=1)

    assert refusal.value.details == {"attempt": 2, "action": "stop"}


def test_an_attempt_that_never_began_is_refused():
    story = Story()

    with pytest.raises(errors.UnknownAttempt):
        story.report(0, 1.0, attempt=7)


def test_the_same_key_is_the_same_attempt():
    story = Story()
    first = story.attempt(0, key="slurm 1")

    assert story.attempt(0, key="slurm 1") == replace(first, replayed=True)


def test_the_key_of_a_fenced_attempt_is_stale():
    story = Story()
    story.attempt(0, key="slurm 1")
    story.attempt(0, key="slurm 2")

    with pytest.raises(errors.StaleAttempt):
        story.attempt(0, key="slurm 1")


def test_a_known_key_with_another_epoch_is_a_conflict():
    story = Story()
    story.attempt(0, key="slurm 1")

    with pytest.raises(errors.AttemptConflict):
        story.attempt(1, key="slurm 1")


def test_a_checkpoint_newer_than_the_log_is_rejected_without_gap():
    story = Story()
    story.train(FLAT[:3])

    with pytest.raises(errors.ServerBehind) as refusal:
        story.attempt(7)

    assert refusal.value.details["epoch"] == 3


def test_a_gap_at_the_start_of_an_attempt_is_accepted_with_gap():
    story = Story()
    story.train(FLAT[:3])

    decision = story.attempt(7, gap=True)

    assert (decision.epoch, decision.learning_rate, story.log.events[-1].notes) == (7, 0.5, {"gap": 4})


def test_a_new_run_may_begin_at_any_epoch():
    story = Story()

    assert story.attempt(10).epoch == 10


def test_a_trainer_with_newer_decisions_than_the_log_learns_what_is_missing():
    story = Story()
    story.train(FLAT[:3])

    with pytest.raises(errors.ServerBehind) as refusal:
        story.report(9, 1.0, last_seq=10)

    assert refusal.value.details == {"epoch": 3, "seq": 4}


def test_a_command_effective_from_the_first_epoch_not_yet_decided():
    story = Story()
    story.attempt(0)
    story.train(FLAT[:2])

    story.command("set_learning_rate", 0.3)

    assert story.run.learning_rate == 1.0
    assert story.train(FLAT[2:5], first=2) == [0.3, 0.3, 0.3]


def test_a_command_given_before_any_trainer_came_effective_from_the_start():
    story = Story()

    story.command("set_learning_rate", 0.3)

    assert story.attempt(0).learning_rate == 0.3


def test_a_command_never_rewrites_a_decision():
    story = Story()
    story.attempt(0)
    first = story.report(0, 1.0)

    story.command("scale", 0.1)

    assert story.report(0, 1.0) == replace(first, replayed=True)


def test_release_returns_exactly_to_the_curve():
    story = Story()
    story.attempt(0)
    story.command("set_learning_rate", 0.3)
    story.train(FLAT[:5])

    story.command("release")

    assert story.train(FLAT[5:], first=5) == FLAT_RATES[5:]


def test_a_factor_multiplies_the_curve_and_the_plateau_goes_on_beneath():
    story = Story()
    story.attempt(0)

    story.command("scale", 0.1)

    assert story.train(FLAT) == pytest.approx([rate * 0.1 for rate in FLAT_RATES])


def test_a_factor_on_a_pinned_run_multiplies_the_pin():
    story = Story()
    story.attempt(0)
    story.command("set_learning_rate", 0.4)
    story.report(0, 1.0)

    story.command("scale", 0.5)

    assert story.report(1, 1.0).learning_rate == 0.2


def test_a_retried_factor_counts_once():
    story = Story()
    story.attempt(0)

    story.command("scale", 0.5, key="halve")
    story.command("scale", 0.5, key="halve")

    assert story.report(0, 1.0).learning_rate == 0.5


def test_a_commanded_rate_says_so():
    story = Story()
    story.command("scale", 0.5)

    assert story.attempt(0).reason == "command"


def test_an_order_survives_a_rewind_and_effective_from_the_epoch_it_held_from():
    story = Story()
    story.attempt(0)
    story.train(FLAT[:6])
    story.command("set_learning_rate", 0.01)
    uninterrupted = [*FLAT_RATES[:6], 0.01, 0.01]
    story.train(FLAT[6:8], first=6)

    first = story.attempt(3).learning_rate

    assert [first, *story.train(FLAT[3:8], first=3)] == uninterrupted[2:]


def test_a_release_in_the_new_attempt_cancels_the_pin_of_the_old_one():
    story = Story()
    story.attempt(0)
    story.train(FLAT[:8])
    story.command("set_learning_rate", 0.01)
    story.attempt(2)

    story.command("release")

    assert story.train(FLAT[2:], first=2) == FLAT_RATES[2:]


@pytest.mark.parametrize("value", [0.0, -1.0, nan, inf, None, 2.0])
def test_a_rate_outside_the_bounds_is_refused(value):
    story = Story({"schedule": PLATEAU, "max_lr": 1.0})

    with pytest.raises(errors.InvalidCommand):
        story.command("set_learning_rate", value)


def test_a_stop_is_in_the_next_decision_and_in_that_of_a_restart():
    story = Story()
    story.attempt(0)

    story.command("stop")

    assert [story.report(0, 1.0).action, story.attempt(1).action] == ["stop", "stop"]


def test_release_takes_a_stop_back():
    story = Story()
    story.command("stop")

    story.command("release")

    assert story.attempt(0).action == "continue"


def test_a_finished_run_takes_no_new_report_but_replays_old_ones():
    story = Story()
    first = story.report(0, 1.0)
    story.finish("completed")

    with pytest.raises(errors.RunFinished):
        story.report(1, 1.0)
    assert story.report(0, 1.0) == replace(first, replayed=True)


def test_an_attempt_goes_on_with_a_finished_run():
    story = Story()
    story.train(FLAT[:3])
    story.finish("completed")

    story.attempt(3)

    assert (story.run.status, story.train(FLAT[3:], first=3)) == ("running", FLAT_RATES[3:])


def test_the_same_policy_again_changes_nothing_even_with_the_rate_of_a_checkpoint():
    story = Story()
    before = story.run

    story.put(PLATEAU, initial_learning_rate=0.25)

    assert story.run == before


def test_another_policy_is_refused_with_the_difference():
    story = Story()

    with pytest.raises(errors.PolicyConflict) as refusal:
        story.put({**PLATEAU, "patience": 7})

    assert refusal.value.details["difference"] == {"policy.schedule.patience": [2, 7]}


def test_replace_keeps_what_the_plateau_remembers():
    story = Story()
    story.train(FLAT[:2])

    story.put({**PLATEAU, "factor": 0.1}, "replace")

    assert story.report(2, 1.0).learning_rate == pytest.approx(0.1)


def test_replace_by_another_shape_goes_on_from_the_rate_in_force():
    story = Story({"type": "constant"}, initial_learning_rate=0.5)
    story.train(FLAT[:2])

    story.put(PLATEAU, "replace")

    assert story.report(2, 1.0).learning_rate == 0.5


def test_restart_begins_with_a_fresh_state():
    story = Story()
    story.train(FLAT[:5])

    story.put({**PLATEAU, "patience": 3}, "restart", initial_learning_rate=0.8)

    assert story.train(FLAT[5:9], first=5) == pytest.approx([0.8, 0.8, 0.8, 0.4])


def test_a_rewind_across_a_replaced_policy_runs_under_the_new_one():
    story = Story()
    story.attempt(0)
    story.train(FLAT[:4])
    story.put({**PLATEAU, "factor": 0.1}, "replace")

    story.attempt(2)

    assert story.report(2, 1.0).learning_rate == pytest.approx(0.1)


def test_a_policy_without_any_rate_is_refused():
    with pytest.raises(errors.InvalidPolicy):
        Story(initial_learning_rate=None)


# Ranks


def test_only_rank_0_decides_by_default_and_every_rank_gets_its_decision():
    story = Story(world_size=3)

    early = story.report(0, 9.0, rank=2)
    decided = story.report(0, 1.0, rank=0)
    late = story.report(0, 8.0, rank=1)

    assert early == Waiting(run="story", attempt=0, epoch=0, have=0, need=1)
    assert [story.report(0, 9.0, rank=2), late] == [replace(decided, replayed=True)] * 2


def test_the_mean_of_all_ranks_is_weighted_by_their_samples_whatever_the_order():
    policy = {"schedule": PLATEAU, "aggregate": {"ranks": "all", "reduce": "weighted_mean"}}
    bests = []
    for order in ([0, 1], [1, 0]):
        story = Story(policy, world_size=2)
        for rank in order:
            decision = story.report(0, [1.0, 3.0][rank], rank=rank, weight=[100.0, 10.0][rank])
        bests.append(decision.plateau["best"])

    assert bests == [(1.0 * 100 + 3.0 * 10) / 110] * 2


def test_reports_of_a_fenced_attempt_do_not_count_towards_the_quorum():
    story = Story({"schedule": PLATEAU, "aggregate": {"ranks": "all"}}, world_size=2)
    story.attempt(0)
    story.report(0, 1.0, rank=0)
    story.attempt(0)

    answer = story.report(0, 5.0, rank=1)

    assert (answer.have, answer.need) == (1, 2)


def test_a_rank_outside_the_world_is_refused():
    story = Story(world_size=2)

    with pytest.raises(errors.InvalidReport):
        story.report(0, 1.0, rank=2)


# Steps


def test_a_per_step_policy_is_evaluated_where_the_epoch_begins():
    story = Story({"schedule": {"type": "linear", "end_learning_rate": 0.0, "decay_steps": 100}, "unit": "step"})

    decision = story.report(0, 1.0, step=25)

    assert (decision.step, decision.learning_rate) == (25, 0.75)


def test_a_per_step_policy_needs_to_know_the_steps():
    story = Story({"schedule": {"type": "linear", "end_learning_rate": 0.0, "decay_steps": 100}, "unit": "step"})

    with pytest.raises(errors.InvalidReport):
        story.report(0, 1.0)


def test_a_per_step_run_resumes_at_the_step_its_epoch_began():
    story = Story({"schedule": {"type": "linear", "end_learning_rate": 0.0, "decay_steps": 100}, "unit": "step"})
    for epoch, step in enumerate([10, 30, 60]):
        story.report(epoch, 1.0, step=step)

    decision = story.attempt(2)

    assert (decision.step, decision.learning_rate) == (30, 0.7)


def test_a_rate_other_than_the_decided_one_is_noted_as_drift():
    story = Story()
    story.report(0, 1.0, learning_rate=1.0)

    story.report(1, 1.0, learning_rate=0.123)

    assert [event.notes for event in story.log.events[1:]] == [{}, {"drift": 1.0}]


def test_the_decision_after_a_drift_says_so_every_time_it_is_given():
    story = Story()
    decided = story.report(0, 1.0, learning_rate=0.123)

    again = story.report(0, 1.0, learning_rate=0.123)

    assert decided.drift == 1.0
    assert again == replace(decided, replayed=True)


@pytest.mark.parametrize("used", [0.3, 0.15])
def test_a_rate_commanded_and_applied_within_the_epoch_is_noted_as_live(used):
    """A trainer that applies commands as they arrive may have received only the first."""
    story = Story()
    story.attempt(0)
    story.command("set_learning_rate", 0.3)
    story.command("scale", 0.5)

    decided = story.report(0, 1.0, learning_rate=used)

    assert story.log.events[-1].notes == {"live": 1.0}
    assert decided.drift is None
    assert story.replayed() == story.run


def test_a_rate_without_a_command_is_drift_despite_other_commands():
    story = Story()
    story.attempt(0)
    story.command("scale", 0.5)

    story.report(0, 1.0, learning_rate=0.7)

    assert story.log.events[-1].notes == {"drift": 1.0}


def test_an_epoch_the_trainer_decided_alone_is_marked_in_the_log():
    story = Story()
    story.report(0, 1.0)

    story.report(1, 1.0, local=True)

    assert [event.payload.get("local") for event in story.log.events[1:]] == [None, True]
    assert story.replayed() == story.run


# Replay


def test_a_history_that_was_tampered_with_does_not_replay():
    story = Story()
    story.train(FLAT[:3])
    first, *rest = story.log.events
    forged = [first, replace(rest[0], payload={"metrics": {"val_loss": 0.5}}), *rest[1:]]

    with pytest.raises(ReplayMismatch):
        replay("story", forged)
