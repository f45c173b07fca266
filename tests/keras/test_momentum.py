"""A momentum that goes with the rate really reaches the weights, or one warning says that it does not."""

import keras
import pytest

from remotelr.errors import RemoteLRWarning
from remotelr.keras import SGD, RemoteLR
from support.keras.training_jobs import BATCH, StepsTaken, ones, unit_gradient

STEPS = 8
ONE_CYCLE = {
    "unit": "step",
    "schedule": {"type": "one_cycle", "max_lr": 0.4, "total_steps": STEPS, "base_momentum": 0.5, "max_momentum": 0.9},
}


def fit(optimizer, *callbacks, **compiled):
    model, steps = unit_gradient(optimizer, **compiled), StepsTaken()
    model.fit(*ones(), batch_size=BATCH, epochs=2, shuffle=False, verbose=0, callbacks=[*callbacks, steps])
    return steps.rates


def expected(held=None):
    """SGD's own rule, `v = momentum * v - rate * gradient`, by the policy's curves and with a gradient of 1.

    held: the rate, where it does not follow its curve.
    """
    from remotelr.rules import policy_from_json

    policy = policy_from_json(ONE_CYCLE)
    velocity, moves = 0.0, []
    for step in range(STEPS):
        velocity = policy.momentum(None, step) * velocity + (held or policy.learning_rate(None, step))
        moves.append(velocity)
    return moves


def test_every_batch_moves_the_weights_by_the_momentum_of_its_step(url, key):
    assert fit(SGD(0.1), RemoteLR(url, key, ONE_CYCLE)) == pytest.approx(expected(), abs=1e-5)


def test_the_momentum_continues_while_the_rate_is_at_its_bounds(url, key):
    bound = {**ONE_CYCLE, "min_lr": 0.1, "max_lr": 0.1}

    assert fit(SGD(0.1), RemoteLR(url, key, bound)) == pytest.approx(expected(held=0.1), abs=1e-5)


def test_keras_own_sgd_takes_the_momentum_where_its_step_is_not_compiled(url, key):
    optimizer = keras.optimizers.SGD(0.1, momentum=0.9)

    assert fit(optimizer, RemoteLR(url, key, ONE_CYCLE), run_eagerly=True) == pytest.approx(expected(), abs=1e-5)


@pytest.mark.skipif(keras.backend.backend() == "torch", reason="the torch backend compiles nothing")
def test_keras_own_sgd_keeps_its_momentum_where_its_step_is_compiled_and_one_warning_says_so(url, key):
    with pytest.warns(RemoteLRWarning, match="compiled the momentum of Keras's SGD into the training step") as warned:
        fit(keras.optimizers.SGD(0.1, momentum=0.9), RemoteLR(url, key, ONE_CYCLE))

    assert [RemoteLRWarning] == [each.category for each in warned if each.category is not DeprecationWarning]


def test_an_optimizer_without_a_momentum_is_warned_of_once(url, key):
    with pytest.warns(RemoteLRWarning, match="Adam has no momentum") as warned:
        fit(keras.optimizers.Adam(0.1), RemoteLR(url, key, ONE_CYCLE))

    assert [RemoteLRWarning] == [each.category for each in warned if each.category is not DeprecationWarning]


@pytest.mark.parametrize("nesterov", [False, True])
def test_a_momentum_that_no_policy_sets_is_keras_own(nesterov):
    settings = {"momentum": 0.8, "nesterov": nesterov}

    assert fit(SGD(0.1, **settings)) == pytest.approx(fit(keras.optimizers.SGD(0.1, **settings)), abs=1e-6)


def test_the_optimizer_is_saved_and_loaded_with_its_model(tmp_path):
    model = unit_gradient(SGD(0.1, momentum=0.8))
    model.compile(SGD(0.1, momentum=0.8), "mse")
    model.fit(*ones(), batch_size=BATCH, verbose=0)
    model.save(tmp_path / "model.keras")

    loaded = keras.saving.load_model(tmp_path / "model.keras")

    assert isinstance(loaded.optimizer, SGD)
    assert loaded.optimizer.momentum == 0.8
    assert float(loaded.optimizer.moving_momentum.value) == pytest.approx(0.8)
    assert int(loaded.optimizer.iterations.value) == 4
