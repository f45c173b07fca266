"""Schedules made of schedules, and what a plateau means inside them."""

import pytest
from pytest import approx

from remotelr.rules import Binding, InvalidPolicy, Point, policy_from_json
from support.rules.curves import curve, epoch_rates

UP = {"type": "linear", "initial_learning_rate": 0.2, "end_learning_rate": 1.0, "decay_steps": 4}
PLATEAU = {"type": "reduce_on_plateau", "flavor": "torch", "factor": 0.5, "patience": 0}


def in_sequence(*schedules, milestones):
    return {"type": "sequential", "schedules": list(schedules), "milestones": milestones}


def test_each_part_counts_from_its_milestone():
    document = in_sequence(
        UP, {"type": "step", "initial_learning_rate": 0.8, "step_size": 2, "gamma": 0.5}, milestones=[3]
    )

    assert approx([0.2, 0.4, 0.6, 0.8, 0.8, 0.4, 0.4, 0.2]) == curve(document, range(8))


def test_a_plateau_after_a_warmup_starts_from_the_rate_arrived_at():
    """
    It sees no metric of an epoch before its milestone: the losses of epochs 0 to 3 are nothing to it.
    """
    document = in_sequence(UP, PLATEAU, milestones=[4])

    rates = epoch_rates(document, [1, 1, 1, 1, 9, 9, 9], initial=0.01)

    assert approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0, 0.5, 0.25]) == rates


def test_a_plateau_hands_its_reduced_rate_to_the_next_plateau():
    document = in_sequence(PLATEAU, PLATEAU | {"factor": 0.1}, milestones=[3])

    rates = epoch_rates(document, [9, 9, 9, 9, 9, 9], initial=1.0)

    assert approx([1, 1, 0.5, 0.25, 0.25, 0.025, 0.0025]) == rates


def test_an_open_loop_part_begins_at_its_own_rate_whatever_came_before():
    document = in_sequence(PLATEAU, {"type": "constant"}, milestones=[3])

    assert [1, 1, 0.5, 1.0, 1.0] == epoch_rates(document, [9, 9, 9, 9], initial=1.0)


def test_a_part_that_no_report_has_reached_yet_begins_where_the_one_before_stands():
    """
    Reports may have gaps (`validation_freq`): a part is begun by the first question about it.
    """
    policy = policy_from_json(in_sequence(PLATEAU, UP, PLATEAU, milestones=[5, 9])).bind(Binding(0.5))
    state = policy.start(0.5)

    assert 1.0 == policy.learning_rate(state, 20)

    state = policy.observe(state, Point(20, {"val_loss": 9}))
    state = policy.observe(state, Point(21, {"val_loss": 9}))

    assert 0.5 == policy.learning_rate(state, 22)
    assert 3 == len(state)


def test_the_plateau_in_force_is_the_one_shown():
    policy = policy_from_json(in_sequence(UP, PLATEAU, milestones=[2])).bind(Binding())
    state = policy.start(0.5)

    assert policy.plateau(state) is None

    for epoch in range(4):
        state = policy.observe(state, Point(epoch, {"val_loss": 3.0 + epoch}))

    assert 5.0 == policy.plateau(state)["best"]


def test_an_open_loop_tree_remembers_nothing():
    document = in_sequence(UP | {"min_lr": 0.1}, {"type": "chained", "schedules": [UP]}, milestones=[2])
    policy = policy_from_json(document).bind(Binding(0.5))

    assert policy.start(0.5) is None
    assert policy.observe(None, Point(0, {"val_loss": 1.0})) is None


def test_chained_parts_multiply_and_begin_at_1_where_they_name_no_rate():
    document = {
        "type": "chained",
        "schedules": [{"type": "step", "step_size": 2, "gamma": 0.5}, {"type": "exponential", "decay_rate": 0.9}],
    }

    expected = [0.1 * 0.5 ** (epoch // 2) * 0.9**epoch for epoch in range(8)]

    assert approx(expected) == curve(document, range(8), initial=0.1)


def test_a_plateau_in_a_chain_multiplies_the_others():
    document = {"type": "chained", "schedules": [UP, PLATEAU]}

    assert approx([0.02, 0.04, 0.03, 0.02, 0.0125]) == epoch_rates(document, [9, 9, 9, 9], initial=0.1)


def test_the_rate_of_the_run_reaches_every_open_part():
    document = in_sequence({"type": "constant"}, {"type": "step", "step_size": 1}, milestones=[1])

    assert approx([0.3, 0.3, 0.03]) == curve(document, range(3), initial=0.3)


def test_a_missing_rate_is_named_by_its_path():
    policy = policy_from_json({"schedule": in_sequence(UP, {"type": "step", "step_size": 1}, milestones=[1])})

    with pytest.raises(InvalidPolicy) as caught:
        policy.bind(Binding())

    assert "schedule.schedules[1].initial_learning_rate" == caught.value.path


def test_a_policy_that_is_not_bound_raises_when_its_rate_is_evaluated():
    with pytest.raises(InvalidPolicy, match="bind the policy to a run first"):
        policy_from_json({"type": "step", "step_size": 1}).learning_rate(None, 0)
