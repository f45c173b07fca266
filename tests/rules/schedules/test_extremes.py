"""Commands at the ends of the numbers: each is refused, or leaves a run that can be decided, stored and read again."""

import json
from dataclasses import replace
from math import isfinite

import pytest

from remotelr.rules import InvalidCommand, RunState, Until
from remotelr.rules.run.state import Override
from support.rules.run_histories import Story

CONSTANT = {"type": "constant", "learning_rate": 0.1}


def began(policy=CONSTANT, **rest) -> Story:
    story = Story(policy, **rest)
    story.attempt(0)
    return story


@pytest.mark.parametrize("factor", [1e-12, 1e12])
@pytest.mark.parametrize("held", [None, 0.3])
def test_a_run_survives_any_number_of_the_largest_factors(factor, held):
    story = began()
    if held is not None:
        story.command("set_learning_rate", held)
    for _ in range(40):
        story.command("scale", factor=factor)
    decision = story.report(0, 1.0)

    assert isfinite(decision.learning_rate)
    assert decision.state == RunState.from_json(json.loads(json.dumps(decision.state, allow_nan=False))).to_json()
    json.dumps(decision.why, allow_nan=False)
    assert story.replayed() == story.run


@pytest.mark.parametrize("factor", [0.0, 1e-13, 1e13, 1e200, float("inf"), float("nan")])
def test_a_factor_out_of_this_world_is_refused(factor):
    with pytest.raises(InvalidCommand, match="factor must be from 1e-12 to"):
        began().command("scale", factor=factor)


def test_a_factor_that_was_taken_when_any_was_poisons_no_run():
    """
    Logs of before there were bounds may hold some, ordered or carried out.
    """
    story = began()
    orders = (Override(epoch=1, factor=1e200), Override(epoch=1, factor=1e200))
    story.run = replace(story.run, state=RunState(overrides=orders))
    decision = story.report(0, 1.0)

    assert 1000.0 == decision.learning_rate
    json.dumps([decision.state, decision.why], allow_nan=False)


def test_a_rebase_where_the_curve_is_next_to_nothing_is_a_pin():
    story = began({"type": "constant", "learning_rate": 1e-300})
    story.command("set_learning_rate", 0.2, mode="rebase")

    assert [0.2, 0.2] == story.train([1.0, 1.0])
    assert 0.2 == story.run.state.pin


@pytest.mark.parametrize("offset", ["-14:00", "+00:00", "+14:00"])
@pytest.mark.parametrize("day", ["0001-01-01", "1969-12-30", "9999-01-02", "9999-12-31"])
def test_a_time_at_the_ends_of_the_calendar_is_refused(day, offset):
    with pytest.raises(InvalidCommand, match="from 1970 to 9998"):
        began().command("set_learning_rate", 0.2, until=Until(time=f"{day}T00:00:00{offset}"))


@pytest.mark.parametrize("continuity", ["keep_lr", "keep_fraction", "restart"])
def test_a_run_that_made_more_steps_than_its_lengths_say_is_extended_beyond_them_or_not_at_all(continuity):
    """
    Of 10 epochs of 10 steps the third ended, by the trainer's count, at step 190; epoch 4 begins at 200.
    """
    policy = {"schedule": {"type": "constant", "learning_rate": 0.1}, "unit": "step"}
    story = began(policy, steps_per_epoch=10, total_epochs=10)
    story.train([1.0] * 2)
    story.report(2, 1.0, step=190)

    with pytest.raises(InvalidCommand, match="20 epochs end at step 200") as refusal:
        story.command("extend", total=20, continuity=continuity)
    assert "total" == refusal.value.details["field"]

    story.command("extend", total=21, continuity=continuity)

    assert 0.1 == story.report(3, 1.0).learning_rate
