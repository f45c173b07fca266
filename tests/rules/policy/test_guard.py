"""A policy's guard: what it does about losses that are no numbers, or explode."""

from math import inf, nan

import pytest

from remotelr.rules import InvalidPolicy, policy_from_json
from support.rules.run_histories import PLATEAU, Story

CONSTANT = {"type": "constant", "learning_rate": 0.1}
COSINE = {"type": "cosine", "initial_learning_rate": 1.0, "decay_steps": 10}


def guarded(schedule=CONSTANT, **guard) -> Story:
    story = Story({"schedule": schedule, "guard": {"explosion_factor": 2.0, **guard}})
    story.attempt(0)
    return story


def acts(story: Story, losses) -> list[bool]:
    """Whether the guard acted on each of these."""
    first = story.run.epoch
    return ["did" in story.report(epoch, loss).why.get("guard", {}) for epoch, loss in enumerate(losses, first)]


@pytest.mark.parametrize("trouble", [nan, inf, -inf])
def test_a_loss_that_is_no_number_is_trouble(trouble):
    assert [False, True] == acts(guarded(), [0.5, trouble])


def test_the_first_loss_may_be_trouble():
    assert [True] == acts(guarded(), [nan])


def test_numbers_alone_may_be_watched():
    assert [False, False, True] == acts(guarded(non_finite=False), [0.5, nan, 1.1])


def test_only_values_above_k_times_the_running_mean_explode():
    """
    The mean of 0.5 and 0.7 is 0.6.
    """
    assert [False, False, False] == acts(guarded(), [0.5, 0.7, 1.2])
    assert [False, False, True] == acts(guarded(), [0.5, 0.7, 1.21])


def test_without_a_bound_nothing_explodes():
    assert [False, False] == acts(guarded(explosion_factor=None), [0.5, 1e9])


def test_a_mean_is_compared_after_min_samples_values():
    assert [False, False, False, True] == acts(guarded(min_samples=3), [0.1, 0.9, 2.0, 9.0])


def test_a_mean_that_is_not_above_zero_judges_nothing():
    assert [False, False] == acts(guarded(), [-1.0, 50.0])


def test_the_mean_follows_the_newer_values_once_its_window_is_full():
    """
    With a window of 1 it is the value before.
    """
    assert [False] * 4 == acts(guarded(window=1), [0.1, 0.2, 0.4, 0.8])
    assert [False, False, True, True] == acts(guarded(window=10), [0.1, 0.2, 0.4, 0.8])


def test_trouble_does_not_enter_the_mean():
    assert [False, True, True, False] == acts(guarded(), [0.5, 9.0, 1.1, 0.9])


def test_a_report_without_the_metric_is_not_judged():
    story = guarded()
    story.report(0, 0.5)

    assert "guard" not in story.report(1).why


def test_hold_trains_on_with_the_rate_of_the_epoch_before_and_the_curve_goes_on_beneath():
    story, undisturbed = guarded(COSINE), Story(COSINE)
    expected = [undisturbed.first.learning_rate, *undisturbed.train([0.5] * 6)]

    rates = story.train([0.5, 0.5, nan, nan, 0.5])

    assert [expected[1], expected[2], expected[2], expected[2], expected[5]] == rates


def test_a_plateau_does_not_see_what_the_guard_acts_on():
    story = guarded({**PLATEAU, "patience": 1}, max_actions=100)
    story.train([0.5, nan, nan, nan])

    assert {"best": 0.5, "wait": 0, "cooldown": 0} == story.run.policy.plateau(story.run.state.schedule)


def test_scale_multiplies_for_good_and_a_release_leaves_it():
    story = guarded(action="scale", factor=0.1)
    rates = story.train([0.5, nan, 0.5])
    story.command("set_learning_rate", 0.7)
    story.report(3, 0.5)
    story.command("release")

    assert rates == pytest.approx([0.1, 0.01, 0.01])
    assert story.report(4, 0.5).learning_rate == pytest.approx(0.01)


def test_the_reason_is_guard_where_it_made_the_rate():
    story = guarded(action="scale")

    assert ["schedule", "guard", "guard"] == [story.report(epoch, loss).reason for epoch, loss in enumerate([1, 9, 1])]


def test_an_operators_pin_is_above_the_guard():
    story = guarded(action="scale")
    story.command("set_learning_rate", 0.7)

    assert [0.7, 0.7] == story.train([0.5, nan])


def test_rollback_names_the_best_epoch_so_far():
    story = guarded(action="rollback")
    story.train([0.5, 0.4, 0.45])
    decision = story.report(3, nan)

    assert ("rollback", 1, 0.05) == (decision.action, decision.rollback_to, decision.learning_rate)
    assert ("continue", None) == (story.report(4, 0.5).action, story.run.state.guard.back_to)


@pytest.mark.parametrize(("to", "expected"), [("best", 1), ("last", 2), (0, 0)])
def test_a_rollback_goes_to_the_epoch_of_rollback_to(to, expected):
    story = guarded(action="rollback", rollback_to=to)
    story.train([0.5, 0.4, 0.45])

    assert expected == story.report(3, nan).rollback_to


@pytest.mark.parametrize("to", ["best", "last", 7])
def test_where_there_is_no_checkpoint_yet_a_rollback_only_scales(to):
    decision = guarded(action="rollback", rollback_to=to).report(0, nan)

    assert ("continue", None, 0.05) == (decision.action, decision.rollback_to, decision.learning_rate)


def test_a_trainer_that_died_before_its_rollback_gets_it_again():
    story = guarded(action="rollback")
    story.train([0.5, 0.4, nan])
    decision = story.attempt(3)

    assert ("rollback", 1) == (decision.action, decision.rollback_to)


def test_an_attempt_that_follows_a_rollback_keeps_the_state_of_the_guard():
    """
    Otherwise the same explosion would come again and again, without limit.
    """
    story = guarded(action="rollback", max_actions=2)
    story.train([0.5, 0.4, nan])
    decision = story.attempt(2)

    assert ("continue", 0.05, 1) == (decision.action, decision.learning_rate, story.run.state.guard.acts)
    assert story.replayed() == story.run


def test_an_attempt_that_goes_back_elsewhere_finds_everything_as_it_was():
    story = guarded(COSINE, action="scale")
    rates = story.train([0.5, 0.4, nan, 0.5, 0.5])
    story.attempt(1)

    assert rates[1:] == story.train([0.4, nan, 0.5, 0.5], first=1)


def test_stop_stops_and_says_so_again_to_an_attempt():
    story = guarded(action="stop")
    story.report(0, 0.5)

    assert "stop" == story.report(1, nan).action
    assert "stop" == story.attempt(2).action


def test_a_guard_that_has_acted_waits_its_cooldown():
    assert [False, True, False, False, True] == acts(guarded(cooldown=2), [0.5, nan, nan, nan, nan])


@pytest.mark.parametrize(("then", "action"), [("stop", "stop"), ("ignore", "continue")])
def test_a_guard_acts_no_more_often_than_its_limit(then, action):
    story = guarded(max_actions=2, on_max_actions=then)
    story.train([0.5, nan, nan])
    decision = story.report(3, nan)

    assert action == decision.action
    assert 2 == story.run.state.guard.acts


def test_a_policy_of_another_guard_keeps_what_was_seen_and_one_of_none_forgets_it():
    story = guarded(action="scale")
    story.train([0.5, nan])
    story.put({"schedule": CONSTANT, "guard": {"action": "hold"}}, "replace")
    kept = story.report(2, 0.5).learning_rate
    story.put({"schedule": CONSTANT}, "replace")

    assert [0.05, 0.1] == [kept, story.report(3, 0.5).learning_rate]


def test_the_ranks_are_judged_by_what_they_say_together():
    aggregate = {"ranks": "all", "reduce": "mean"}
    story = Story({"schedule": CONSTANT, "aggregate": aggregate, "guard": {"action": "stop"}}, world_size=2)
    story.report(0, 0.5)

    assert "stop" == story.report(0, nan, rank=1).action


def test_a_guard_that_looks_at_nothing_is_refused():
    with pytest.raises(InvalidPolicy, match=r"guard\.non_finite"):
        policy_from_json({"schedule": CONSTANT, "guard": {"non_finite": False}})


def test_the_metric_of_a_guard_is_monitored():
    policy = policy_from_json({"schedule": CONSTANT, "guard": {"monitor": "loss"}})

    assert ("loss",) == policy.monitors()
