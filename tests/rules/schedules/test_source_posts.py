"""Every schedule of the source posts, under its own name, against its formula written out plainly."""

from math import cos, exp, floor, pi, sqrt

from pytest import approx

from support.rules.curves import curve, epoch_rates

EPOCHS = range(60)


def test_constant_001():
    assert [0.01] * 60 == curve({"type": "constant", "learning_rate": 0.01}, EPOCHS)


def test_step_decay_001_halved_every_10_epochs():
    document = {"type": "step", "initial_learning_rate": 0.01, "step_size": 10, "gamma": 0.5}

    assert approx([0.01 * 0.5 ** (epoch // 10) for epoch in EPOCHS], rel=1e-12) == curve(document, EPOCHS)


def test_step_decay_01_halved_every_5_epochs():
    document = {"type": "step", "initial_learning_rate": 0.1, "step_size": 5, "gamma": 0.5}

    assert approx([0.1 * 0.5 ** floor(epoch / 5) for epoch in EPOCHS], rel=1e-12) == curve(document, EPOCHS)


def test_exponential_001_times_095_to_the_epoch():
    document = {"type": "exponential", "initial_learning_rate": 0.01, "decay_rate": 0.95}

    assert approx([0.01 * 0.95**epoch for epoch in EPOCHS], rel=1e-12) == curve(document, EPOCHS)


def test_exponential_01_a_tenth_every_20_epochs():
    document = {"type": "exponential", "initial_learning_rate": 0.1, "decay_rate": 0.1, "decay_steps": 20}

    assert approx([0.1 * 0.1 ** (epoch / 20) for epoch in EPOCHS], rel=1e-12) == curve(document, EPOCHS)


def test_exponential_decay_0001_over_10000_steps_by_09():
    document = {"type": "exponential", "initial_learning_rate": 0.001, "decay_steps": 10000, "decay_rate": 0.9}
    steps = [0, 1, 500, 9_999, 10_000, 10_001, 45_678]

    expected = [0.001 * 0.9 ** (step / 10000) for step in steps]

    assert approx(expected, rel=1e-12) == curve({"schedule": document, "unit": "step"}, steps)


def test_time_based_decay_001_over_1_plus_a_tenth_of_the_epoch():
    document = {"type": "inverse_time", "initial_learning_rate": 0.01, "decay_rate": 0.1}

    assert approx([0.01 / (1 + 0.1 * epoch) for epoch in EPOCHS], rel=1e-12) == curve(document, EPOCHS)


def test_power_scheduling_with_decay_1e_4_per_step():
    """
    The `decay` argument of Keras 2 optimizers: lr / (1 + decay * iterations).
    """
    document = {"type": "inverse_time", "initial_learning_rate": 0.01, "decay_rate": 1e-4}
    steps = [0, 1, 100, 9_999, 10_000, 123_456]

    expected = [0.01 / (1 + 1e-4 * step) for step in steps]

    assert approx(expected, rel=1e-12) == curve({"schedule": document, "unit": "step"}, steps)


def test_polynomial_01_to_001_over_10000_steps_with_power_a_half():
    """
    Keras under XLA gives NaN from `decay_steps` on for many lengths; float64 does not.
    """
    document = {
        "type": "polynomial",
        "initial_learning_rate": 0.1,
        "end_learning_rate": 0.01,
        "decay_steps": 10000,
        "power": 0.5,
    }
    steps = [0, 1, 2_500, 9_999, 10_000, 10_001, 20_000]

    expected = [0.01 + 0.09 * sqrt(1 - min(step, 10000) / 10000) for step in steps]

    assert approx(expected, rel=1e-12) == curve({"schedule": document, "unit": "step"}, steps)


def test_cosine_0001_over_50_with_alpha_0001():
    document = {"type": "cosine", "initial_learning_rate": 0.001, "decay_steps": 50, "alpha": 0.001}

    expected = [0.001 * (0.999 * (1 + cos(pi * min(epoch, 50) / 50)) / 2 + 0.001) for epoch in EPOCHS]

    assert approx(expected, rel=1e-12) == curve(document, EPOCHS)


def test_cosine_with_a_warmup_target():
    """
    Keras `CosineDecay(0.0, 1000, warmup_target=0.1, warmup_steps=1000)`; Keras itself gives 0 for ever here, because
    it takes the integer 0 of its own docstring for the type of the rate.
    """
    document = {
        "type": "cosine",
        "initial_learning_rate": 0.1,
        "decay_steps": 1000,
        "warmup": {"steps": 1000, "start_learning_rate": 0},
    }
    steps = range(0, 2_500, 50)

    def keras(step):
        return 0.1 * step / 1000 if step < 1000 else 0.1 * (1 + cos(pi * min(step - 1000, 1000) / 1000)) / 2

    assert approx([keras(step) for step in steps], rel=1e-12) == curve({"schedule": document, "unit": "step"}, steps)


def test_cosine_restarts_01_every_10_with_t_mul_1_and_m_mul_09():
    document = {
        "type": "cosine_restarts",
        "initial_learning_rate": 0.1,
        "first_decay_steps": 10,
        "t_mul": 1.0,
        "m_mul": 0.9,
    }

    expected = [0.1 * 0.9 ** (epoch // 10) * (1 + cos(pi * (epoch % 10) / 10)) / 2 for epoch in EPOCHS]

    assert approx(expected, rel=1e-12) == curve(document, EPOCHS)


def test_piecewise_001_0005_0001_at_5_and_15():
    document = {"type": "piecewise_constant", "boundaries": [5, 15], "values": [0.01, 0.005, 0.001]}

    expected = [0.01 if epoch < 5 else 0.005 if epoch < 15 else 0.001 for epoch in EPOCHS]

    assert expected == curve(document, EPOCHS)


def test_the_rate_is_kept_for_10_epochs_then_multiplied_by_exp_minus_a_tenth():
    document = {
        "type": "expression",
        "initial_learning_rate": 0.01,
        "expression": "lr if epoch < 10 else lr * exp(-0.1)",
    }

    expected = [0.01 * exp(-0.1) ** max(epoch - 9, 0) for epoch in EPOCHS]

    assert approx(expected, rel=1e-12) == epoch_rates(document, [1.0] * 59)


def test_plateau_with_factor_a_half_and_patience_5():
    document = {"type": "reduce_on_plateau", "monitor": "val_loss", "factor": 0.5, "patience": 5}
    # The first loss is the best one; the five after it are the patience.
    losses = [1.0] * 11

    expected = [0.01] * 6 + [0.005] * 5 + [0.0025]

    assert approx(expected, rel=1e-6) == epoch_rates(document, losses, initial=0.01)


def test_plateau_with_factor_a_tenth_and_patience_10():
    document = {"type": "reduce_on_plateau", "monitor": "val_loss", "factor": 0.1, "patience": 10}
    losses = [0.9, 0.8, 0.7] + [0.7] * 20

    expected = [0.1] * 13 + [0.01] * 10 + [0.001]

    assert approx(expected, rel=1e-6) == epoch_rates(document, losses, initial=0.1)


def test_1cycle_over_a_given_peak_with_a_last_stretch_orders_of_magnitude_lower():
    """
    The callback of Hands-On Machine Learning: straight up to the peak, straight down to the start, and in the last
    tenth of the iterations down to a thousandth of the start.
    """
    iterations, peak = 1000, 0.05
    start, last = peak / 10, peak / 10 / 1000
    last_iterations = iterations // 10 + 1
    half = (iterations - last_iterations) // 2

    def interpolated(step, begin, end, first, second):
        return (second - first) * (step - begin) / (end - begin) + first

    def book(step):
        if step < half:
            return interpolated(step, 0, half, start, peak)
        if step < 2 * half:
            return interpolated(step, half, 2 * half, peak, start)
        return interpolated(step, 2 * half, iterations, start, last)

    document = {
        "type": "piecewise_interpolate",
        "boundaries": [0, half, 2 * half, iterations],
        "values": [start, peak, start, last],
    }

    rates = curve({"schedule": document, "unit": "step"}, range(iterations + 1))

    assert approx([book(step) for step in range(iterations + 1)], rel=1e-9) == rates
    assert peak == max(rates)
    assert approx(start / 1000) == rates[-1]


def test_1cycle_in_three_phases_has_the_given_peak_and_ends_orders_of_magnitude_lower():
    """
    The same shape in one node, with torch's off-by-ones (`golden/schedules_torch.json` has its numbers).
    """
    document = {
        "type": "one_cycle",
        "max_lr": 0.05,
        "total_steps": 1000,
        "pct_start": 0.45,
        "anneal_strategy": "linear",
        "div_factor": 10,
        "final_div_factor": 1000,
        "three_phase": True,
    }

    rates = curve({"schedule": document, "unit": "step"}, range(1000))

    assert 0.05 == max(rates) == rates[449]
    assert approx([0.005, 0.005, 0.005 / 1000]) == [rates[0], rates[898], rates[999]]
