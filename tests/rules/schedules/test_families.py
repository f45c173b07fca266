"""What the libraries leave out: the far end of every family, its boundaries, and the shapes the golden files lack."""

from math import isfinite, pi, sqrt
from time import thread_time

import pytest
from pytest import approx

from remotelr.rules import Binding
from remotelr.rules.policy.codec import node_from_json
from remotelr.rules.policy.registry import NODES
from remotelr.rules.schedules.restarts import cycle_at
from support.rules.curves import curve
from support.rules.vectors import EXAMPLES

RESTARTS = {"type": "cosine_restarts", "initial_learning_rate": 1.0, "first_decay_steps": 8}
WSD = {"type": "wsd", "initial_learning_rate": 1.0, "end_learning_rate": 0.01, "stable_steps": 2, "decay_steps": 4}


@pytest.mark.parametrize("name", NODES)
def test_epoch_ten_million_is_as_near_as_epoch_ten(name):
    """
    No family walks through its cycles: some are one epoch long. (A recursive expression has to walk; its budget is
    its own.)
    """
    schedule = node_from_json(EXAMPLES[name]).bind(Binding(initial_learning_rate=0.1, total=100))
    state = schedule.start(0.1)

    begun = thread_time()
    rates = [schedule.learning_rate(state, 10_000_000 + epoch) for epoch in range(100)]

    assert thread_time() - begun < 0.5
    assert all(isfinite(rate) for rate in rates)


@pytest.mark.parametrize("t_mul", [0.5, 1.0, 1.0 + 1e-12, 1.3, 2.0, 7.0])
def test_a_restart_begins_exactly_at_its_boundary(t_mul):
    start, length = 0.0, 8.0
    for index in range(6):
        assert index == cycle_at(start, first=8, t_mul=t_mul).index
        assert approx(0.0, abs=1e-9) == cycle_at(start, first=8, t_mul=t_mul).progress
        assert approx(0.5) == cycle_at(start + length / 2, first=8, t_mul=t_mul).progress

        start, length = start + length, length * t_mul


def test_restarts_that_shrink_hold_the_end_once_they_are_used_up():
    """
    Keras gives NaN from there on: 8 + 4 + 2 + ... never gets past 16.
    """
    document = RESTARTS | {"t_mul": 0.5, "alpha": 0.1}

    assert approx([1.0, 1.0, 1.0, 0.1, 0.1, 0.1]) == curve(document, [0, 8, 12, 16, 17, 10_000_000])


def test_restarts_after_the_limit_hold_the_end():
    document = RESTARTS | {"cycle_limit": 2, "end_learning_rate": 0.2}

    assert approx([1.0, 1.0, 0.2, 0.2]) == curve(document, [0, 8, 16, 24])


def test_a_range_and_a_peak_are_scaled_differently_above_an_end():
    document = RESTARTS | {"end_learning_rate": 0.5, "m_mul": 0.8}

    assert approx([0.5 + 0.5 * 0.8]) == curve(document | {"m_mul_on": "range"}, [8])
    assert approx([0.8]) == curve(document | {"m_mul_on": "peak"}, [8])


def test_a_cosine_holds_its_end_or_rises_again():
    document = {"type": "cosine", "initial_learning_rate": 1.0, "decay_steps": 4}

    assert approx([1, 0.5, 0, 0, 0]) == curve(document, [0, 2, 4, 6, 8])
    assert approx([1, 0.5, 0, 0.5, 1]) == curve(document | {"beyond_end": "periodic"}, [0, 2, 4, 6, 8])


def test_the_end_of_a_curve_is_exact():
    """
    XLA leaves it negative or NaN for 218 of these 400 lengths (semantics: compiled schedules break at their ends).
    """
    for length in range(1, 401):
        document = {"type": "polynomial", "initial_learning_rate": 0.1, "decay_steps": length, "power": 0.5}

        assert [0.0, 0.0] == curve(document, [length, length + 1])


def test_a_staircase_steps_exactly_at_its_boundary():
    for length in range(1, 200):
        document = {"type": "exponential", "initial_learning_rate": 1.0, "decay_rate": 0.5, "decay_steps": length}

        rates = curve(document | {"staircase": True}, [3 * length - 1, 3 * length])

        assert [0.25, 0.125] == rates


def test_a_boundary_has_the_new_value_or_still_the_old_one():
    document = {"type": "piecewise_constant", "boundaries": [5], "values": [1.0, 0.1]}

    assert [1.0, 0.1, 0.1] == curve(document | {"boundary": "at"}, [4, 5, 6])
    assert [1.0, 1.0, 0.1] == curve(document | {"boundary": "after"}, [4, 5, 6])


def test_a_milestone_named_twice_counts_twice():
    document = {"type": "multi_step", "initial_learning_rate": 1.0, "milestones": [3, 0, 3], "gamma": 0.5}

    assert [0.5, 0.5, 0.5, 0.125] == curve(document, range(4))


def test_fractional_epochs_are_positions_like_any_other():
    document = {"type": "linear", "initial_learning_rate": 1.0, "decay_steps": 4}

    assert [1.0, 0.9375, 0.5, 0.375] == curve(document, [0, 0.25, 2, 2.5])


def test_a_one_cycle_whose_first_phase_has_no_length_begins_with_the_second():
    """
    torch divides by zero where pct_start * total_steps is 1, and at the end where pct_start is 1.
    """
    document = {"type": "one_cycle", "max_lr": 1.0, "total_steps": 4, "anneal_strategy": "linear"}

    assert approx([1.0, 4e-6]) == curve(document | {"pct_start": 0.25}, [0, 3], initial=1.0)
    assert approx([0.04, 1.0, 4e-6]) == curve(document | {"pct_start": 1}, [0, 3, 4], initial=1.0)


def test_after_its_end_a_one_cycle_holds_the_final_rate():
    document = {"type": "one_cycle", "max_lr": 1.0, "total_steps": 10}

    assert approx([4e-6] * 3) == curve(document, [9, 11, 10_000_000])


def test_cycles_can_leave_the_momentum_alone():
    for document in (
        {"type": "one_cycle", "max_lr": 1.0, "total_steps": 10, "cycle_momentum": False},
        {"type": "cyclic", "base_lr": 0.1, "max_lr": 1.0, "cycle_momentum": False},
    ):
        assert node_from_json(document).momentum(None, 3) is None


def test_a_range_test_grows_in_a_line_or_in_steps():
    document = {"type": "lr_range_test", "min_lr": 0.1, "step_size": 10, "step_rate": 2.0}

    assert approx([0.1, 0.2, 0.3, 0.5]) == curve(document, [0, 5, 10, 20])
    assert approx([0.1, 0.1, 0.3, 0.5]) == curve(document | {"staircase": True}, [0, 5, 10, 20])


def test_a_geometric_decay_falls_by_the_same_share_everywhere():
    """
    fairseq's `tri_stage`.
    """
    rates = curve(WSD | {"decay_shape": "geometric"}, range(2, 8))

    assert approx([1.0, 0.01**0.25, 0.1, 0.01**0.75, 0.01, 0.01]) == rates


def test_megatrons_exponential_decay_is_exp_with_a_ratio_of_a_half():
    """
    Megatron-LM: 2 * 0.5 ** p - 1 of the range above the end.
    """
    rates = curve(WSD | {"decay_shape": "exp", "decay_ratio": 0.5}, range(2, 7))

    assert approx([0.01 + 0.99 * (2 * 0.5 ** (step / 4) - 1) for step in range(5)]) == rates


def test_an_inverse_square_root_without_a_timescale_is_fairseqs():
    document = {"type": "inverse_sqrt", "initial_learning_rate": 1.0, "warmup_steps": 10}

    assert approx([0.5, 1.0, sqrt(10 / 40), sqrt(10 / 1000)]) == curve(document, [5, 10, 40, 1000])


def test_growth_ends_at_the_highest_rate_there_is():
    document = {"type": "exponential", "initial_learning_rate": 0.1, "decay_rate": pi}

    assert [1000.0] == curve(document, [10_000_000])
