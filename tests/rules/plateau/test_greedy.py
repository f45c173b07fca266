"""`greedy` beyond what the golden files hold."""

import json
from math import inf, nan

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from remotelr.rules import InvalidPolicy, InvalidReport, Point
from remotelr.rules.plateau.greedy import Greedy
from remotelr.rules.policy.codec import node_from_json, node_to_json
from support.rules.curves import epoch_rates, states

EAGER = {"type": "greedy", "factor": 0.5, "patience": 0, "min_lr": 0.25, "max_lr": 4.0}


def test_the_rate_rises_with_every_improvement_and_falls_with_every_bad_report():
    assert [1, 2, 4, 2, 1] == epoch_rates(EAGER, [0.9, 0.8, 0.8, 0.8], initial=1.0)


def test_the_rate_stays_between_its_bounds():
    assert [1, 2, 4, 4, 2, 1, 0.5, 0.25, 0.25] == epoch_rates(EAGER, [0.9, 0.8, 0.7, *[0.7] * 5], initial=1.0)


def test_patience_is_of_reports_in_a_row_either_way():
    assert [1, 1, 2, 2, 2, 1] == epoch_rates(EAGER | {"patience": 1}, [0.9, 0.8, 0.7, 0.8, 0.8], initial=1.0)


def test_reports_after_a_fall_and_after_a_rise_are_ignored():
    assert [1, 2, 2, 1, 1, 1, 0.5] == epoch_rates(
        EAGER | {"warmup": 1, "cooldown": 2}, [0.9, 0.1, 0.9, 0.1, 0.1, 0.9], initial=1.0
    )


def test_after_fruitless_reductions_at_the_floor_all_begins_anew():
    assert [1, 2, 1, 0.5, 0.25, 1, 2] == epoch_rates(EAGER | {"reset_start": 2}, [1.0] * 6, initial=1.0)


def test_a_smoothed_value_is_the_mean_of_the_window():
    smooth = EAGER | {"smooth": True, "window_size": 2, "patience": 5}

    assert [1.0, 0.75, 0.625] == [state["best"] for state in states(smooth, [1.0, 0.5, 0.75])]


def test_a_nan_does_not_spoil_the_smoothed_mean():
    """
    In the library it does, for good: nan_policy "library".
    """
    smooth = EAGER | {"smooth": True, "window_size": 2, "patience": 5}
    losses = [1.0, nan, 0.5, 0.5]

    assert [1.0, 1.0, 0.75, 0.5] == [state["best"] for state in states(smooth, losses)]
    assert [1.0, 1.0, 1.0, 1.0] == [state["best"] for state in states(smooth | {"nan_policy": "library"}, losses)]


@pytest.mark.parametrize("value", [nan, inf, -inf])
def test_what_is_no_number_is_never_best(value):
    *_, state = states(EAGER, [value, 0.5, value])

    assert 0.5 == state["best"]


def test_a_nan_is_refused_or_skipped_where_the_policy_says_so():
    assert [1, 1] == epoch_rates(EAGER | {"nan_policy": "skip"}, [nan], initial=1.0)
    with pytest.raises(InvalidReport, match="val_loss is nan"):
        epoch_rates(EAGER | {"nan_policy": "error"}, [nan], initial=1.0)


@settings(deadline=None)
@given(
    losses=st.lists(st.one_of(st.none(), st.floats(), st.sampled_from([0.1, 0.2])), min_size=1, max_size=30),
    policy=st.sampled_from(["bad", "skip", "library"]),
    smooth=st.booleans(),
    split=st.integers(0, 29),
)
def test_a_state_saved_as_json_anywhere_goes_on_as_if_nothing_had_happened(losses, policy, smooth, split):
    document = EAGER | {"nan_policy": policy, "smooth": smooth, "window_size": 3, "cooldown": 1}
    node = node_from_json(document)
    whole = list(states(document, losses))
    split = min(split, len(whole) - 1)
    state = json.loads(json.dumps(whole[split], allow_nan=False))

    for loss in losses[split + 1 :]:
        state = node.observe(state, Point(0.0, {} if loss is None else {"val_loss": loss}))

    assert whole[-1] == state
    assert 0.25 <= node.learning_rate(state, 0) <= 4


def test_the_defaults_are_the_librarys():
    document = node_to_json(Greedy())

    assert (0.95, 10, 1e-6, "abs", 1e-3, 1.0, 50, 500) == tuple(
        document[name]
        for name in (
            "factor",
            "patience",
            "threshold",
            "threshold_mode",
            "min_lr",
            "max_lr",
            "window_size",
            "reset_start",
        )
    )


@pytest.mark.parametrize(
    ("settings", "path"),
    [
        ({"factor": 1.0}, "factor"),
        ({"min_lr": 0.5, "max_lr": 0.1}, "min_lr"),
        ({"threshold": 1.0, "threshold_mode": "rel"}, "threshold"),
        ({"window_size": 0}, "window_size"),
        ({"window_size": 501}, "window_size"),
        ({"monitor": "val_score"}, "mode"),
    ],
)
def test_a_value_that_cannot_be_is_refused_by_its_name(settings, path):
    with pytest.raises(InvalidPolicy, match=f"^{path}: "):
        Greedy(**settings)


def test_in_a_sequence_it_starts_from_where_the_part_before_has_arrived():
    line = {"type": "linear", "initial_learning_rate": 0.5, "end_learning_rate": 1.0, "decay_steps": 1}
    document = {"type": "sequential", "schedules": [line, EAGER], "milestones": [1]}

    assert [0.5, 1, 2] == epoch_rates(document, [0.9, 0.8])
