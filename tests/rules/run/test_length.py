"""The length that a trainer states again: of a resumed job, or of one that is fitted for more epochs."""

from typing import Any

import pytest

from remotelr.rules import PolicyConflict, describe
from support.rules.run_histories import COSINE, FLAT, PLATEAU, Story, began, next_rates

# Its curve depends on the length of the run.
FALLING = {"type": "expression", "expression": "lr * (1 - epoch / total) + 0.01"}


def lengths(*stated: int, policy: Any = PLATEAU) -> list[int | None]:
    """The run's length after each statement, of a run that was to be 4 epochs long."""
    story = began(policy, total_epochs=4)
    found = []
    for total in stated:
        story.state_length(total)
        found.append(story.run.spec.total_epochs)
    return found


def test_a_run_has_the_length_that_its_trainer_stated_last():
    assert [9, 9, 6] == lengths(9, 9, 6)


def test_the_same_length_is_no_event():
    story = began(total_epochs=4)
    story.state_length(9)
    seq = story.run.seq
    story.state_length(9)

    assert seq == story.run.seq
    assert "The trainer states that the run is 9 epochs long." == describe(story.log.events[-1])


@pytest.mark.parametrize("policy", [PLATEAU, COSINE])
def test_a_stated_length_changes_no_rate_and_no_state(policy):
    story, undisturbed = began(policy, total_epochs=4), began(policy, total_epochs=4)
    before = story.run
    story.state_length(9)

    assert (before.state, before.learning_rate, before.policy_version) == (
        story.run.state,
        story.run.learning_rate,
        story.run.policy_version,
    )
    assert next_rates(undisturbed, 5) == next_rates(story, 5)


def test_a_rewind_to_before_a_stated_length_keeps_the_length_and_the_curve():
    story, undisturbed = (began(PLATEAU, epochs=5, total_epochs=6) for _ in range(2))
    story.state_length(9)
    for each in (story, undisturbed):
        each.attempt(2)

    assert 9 == story.run.spec.total_epochs
    assert undisturbed.train(FLAT[:6], first=2) == story.train(FLAT[:6], first=2)
    assert story.replayed() == story.run


def test_a_length_on_which_the_curve_depends_is_a_conflict_and_with_keep_stays():
    story = began(FALLING, total_epochs=4)

    with pytest.raises(PolicyConflict):
        story.state_length(9)
    story.state_length(9, "keep")
    assert 4 == story.run.spec.total_epochs


@pytest.mark.parametrize(("stated", "expected"), [([4], 7), ([5], 7), ([9], 9), ([9, 4], 4)])
def test_a_trainer_can_only_make_a_run_longer_that_an_operator_has_extended(stated, expected):
    """
    A trainer that restarts states the length it was written with: that is no reason to undo the operator's.
    """
    story = began(PLATEAU, total_epochs=4)
    story.command("extend", total=7)
    for total in stated:
        story.state_length(total)

    assert expected == story.run.spec.total_epochs
    assert story.replayed() == story.run


def test_a_cancelled_release_stops_the_run_again_although_a_length_was_stated_since():
    story = Story({"schedule": PLATEAU, "stop": {"target": {"value": 0.1}}}, total_epochs=4)
    story.attempt(0)
    stopped = story.report(0, 0.05).action
    story.command("release")
    seq = story.run.seq
    story.state_length(9)
    story.command("cancel", seq=seq)

    assert ["stop", "stop"] == [stopped, story.report(1, 0.5).action]
