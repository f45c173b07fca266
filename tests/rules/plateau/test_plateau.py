"""`reduce_on_plateau` beyond what the golden files hold: its words, NaN, and what it does in company."""

import json
from math import inf, nan

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pytest import approx

from remotelr.rules import Binding, InvalidPolicy, InvalidReport, Point
from remotelr.rules.plateau.machine import float32
from remotelr.rules.plateau.reduce_on_plateau import ReduceOnPlateau
from remotelr.rules.policy.codec import node_from_json, node_to_json
from support.rules.curves import epoch_rates, states

HALVING = {"type": "reduce_on_plateau", "flavor": "keras_legacy", "factor": 0.5, "patience": 2, "min_delta": 0.0}
TORCH = {"type": "reduce_on_plateau", "flavor": "torch", "factor": 0.5, "patience": 1}
OPTAX = {"type": "reduce_on_plateau", "flavor": "optax", "factor": 0.5, "patience": 2}
FLAVORS = {
    "keras": {**HALVING, "flavor": "keras"},
    "keras_legacy": HALVING,
    "torch": TORCH,
    "optax": OPTAX,
}

FLAT = [1.0] * 6


def refused(**settings):
    with pytest.raises(InvalidPolicy) as caught:
        ReduceOnPlateau(**settings)
    return str(caught.value)


# -- one trace each -----------------------------------------------------------


def test_the_rate_drops_when_patience_runs_out():
    assert [1, 1, 1, 0.5, 0.5, 0.25, 0.25] == epoch_rates(HALVING, FLAT, initial=1.0)


def test_an_improvement_starts_the_wait_again():
    assert [1, 1, 1, 1, 1, 0.5] == epoch_rates(HALVING, [1.0, 1.0, 0.9, 0.9, 0.9], initial=1.0)


def test_keras_ignores_one_report_less_than_the_cooldown_says():
    assert [1, 1, 0.5, 0.5, 0.25] == epoch_rates(HALVING | {"patience": 1, "cooldown": 2}, [1.0] * 4, initial=1.0)


def test_torch_ignores_as_many_reports_as_the_cooldown_says():
    assert [1, 1, 0.5, 0.5, 0.5, 0.25] == epoch_rates(TORCH | {"patience": 0, "cooldown": 2}, [1.0] * 5, initial=1.0)


def test_torchs_patience_is_one_report_longer_than_keras():
    assert [1, 1, 1, 0.5, 0.5, 0.25] == epoch_rates(TORCH, [1.0] * 5, initial=1.0)


def test_optax_averages_several_reports_before_it_judges():
    averaged = OPTAX | {"patience": 1, "accumulation_size": 2}

    assert [1, 1, 1, 1, 0.5, 0.5, 0.25] == epoch_rates(averaged, [1.0, 3.0, 3.0, 1.0, 2.0, 2.0], initial=1.0)


def test_keras_does_nothing_more_at_the_floor():
    at_floor = list(states(HALVING | {"patience": 1, "min_lr": 0.5, "cooldown": 3}, FLAT))

    assert [0, 0, 0, 0, 1, 2] == [state["wait"] for state in at_floor]
    assert [0, 3, 2, 1, 0, 0] == [state["cooldown"] for state in at_floor]


def test_torch_goes_on_counting_and_pausing_at_the_floor():
    at_floor = list(states(TORCH | {"patience": 0, "min_lr": 0.5, "cooldown": 2}, FLAT))

    assert [0, 2, 1, 0, 2, 1] == [state["cooldown"] for state in at_floor]


def test_a_rate_below_the_floor_is_never_raised():
    assert [0.125] * 4 == epoch_rates(HALVING | {"patience": 1, "min_lr": 0.5}, [1.0] * 3, initial=0.125)


def test_keras_holds_the_rate_as_its_optimizer_does():
    assert [float32(0.1), float32(0.1), float32(0.01)] == epoch_rates(
        {"type": "reduce_on_plateau", "patience": 1}, [1.0, 1.0], initial=0.1
    )


@pytest.mark.parametrize("flavor", FLAVORS)
def test_a_report_without_the_metric_changes_nothing_at_all(flavor):
    cooling = FLAVORS[flavor] | {"patience": 1, "cooldown": 3}
    *_, before, after = states(cooling, [1.0, 1.0, 1.0, None])

    assert before == after


def test_the_plateau_shows_best_wait_and_cooldown():
    node = node_from_json(HALVING)
    *_, state = states(HALVING, [0.5, 0.7])

    assert {"best": 0.5, "wait": 1, "cooldown": 0} == node.plateau(state)


# -- NaN and infinity ---------------------------------------------------------


@pytest.mark.parametrize("flavor", FLAVORS)
@pytest.mark.parametrize("first", [nan, inf, -inf])
def test_a_first_value_that_is_no_number_is_a_bad_report_and_the_run_recovers(flavor, first):
    *_, state = states(FLAVORS[flavor] | {"patience": 9}, [first, 0.5, first, 0.4])

    assert {"best": 0.4, "wait": 0} == {name: state[name] for name in ("best", "wait")}


def test_bad_reports_of_nan_reduce_the_rate():
    assert [1, 1, 0.5, 0.5, 0.25] == epoch_rates(HALVING, [nan] * 4, initial=1.0)


def test_a_nan_that_is_skipped_was_not_measured():
    assert [1, 1, 1, 1, 1] == epoch_rates(HALVING | {"nan_policy": "skip"}, [1.0, nan, nan, nan], initial=1.0)


@pytest.mark.parametrize(("value", "name"), [(nan, "nan"), (inf, "inf"), (-inf, "-inf")])
def test_a_nan_that_is_refused_names_the_metric_and_the_remedies(value, name):
    with pytest.raises(InvalidReport, match=f"val_loss is {name}.*begin an attempt.*nan_policy") as caught:
        epoch_rates(HALVING | {"nan_policy": "error"}, [1.0, value], initial=1.0)

    assert {"metric": "val_loss", "value": name} == caught.value.details


def test_strict_keras_lets_a_first_nan_be_best_for_good():
    """
    Keras 3.11 and later: nothing ever improves on NaN, measured on 3.15.1. Only nan_policy "library" does that here.
    """
    *_, state = states({"type": "reduce_on_plateau", "nan_policy": "library"}, [nan, 0.5, 0.4])

    assert {"best": "nan", "wait": 2} == {name: state[name] for name in ("best", "wait")}


@pytest.mark.parametrize("flavor", FLAVORS)
@settings(deadline=None)
@given(
    losses=st.lists(st.one_of(st.none(), st.floats(), st.sampled_from([0.1, 0.2])), max_size=30),
    policy=st.sampled_from(["bad", "skip", "library"]),
    split=st.integers(0, 30),
)
def test_a_state_saved_as_json_anywhere_goes_on_as_if_nothing_had_happened(flavor, losses, policy, split):
    document = FLAVORS[flavor] | {"nan_policy": policy, "cooldown": 1}
    node = node_from_json(document)
    whole = list(states(document, losses))
    if not whole:
        return
    state = json.loads(json.dumps(whole[min(split, len(whole) - 1)], allow_nan=False))

    for epoch, loss in enumerate(losses[min(split, len(whole) - 1) + 1 :], split):
        state = node.observe(state, Point(float(epoch), {} if loss is None else {"val_loss": loss}))

    assert whole[-1] == state
    assert 0 <= node.learning_rate(state, 99) <= 1


# -- words --------------------------------------------------------------------


def test_the_canonical_form_says_what_was_left_out():
    assert {
        "type": "reduce_on_plateau",
        "flavor": "keras",
        "monitor": "val_loss",
        "mode": "min",
        "factor": 0.1,
        "patience": 10,
        "cooldown": 0,
        "min_delta": 0.0001,
        "min_lr": 0.0,
        "nan_policy": "bad",
    } == node_to_json(ReduceOnPlateau())


@pytest.mark.parametrize(
    ("flavor", "own"),
    [
        ("torch", {"threshold": 1e-4, "threshold_mode": "rel", "min_lr": 0.0, "eps": 1e-8}),
        ("optax", {"rtol": 1e-4, "atol": 0.0, "accumulation_size": 1, "min_scale": 0.0}),
    ],
)
def test_every_flavor_has_its_librarys_defaults(flavor, own):
    document = node_to_json(ReduceOnPlateau(flavor=flavor))

    assert own == {name: document[name] for name in own}
    assert "min_delta" not in document


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"threshold": 0.1}, 'threshold: belongs to flavor "torch"; "keras" has min_delta'),
        ({"rtol": 0.1}, 'rtol: belongs to flavor "optax"; "keras" has min_delta'),
        ({"eps": 0.1}, 'eps: belongs to flavor "torch"; "keras" has nothing of the kind'),
        ({"flavor": "torch", "min_delta": 0.1}, '"torch" has threshold and threshold_mode'),
        ({"flavor": "optax", "min_delta": 0.1}, '"optax" has rtol and atol'),
        ({"flavor": "optax", "min_lr": 0.1}, '"optax" has min_scale, a multiple'),
        ({"flavor": "torch", "min_scale": 0.1}, '"torch" has min_lr'),
    ],
)
def test_a_parameter_of_another_flavor_is_rejected_with_the_right_name(settings, message):
    assert message in refused(**settings)


@pytest.mark.parametrize("factor", [0, 1, 1.5, -0.1, nan])
def test_a_factor_that_does_not_reduce_is_refused(factor):
    assert "factor" in refused(factor=factor)


@pytest.mark.parametrize(
    ("settings", "path"),
    [
        ({"patience": -1}, "patience"),
        ({"patience": 1.5}, "patience"),
        ({"cooldown": -1}, "cooldown"),
        ({"min_lr": -0.1}, "min_lr"),
        ({"flavor": "torch", "threshold": 1.0}, "threshold"),
        ({"flavor": "optax", "accumulation_size": 0}, "accumulation_size"),
        ({"flavor": "optax", "mode": "max"}, "mode"),
        ({"initial_learning_rate": 0}, "initial_learning_rate"),
        ({"flavor": "chainer"}, "flavor"),
    ],
)
def test_a_value_that_cannot_be_is_refused_by_its_name(settings, path):
    assert refused(**settings).startswith(f"{path}:")


def test_keras_takes_a_negative_min_delta_for_a_positive_one():
    """
    A Keras callback that has been through `fit` in mode min shows its min_delta negated.
    """
    assert ReduceOnPlateau(min_delta=0.5) == ReduceOnPlateau(min_delta=-0.5)


@pytest.mark.parametrize(
    ("monitor", "mode"),
    [
        ("loss", "min"),
        ("val_loss", "min"),
        ("head_a_loss", "min"),
        ("val_mae", "min"),
        ("acc", "max"),
        ("val_accuracy", "max"),
        ("val_sparse_categorical_accuracy", "max"),
        ("val_auc", "max"),
    ],
)
def test_a_name_that_leaves_no_doubt_gives_the_mode_which_is_stored(monitor, mode):
    assert mode == node_to_json(ReduceOnPlateau(monitor=monitor))["mode"]


@pytest.mark.parametrize("monitor", ["val_score", "glossy", "vacc", "perplexity"])
def test_a_metric_name_of_unknown_direction_needs_a_mode(monitor):
    assert f'mode: the direction of "{monitor}" is unknown' in refused(monitor=monitor)


@pytest.mark.parametrize(("monitor", "mode"), [("val_score", "min"), ("vacc", "max")])
def test_old_keras_looks_for_acc_anywhere_in_the_name(monitor, mode):
    assert mode == ReduceOnPlateau(flavor="keras_legacy", monitor=monitor).mode


# -- in company ---------------------------------------------------------------


def test_a_rate_of_its_own_goes_before_the_one_handed_over():
    assert 0.25 == epoch_rates(HALVING | {"initial_learning_rate": 0.25}, [], initial=1.0)[0]


def test_over_a_cosine_the_curve_keeps_its_shape_and_sinks():
    cosine = {"type": "cosine", "decay_steps": 8}
    alone, reduced = (
        epoch_rates(cosine, FLAT, initial=1.0),
        epoch_rates(HALVING | {"schedule": cosine}, FLAT, initial=1.0),
    )

    assert approx([1, 1, 1, 0.5, 0.5, 0.25, 0.25]) == [
        ours / theirs for ours, theirs in zip(reduced, alone, strict=True)
    ]


def test_the_floor_holds_at_every_position_but_lifts_no_schedule():
    line = {"type": "linear", "decay_steps": 10, "end_learning_rate": 0.0}
    document = HALVING | {"patience": 1, "min_lr": 0.35, "schedule": line}

    assert approx([1, 0.9, 0.4, 0.35, 0.35, 0.35, 0.35, 0.3, 0.2]) == epoch_rates(document, [1.0] * 8, initial=1.0)


def test_after_a_warmup_it_counts_from_the_end_of_the_warmup():
    warmed = HALVING | {"warmup": {"steps": 2}}

    assert [0, 0.5, 1, 1, 1, 0.5] == epoch_rates(warmed, [0.1, 0.1, 1.0, 1.0, 1.0], initial=1.0)


def test_in_a_sequence_it_starts_from_where_the_part_before_has_arrived():
    line = {"type": "linear", "initial_learning_rate": 0.2, "end_learning_rate": 0.8, "decay_steps": 2}
    document = {"type": "sequential", "schedules": [line, HALVING], "milestones": [2]}

    assert approx([0.2, 0.5, 0.8, 0.8, 0.8, 0.4]) == epoch_rates(document, [0.1, 0.1, 1.0, 1.0, 1.0])


def test_a_plateau_over_a_plateau_multiplies_what_both_do():
    slow = HALVING | {"patience": 4}

    assert [1, 1, 1, 0.5, 0.5, 0.125, 0.125] == epoch_rates(HALVING | {"schedule": slow}, FLAT, initial=1.0)


def test_the_momentum_is_that_of_the_schedule_inside():
    inside = {"type": "one_cycle", "max_lr": 0.1, "total_steps": 10}
    node = node_from_json(HALVING | {"schedule": inside}).bind(Binding(initial_learning_rate=1.0))

    assert node_from_json(inside).momentum(None, 3) == node.momentum(node.start(1.0), 3)


def test_a_refusal_inside_names_the_way_there():
    with pytest.raises(InvalidPolicy, match=r"^schedule\.gamma: "):
        node_from_json(HALVING | {"schedule": {"type": "step", "step_size": 3, "gamma": -1}})
    with pytest.raises(InvalidPolicy, match=r"^schedule\.initial_learning_rate: "):
        node_from_json(HALVING | {"schedule": {"type": "step", "step_size": 3}}).bind(Binding())


def test_the_first_rate_over_a_schedule_belongs_to_the_schedule():
    inside = {"type": "step", "step_size": 3}

    with pytest.raises(InvalidPolicy, match="belongs to the schedule inside"):
        node_from_json(HALVING | {"initial_learning_rate": 0.1, "schedule": inside})


def test_canonical_documents_are_read_back_as_the_same_node():
    for document in (*FLAVORS.values(), HALVING | {"schedule": {"type": "cosine", "decay_steps": 3}}):
        node = node_from_json(document)

        assert node == node_from_json(node_to_json(node))
