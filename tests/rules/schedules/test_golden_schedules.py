"""Every schedule case that the real libraries have answered (`golden/README.md`), at its own tolerance."""

import json

import pytest

from remotelr.rules.policy.codec import node_from_json, node_to_json
from remotelr.rules.schedules.base import Binding, Point
from support.rules.vectors import CASES, EVALUATED


def by_id(cases):
    return pytest.mark.parametrize("case", cases, ids=[case["id"] for case in cases])


def close(case, wanted):
    return pytest.approx(wanted, rel=case["rtol"], abs=case["atol"])


@by_id(EVALUATED)
def test_the_rate_is_that_of_the_library(case):
    schedule = node_from_json(case["spec"]).bind(Binding())
    state = schedule.start(case["spec"].get("initial_learning_rate", 0.0))

    rates = []
    for position in case["input"]:
        rates.append(schedule.learning_rate(state, position))
        state = schedule.observe(state, Point(position, {}))

    assert close(case, case["expected"]) == rates


@by_id([case for case in EVALUATED if "expected_momentum" in case])
def test_the_momentum_is_that_of_the_library(case):
    schedule = node_from_json(case["spec"])

    assert close(case, case["expected_momentum"]) == [schedule.momentum(None, position) for position in case["input"]]


@by_id(EVALUATED)
def test_the_canonical_form_describes_the_same_schedule(case):
    schedule = node_from_json(case["spec"])

    assert schedule == node_from_json(json.loads(json.dumps(node_to_json(schedule))))


def test_only_torchs_path_dependent_chain_has_no_schedule():
    """
    With an absolute `eta_min` inside, torch's chain depends on the path it took: no function of the position gives it.
    """
    assert ["torch/chained_path_dependent/01"] == [case["id"] for case in CASES if case["spec"] is None]


def test_no_case_was_dropped():
    assert 287 == len(CASES)
