"""The policy around the schedule: bounds, what it watches, what it begins with."""

from math import inf, nan

import pytest
from pytest import approx

from remotelr.rules import Binding, policy_from_json
from remotelr.rules.policy.policy import walk
from remotelr.rules.policy.registry import NODES

PLATEAU = {"type": "reduce_on_plateau", "monitor": "val_loss"}
STEP = {"type": "step", "initial_learning_rate": 1.0, "step_size": 1}


def test_the_bounds_hold_whatever_the_schedule_says():
    policy = policy_from_json({"schedule": STEP, "min_lr": 0.05, "max_lr": 0.5})

    assert [0.5, 0.1, 0.05, 0.05] == approx([policy.learning_rate(None, t) for t in range(4)])
    assert [1.0, 0.1, 0.01, 0.001] == approx([policy.raw_learning_rate(None, t) for t in range(4)])


def test_no_rate_is_negative():
    """
    torch's one_cycle, straight, is below 0 one position past its end.
    """
    policy = policy_from_json({"type": "one_cycle", "max_lr": 0.1, "total_steps": 60, "anneal_strategy": "linear"})

    assert policy.raw_learning_rate(None, 60) < 0 == policy.learning_rate(None, 60)
    assert approx(4e-7) == policy.learning_rate(None, 61)


def test_no_rate_is_above_1000():
    policy = policy_from_json(STEP | {"gamma": 1e6})

    assert 1000.0 == policy.learning_rate(None, 10_000_000)


@pytest.mark.parametrize("position", [-1.0, -inf, inf, nan, 1e308])
def test_a_position_that_cannot_be_still_has_a_rate(position):
    policy = policy_from_json(STEP)

    assert 0.0 <= policy.learning_rate(None, position) <= 1.0


def test_the_metrics_it_watches_are_named_once_each():
    document = {
        "type": "sequential",
        "schedules": [PLATEAU, PLATEAU | {"monitor": "val_accuracy", "warmup": {"steps": 3}}, PLATEAU],
        "milestones": [5, 9],
    }

    assert ("val_loss", "val_accuracy") == policy_from_json(document).monitors()
    assert () == policy_from_json(STEP).monitors()


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        (STEP, 1.0),
        (STEP | {"warmup": {"steps": 5}}, 1.0),
        ({"type": "step", "step_size": 1}, None),
        ({"type": "constant", "learning_rate": 0.3}, 0.3),
        ({"type": "one_cycle", "max_lr": 0.5, "total_steps": 9, "div_factor": 5}, 0.1),
        ({"type": "cyclic", "base_lr": 0.1, "max_lr": 1}, 0.1),
        ({"type": "piecewise_constant", "boundaries": [1], "values": [0.7, 0.1]}, 0.7),
        ({"type": "sequential", "schedules": [STEP, PLATEAU], "milestones": [2]}, 1.0),
        (PLATEAU, None),
        (PLATEAU | {"schedule": STEP}, 1.0),
    ],
)
def test_the_rate_it_names_for_its_beginning(document, expected):
    assert expected == policy_from_json(document).initial_learning_rate


def test_binding_fills_in_what_is_open_and_nothing_else():
    policy = policy_from_json({"type": "chained", "schedules": [STEP, {"type": "step", "step_size": 2}]})

    once = policy.bind(Binding(initial_learning_rate=0.2))

    assert once == once.bind(Binding(initial_learning_rate=0.7))
    assert approx(0.2 * 0.1) == once.learning_rate(None, 1)


def test_a_tree_is_walked_from_the_root():
    document = {"type": "chained", "schedules": [STEP | {"offset": 1}, PLATEAU | {"schedule": STEP}]}

    types = [node.type for node in walk(policy_from_json(document).schedule)]

    assert ["chained", "modified", "step", "reduce_on_plateau", "step"] == types


@pytest.mark.parametrize("name", NODES)
def test_every_type_is_its_own_name_in_the_table(name):
    assert name == NODES[name].type
