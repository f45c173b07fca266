"""Every plateau case that the real libraries have answered (`golden/README.md`): the rates, and all of the state."""

import json
from math import isfinite
from pathlib import Path

import pytest

from remotelr.rules import Point, metrics_from_json
from remotelr.rules.policy.codec import node_from_json
from remotelr.rules.schedules.base import Schedule

GOLDEN = Path(__file__).parents[1] / "golden"
FAMILIES = ["keras", "keras_legacy", "torch", "optax", "timm", "hf_greedy"]
CASES = {family: json.loads((GOLDEN / f"plateau_{family}.json").read_text()) for family in FAMILIES}


def is_finite(case):
    return all(value is None or isfinite(float(value)) for value in case["input"])


def of_families(*families, where=lambda case: True):
    cases = [case for family in families for case in CASES[family] if where(case)]
    return pytest.mark.parametrize("case", cases, ids=[case["id"] for case in cases])


def replayed(case, **settings):
    """The schedule of a case and its state after each report, every state by way of JSON."""
    schedule: Schedule = node_from_json(case["spec"] | settings)
    state = schedule.start(case["initial_lr"])
    states = []
    for epoch, value in enumerate(case["input"]):
        metrics = {} if value is None else metrics_from_json({"val_loss": value})
        state = json.loads(json.dumps(schedule.observe(state, Point(float(epoch), metrics)), allow_nan=False))
        states.append(state)
    return schedule, states


def rates(schedule, states):
    return [schedule.learning_rate(state, epoch + 1) for epoch, state in enumerate(states)]


def close(case, wanted):
    return pytest.approx(wanted, rel=case["rtol"], abs=case["atol"])


def bests(case, states):
    """Before the first value torch, optax and old Keras hold an infinity, where we say None."""
    worst = "-inf" if case["spec"]["mode"] == "max" else "inf"
    return [worst if state["best"] is None else state["best"] for state in states]


def column(states, name, default=None):
    return [state.get(name, default) for state in states]


@of_families("keras", "keras_legacy", "torch", "timm", "hf_greedy")
def test_the_rate_is_that_of_the_library(case):
    assert close(case, case["expected"]["lr"]) == rates(*replayed(case, nan_policy="library"))


@of_families("keras", "keras_legacy")
def test_the_state_is_that_of_keras(case):
    expected = case["expected"]

    schedule, states = replayed(case, nan_policy="library")

    assert expected["initial_lr_stored"] == schedule.start(case["initial_lr"])["learning_rate"]
    assert expected["wait"] == column(states, "wait")
    assert expected["cooldown_counter"] == column(states, "cooldown")
    first_is_none = case["spec"]["flavor"] == "keras"
    assert expected["best"] == (column(states, "best") if first_is_none else bests(case, states))


@of_families("torch", "timm")
def test_the_state_is_that_of_torch(case):
    expected = case["expected"]

    _, states = replayed(case, nan_policy="library")

    assert expected["num_bad_epochs"] == column(states, "wait")
    assert expected["cooldown_counter"] == column(states, "cooldown")
    assert expected["best"] == bests(case, states)


@of_families("optax")
def test_the_state_is_that_of_optax(case):
    expected = case["expected"]

    schedule, states = replayed(case, nan_policy="library")

    assert close(case, expected["scale"]) == column(states, "scale")
    assert close(case, [case["initial_lr"] * scale for scale in expected["scale"]]) == rates(schedule, states)
    assert expected["plateau_count"] == column(states, "wait")
    assert expected["cooldown_count"] == column(states, "cooldown")
    assert expected["count"] == column(states, "count", 0)
    for name, ours in (("best_value", bests(case, states)), ("avg_value", column(states, "average", 0.0))):
        numbers = [list(metrics_from_json(dict(enumerate(values))).values()) for values in (expected[name], ours)]
        assert pytest.approx(numbers[0], rel=case["rtol"], abs=case["atol"], nan_ok=True) == numbers[1]


@of_families("hf_greedy")
def test_the_state_is_that_of_greedy_lr(case):
    expected = case["expected"]

    _, states = replayed(case, nan_policy="library")

    assert expected["num_bad_epochs"] == column(states, "bad")
    assert expected["num_good_epochs"] == column(states, "good")
    assert expected["cooldown_counter"] == column(states, "cooldown")
    assert expected["warmup_counter"] == column(states, "warmup")
    assert expected["reset_start"] == column(states, "resets_in")
    assert expected["best"] == bests(case, states)


@of_families(*FAMILIES, where=is_finite)
def test_without_nan_and_infinity_the_default_nan_policy_is_the_librarys(case):
    assert replayed(case, nan_policy="library")[1] == replayed(case)[1]


@of_families(*FAMILIES)
def test_by_default_best_is_never_anything_but_a_number(case):
    _, states = replayed(case)

    assert all(best is None or isinstance(best, float | int) for best in column(states, "best"))


def test_no_case_was_dropped():
    assert {"keras": 97, "keras_legacy": 57, "torch": 96, "optax": 42, "timm": 20, "hf_greedy": 29} == {
        family: len(cases) for family, cases in CASES.items()
    }


def test_the_files_hold_one_rate_each_not_one_for_each_parameter_group():
    """
    `golden/README.md` speaks of torch cases with two parameter groups. None is in the files, and a run has one rate.
    """
    assert all(isinstance(case["initial_lr"], float) for cases in CASES.values() for case in cases)
