"""A warm-up, an offset, noise and bounds on any node."""

from math import log

import pytest
from pytest import approx

from remotelr.rules.composition.noise import Noise
from support.rules.curves import curve, epoch_rates

LINE = {"type": "linear", "initial_learning_rate": 1.0, "end_learning_rate": 0.0, "decay_steps": 4}
PLATEAU = {"type": "reduce_on_plateau", "flavor": "torch", "factor": 0.5, "patience": 0}


def test_a_warmup_comes_before_the_schedule():
    document = LINE | {"warmup": {"steps": 4}}

    assert [0, 0.25, 0.5, 0.75, 1, 0.75, 0.5, 0.25, 0, 0] == curve(document, range(10))


def test_a_warmup_that_is_no_prefix_replaces_the_first_part():
    document = LINE | {"warmup": {"steps": 2, "prefix": False}}

    assert [0, 0.5, 0.5, 0.25, 0, 0] == curve(document, range(6))


def test_a_warmup_of_no_steps_is_none():
    assert curve(LINE, range(6)) == curve(LINE | {"warmup": {"steps": 0}}, range(6))


@pytest.mark.parametrize(
    ("target", "expected"), [("peak", [0, 0.5, 0.5]), ("schedule", [0, 0.25, 0.5]), (0.2, [0, 0.1, 0.5])]
)
def test_a_warmup_leads_to_its_target(target, expected):
    warmup = {"steps": 2, "prefix": False, "target": target}

    assert approx(expected) == curve(LINE | {"warmup": warmup}, range(3))


def test_a_warmup_can_be_shifted_and_stretched():
    """
    HF's `cosine_warmup_with_min_lr` starts at one step's worth, or stretches the ramp over one step less.
    """
    assert [0.25, 0.5, 0.75, 1, 1] == curve(LINE | {"warmup": {"steps": 4, "offset": 1}}, range(5))
    assert approx([0, 1 / 3, 2 / 3, 1, 1]) == curve(LINE | {"warmup": {"steps": 4, "over": 3}}, range(5))


def test_a_cosine_warmup_is_half_way_in_the_middle():
    assert approx([0, 0.5, 1]) == curve(LINE | {"warmup": {"steps": 4, "shape": "cosine"}}, [0, 2, 4])


def test_a_log_warmup_is_that_of_deepspeed():
    rates = curve(LINE | {"warmup": {"steps": 8, "shape": "log"}}, range(9))

    assert approx([log(1 + step) / log(8) for step in range(8)] + [1]) == rates


def test_the_offset_shifts_the_schedule_and_not_the_warmup():
    assert [0.5, 0.25, 0, 0] == curve(LINE | {"offset": 2}, range(4))
    assert [0, 0.5, 0.5, 0.25] == curve(LINE | {"offset": 2, "warmup": {"steps": 2}}, range(4))


def test_bounds_hold_for_the_warmup_too():
    document = LINE | {"warmup": {"steps": 4}, "min_lr": 0.3, "max_lr": 0.6}

    assert [0.3, 0.3, 0.5, 0.6, 0.6, 0.6, 0.5, 0.3, 0.3] == curve(document, range(9))


def test_a_plateau_sees_no_metric_before_the_warmup_ends():
    """
    timm's and fairseq's rule. Epoch 2 is the first that begins after it; its loss is the best one to beat.
    """
    document = PLATEAU | {"warmup": {"steps": 2}}

    assert [0, 0.5, 1, 1, 0.5, 0.25] == epoch_rates(document, [9, 9, 9, 9, 9], initial=1.0)


def test_a_plateau_can_have_an_offset_noise_and_an_upper_bound():
    document = PLATEAU | {"offset": 3, "max_lr": 0.4, "noise": {"on": 50}}

    assert [0.4, 0.4, 0.4, 0.25] == epoch_rates(document, [9, 9, 9], initial=1.0)


def test_noise_is_the_same_for_the_same_position_and_another_for_the_next():
    document = LINE | {"decay_steps": 1e9, "noise": {"seed": 7}}

    first, second = curve(document, range(50)), curve(document, reversed(range(50)))

    assert first == second[::-1]
    assert 50 == len(set(first))


def test_noise_stays_within_its_share():
    rates = curve({"type": "constant", "learning_rate": 1.0, "noise": {"pct": 0.1, "std": 5}}, range(200))

    assert all(0.9 < rate < 1.1 for rate in rates)


def test_uniform_noise_stays_within_its_share():
    factors = [Noise(pct=0.2, distribution="uniform").factor(t) for t in range(500)]

    assert 0.8 <= min(factors) < 0.81
    assert 1.19 < max(factors) <= 1.2


def test_noise_is_off_outside_its_range():
    noise = Noise(on=(5, 8))

    assert [5, 6, 7] == [t for t in range(12) if noise.factor(t) != 1]


def test_noise_is_defined_for_any_seed_and_position():
    """
    Torch takes the seed modulo 2**32.
    """
    assert Noise(seed=2**32 - 1).factor(3) == Noise(seed=2).factor(0)
    assert 0.3 < Noise(seed=2**32 - 1).factor(2**53) < 1.7


def test_the_momentum_waits_for_the_warmup():
    from remotelr.rules.policy.codec import node_from_json

    schedule = node_from_json({"type": "one_cycle", "max_lr": 1, "total_steps": 10, "warmup": {"steps": 3}})

    assert [0.95, 0.95, 0.95, 0.95] == [schedule.momentum(None, t) for t in range(4)]
    assert schedule.momentum(None, 4) < 0.95
