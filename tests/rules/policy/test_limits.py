"""limits: neither the policy of a run nor its operators move the rate beyond them."""

from dataclasses import replace

import pytest

from remotelr.rules import InvalidCommand, InvalidPolicy, Limits, policy_from_json
from support.rules.run_histories import Story

CONSTANT = {"type": "constant", "learning_rate": 0.1}
COSINE = {"type": "cosine", "initial_learning_rate": 1.0, "decay_steps": 10}


def limited(policy=CONSTANT, *, total_epochs=None, **limits) -> Story:
    story = Story(policy, limits=Limits(**limits), total_epochs=total_epochs)
    story.attempt(0)
    return story


def test_every_decision_is_inside_the_limits_and_says_so():
    story = limited(COSINE, min_lr=0.3, max_lr=0.9)

    decisions = [story.report(epoch, 0.5) for epoch in range(10)]

    assert {0.9, 0.3} < {decision.learning_rate for decision in decisions}
    assert all(0.3 <= decision.learning_rate <= 0.9 for decision in decisions)
    assert ("bounds", "limits") == (decisions[-1].reason, decisions[-1].why["bound"])


def test_the_limits_win_over_the_policys_own_bounds():
    story = limited({"schedule": CONSTANT, "min_lr": 0.05}, max_lr=0.01)

    assert 0.01 == story.report(0, 0.5).learning_rate


@pytest.mark.parametrize("mode", ["pin", "one_shot", "rebase"])
@pytest.mark.parametrize("value", [0.01, 0.5])
def test_a_rate_outside_the_limits_is_refused_with_the_nearest_that_is_not(mode, value):
    story = limited(min_lr=0.05, max_lr=0.2)

    with pytest.raises(InvalidCommand, match=r"nearest permitted rate is 0\.(05|2)"):
        story.command("set_learning_rate", value, mode=mode)


def test_a_factor_that_leads_out_of_the_limits_is_refused():
    story = limited(min_lr=0.04, max_lr=0.25)

    for factor in (0.3, 3.0):
        with pytest.raises(InvalidCommand, match="outside the limits"):
            story.command("scale", factor=factor)
    story.command("scale", factor=0.5)

    assert 0.05 == story.report(0, 0.5).learning_rate


def test_a_factor_that_leads_back_towards_the_limits_is_taken():
    story = limited(COSINE, max_lr=0.5)
    story.command("scale", factor=0.8)

    assert 0.5 == story.report(0, 0.5).learning_rate


@pytest.mark.parametrize(
    "order",
    [
        {"type": "set_learning_rate", "value": 0.3},
        {"type": "set_learning_rate", "value": 0.3, "mode": "one_shot"},
        {"type": "set_learning_rate", "value": 0.3, "mode": "rebase"},
        {"type": "set_learning_rate", "value": 0.04},
        {"type": "scale", "factor": 2.5},
        {"type": "scale", "factor": 0.4},
        {"type": "replace_policy", "policy": policy_from_json({"type": "constant", "learning_rate": 0.3})},
    ],
)
def test_no_command_changes_the_rate_by_more_than_the_limits_say(order):
    story = limited(max_change=2.0)

    with pytest.raises(InvalidCommand, match="more than a factor of 2"):
        story.command(**order)


@pytest.mark.parametrize(
    "order",
    [
        {"type": "scale", "factor": 1e-6},
        {"type": "set_learning_rate", "value": 0.3},
        {"type": "set_learning_rate", "value": 0.3, "mode": "rebase"},
    ],
)
def test_a_one_shot_hides_no_change_that_comes_after_it(order):
    story = limited(max_change=2.0)
    story.command("set_learning_rate", 0.15, mode="one_shot")

    with pytest.raises(InvalidCommand, match="more than a factor of 2"):
        story.command(**order)


@pytest.mark.parametrize("mode", ["pin", "one_shot"])
@pytest.mark.parametrize("order", ["replace_policy", "extend"])
def test_a_rate_that_is_held_hides_no_other_curve(order, mode):
    story = limited({**COSINE, "initial_learning_rate": 0.1}, max_change=2.0, total_epochs=10)
    story.train([0.5] * 7)
    story.command("set_learning_rate", 0.015, mode=mode)
    other = {"total": 30, "continuity": "restart"}
    if order == "replace_policy":
        other = {"policy": policy_from_json(CONSTANT)}

    with pytest.raises(InvalidCommand, match="more than a factor of 2"):
        story.command(order, **other)


def test_a_guard_that_holds_the_rate_hides_no_factor():
    story = limited({"schedule": CONSTANT, "guard": {"action": "hold"}}, max_change=2.0)
    story.report(0, float("nan"))

    with pytest.raises(InvalidCommand, match="more than a factor of 2"):
        story.command("scale", factor=1e-6)


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_exactly_the_largest_change_is_allowed(factor):
    story = limited(max_change=2.0)
    story.command("scale", factor=factor)

    assert 0.1 * factor == story.report(0, 0.5).learning_rate


def test_a_rate_of_zero_is_no_place_to_multiply_from():
    story = limited({"type": "cosine", "initial_learning_rate": 1.0, "decay_steps": 1}, max_change=10.0)
    story.train([0.5, 0.5])

    with pytest.raises(InvalidCommand, match="more than a factor of 10"):
        story.command("set_learning_rate", 0.1)


def test_the_way_back_to_the_curve_is_always_open():
    story = limited(max_change=2.0)
    for _ in range(5):
        story.command("scale", factor=0.5)
        story.report(story.run.epoch, 0.5)
    story.command("release")

    assert 0.1 == story.report(story.run.epoch, 0.5).learning_rate


def test_other_limits_hold_from_the_next_decision_on():
    story = limited(max_lr=0.05)
    before = story.report(0, 0.5).learning_rate
    story.command("limits", limits=Limits(max_lr=0.07))
    between = story.report(1, 0.5).learning_rate
    story.command("limits")

    assert [0.05, 0.07, 0.1] == [before, between, story.report(2, 0.5).learning_rate]


def test_a_run_that_goes_back_goes_back_under_the_limits_of_today():
    story = limited()
    story.train([0.5] * 4)
    story.command("limits", limits=Limits(max_lr=0.05))
    story.attempt(1)

    assert 0.05 == story.run.learning_rate
    assert story.replayed() == story.run


def test_a_trainer_that_requests_its_run_again_keeps_the_limits():
    story = limited(max_lr=0.05)
    before = story.run
    story.put(CONSTANT)
    unchanged = story.run
    story.put(COSINE, "replace")

    assert before == unchanged
    assert Limits(max_lr=0.05) == story.run.spec.limits == story.run.state.limits


def test_a_trainer_that_requests_another_policy_changes_the_rate_by_no_more_than_a_command():
    story = limited(max_change=2.0)
    story.train([0.5] * 3)
    before = story.run

    with pytest.raises(InvalidCommand, match="more than a factor of 2"):
        story.put({**CONSTANT, "learning_rate": 0.3}, "replace")
    assert before == story.run

    story.put({**CONSTANT, "learning_rate": 0.2}, "replace")
    story.put({**CONSTANT, "learning_rate": 0.9}, "restart")

    assert 0.9 == story.report(3, 0.5).learning_rate
    assert story.replayed() == story.run


@pytest.mark.parametrize("limits", [{"min_lr": 0.2, "max_lr": 0.1}, {"max_change": 0.5}, {"min_lr": -1.0}])
def test_limits_that_cannot_be_are_refused(limits):
    with pytest.raises(InvalidPolicy):
        Limits(**limits)


def test_a_run_without_limits_is_kept_as_runs_were_before_there_were_any():
    story = Story(CONSTANT)

    assert "limits" not in story.run.spec.to_json()
    assert {"schedule": None} == story.run.state.to_json()
    assert story.run.spec == replace(story.run.spec, limits=None)
