"""How the values of several ranks become one."""

from itertools import permutations
from math import inf, isnan, nan

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from remotelr.rules import Aggregate, InvalidPolicy
from remotelr.rules.policy.codec import policy_from_json, policy_to_json

CONSTANT = {"type": "constant", "learning_rate": 0.1}


def reduced(values, weights=None, how="weighted_mean"):
    weights = weights or [1.0] * len(values)
    reports = {
        rank: ({"val_loss": value}, weight) for rank, (value, weight) in enumerate(zip(values, weights, strict=True))
    }
    return Aggregate(reduction=how).reduce(reports)["val_loss"]


@pytest.mark.parametrize(
    ("how", "value"), [("weighted_mean", 3.125), ("mean", 2.75), ("min", 1.0), ("max", 5.0), ("median", 2.5)]
)
def test_each_reduction_of_four_values(how, value):
    assert value == reduced([1.0, 2.0, 3.0, 5.0], weights=[2.0, 1.0, 2.0, 3.0], how=how)


def test_the_mean_is_weighted_by_samples():
    assert (1.0 * 100 + 3.0 * 10) / 110 == reduced([1.0, 3.0], weights=[100, 10])


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.floats(allow_nan=False, allow_infinity=False), st.floats(1e-3, 1e6)), min_size=1, max_size=4),
    st.sampled_from(["weighted_mean", "mean", "min", "max", "median"]),
)
def test_the_order_of_arrival_changes_nothing_and_the_value_is_between_those_of_the_ranks(ranks, how):
    reports = {rank: ({"val_loss": value}, weight) for rank, (value, weight) in enumerate(ranks)}

    results = {Aggregate(reduction=how).reduce(dict(order))["val_loss"] for order in permutations(reports.items())}

    (result,) = results
    least, most = min(value for value, _ in ranks), max(value for value, _ in ranks)
    assert least <= result <= most


@pytest.mark.parametrize("how", ["weighted_mean", "mean", "min", "max", "median"])
def test_one_nan_makes_the_whole_nan(how):
    assert isnan(reduced([1.0, nan, 2.0], how=how))


def test_infinities_are_reduced_as_arithmetic_has_it():
    assert inf == reduced([1.0, inf])
    assert isnan(reduced([-inf, inf]))
    assert 1.0 == reduced([1.0, inf], how="min")


def test_values_whose_sum_is_too_large_have_a_mean():
    assert 1.7e308 == reduced([1.7e308, 1.7e308])


def test_a_metric_counts_over_the_ranks_that_measured_it():
    reports = {1: ({"val_loss": 3.0}, 1.0), 0: ({"val_loss": 1.0, "val_acc": 0.5}, 1.0)}

    assert {"val_loss": 2.0, "val_acc": 0.5} == Aggregate().reduce(reports)


@pytest.mark.parametrize(
    ("settings", "needed"),
    [({}, 1), ({"ranks": "all"}, 8), ({"ranks": "quorum", "quorum": 5}, 5), ({"ranks": "quorum", "quorum": 50}, 8)],
)
def test_so_many_of_eight_ranks_decide(settings, needed):
    assert needed == Aggregate(**settings).needed(8)


@pytest.mark.parametrize(
    "settings", [{"ranks": "quorum"}, {"ranks": "all", "quorum": 3}, {"ranks": "quorum", "quorum": 0}]
)
def test_a_quorum_is_required_if_and_only_if_it_decides(settings):
    with pytest.raises(InvalidPolicy, match=r"^quorum: "):
        Aggregate(**settings)


def test_in_json_the_reduction_is_called_reduce():
    document = {"schedule": CONSTANT, "aggregate": {"ranks": "all", "reduce": "median"}}

    assert Aggregate(ranks="all", reduction="median") == policy_from_json(document).aggregate
    assert "median" == policy_to_json(policy_from_json(document))["aggregate"]["reduce"]
