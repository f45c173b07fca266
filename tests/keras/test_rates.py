"""The rates of a real `fit` are the ones the policy says, and they really reach the weights."""

import logging
import math
import warnings

import keras
import numpy as np
import pytest
from keras.optimizers.schedules import CosineDecay

from remotelr import Client
from remotelr.errors import RemoteLRWarning
from remotelr.keras import RemoteLR
from support.keras.training_jobs import (
    BATCH,
    BATCHES,
    ROWS,
    Before,
    Losses,
    StepsTaken,
    data,
    linear,
    ones,
    ours,
    unit_gradient,
)

QUIET = {"verbose": 0, "batch_size": BATCH, "shuffle": False}
COSINE = {
    "schedule": {"type": "cosine", "initial_learning_rate": 0.1, "decay_steps": 16, "warmup": {"steps": 4}},
    "unit": "step",
}


def fit(model, *callbacks, epochs=6, xy=None, **arguments):
    x, y = data() if xy is None else xy
    return model.fit(x, y, epochs=epochs, callbacks=list(callbacks), **{**QUIET, **arguments}).history


def float32(rates):
    return [float(np.float32(rate)) for rate in rates]


@pytest.mark.parametrize("seed", range(4))
def test_the_rates_are_those_of_keras_own_plateau_bit_for_bit(url, key, seed):
    losses = np.random.default_rng(seed).normal(1, 0.1, 40).astype("float32").tolist()
    plateau = {"factor": 0.7, "patience": 2, "cooldown": seed, "min_delta": 0.01, "min_lr": 0.005}
    expected = fit(linear(), Losses(losses), keras.callbacks.ReduceLROnPlateau(**plateau), epochs=40)

    history = fit(linear(), Losses(losses), RemoteLR(url, key, **plateau), epochs=40)

    assert len(set(history["learning_rate"])) > 3
    assert history["learning_rate"] == expected["learning_rate"]


def test_the_weights_are_those_of_keras_own_plateau(url, key):
    x, y = data()
    own, ours = linear(), linear()
    fit(own, keras.callbacks.ReduceLROnPlateau(patience=1), epochs=8, validation_data=(x, y))

    fit(ours, RemoteLR(url, key, patience=1), epochs=8, validation_data=(x, y))

    np.testing.assert_array_equal(ours.get_weights()[0], own.get_weights()[0])


def test_every_batch_moves_the_weights_by_the_rate_of_its_step(url, key):
    """On JAX a rate that is merely assigned within an epoch never reaches the compiled step."""
    steps = StepsTaken()

    fit(unit_gradient(keras.optimizers.SGD(0.5)), RemoteLR(url, key, COSINE), steps, epochs=5, xy=ones())

    warmup = [0.1 * step / 4 for step in range(4)]
    cosine = [0.05 * (1 + math.cos(math.pi * step / 16)) for step in range(16)]
    assert steps.rates == pytest.approx(warmup + cosine, abs=1e-6)


def test_a_keras_schedule_gives_the_rates_it_gives_inside_an_optimizer(url, key):
    schedule = CosineDecay(0.0, 16, warmup_target=0.1, warmup_steps=4, alpha=0.1)
    own, ours = StepsTaken(), StepsTaken()
    fit(unit_gradient(keras.optimizers.SGD(schedule)), own, epochs=6, xy=ones())

    fit(unit_gradient(keras.optimizers.SGD(0.5)), RemoteLR(url, key, schedule), ours, epochs=6, xy=ones())

    assert ours.rates == pytest.approx(own.rates, abs=1e-6)


def test_a_step_is_an_update_and_not_a_batch_when_gradients_are_accumulated(url, key):
    """Keras's own schedules look at the batches: they would run four times too fast."""
    optimizer = keras.optimizers.SGD(0.5, gradient_accumulation_steps=4)
    falling = {"schedule": {"type": "linear", "initial_learning_rate": 0.6, "end_learning_rate": 0.0, "decay_steps": 6}}
    steps = StepsTaken()

    fit(unit_gradient(optimizer), RemoteLR(url, key, {**falling, "unit": "step"}), steps, epochs=6, xy=ones())

    updates = [rate for rate in steps.rates if rate]
    assert updates == pytest.approx([0.6, 0.5, 0.4, 0.3, 0.2, 0.1], abs=1e-6)


def test_gradients_that_wait_over_the_end_of_an_epoch_are_counted_once(url, key):
    """Three batches an epoch, two to an update: the third waits for the first of the next epoch."""
    optimizer = keras.optimizers.SGD(0.5, gradient_accumulation_steps=2)
    falling = {"schedule": {"type": "linear", "initial_learning_rate": 0.6, "end_learning_rate": 0.0, "decay_steps": 6}}
    steps = StepsTaken()

    fit(unit_gradient(optimizer), RemoteLR(url, key, {**falling, "unit": "step"}), steps, epochs=4, xy=ones(24))

    updates = [rate for rate in steps.rates if rate]
    assert updates == pytest.approx([0.6, 0.5, 0.4, 0.3, 0.2, 0.1], abs=1e-6)


@pytest.mark.skipif(keras.backend.backend() == "torch", reason="Keras has one step per execution on torch")
def test_every_step_within_an_execution_has_its_own_rate(url, key):
    model = unit_gradient(keras.optimizers.SGD(0.5), steps_per_execution=2)
    falling = {"schedule": {"type": "linear", "initial_learning_rate": 0.8, "end_learning_rate": 0.0, "decay_steps": 8}}
    steps = StepsTaken()

    fit(model, RemoteLR(url, key, {**falling, "unit": "step"}), steps, epochs=2, xy=ones())

    assert steps.rates == pytest.approx([0.8 + 0.7, 0.6 + 0.5, 0.4 + 0.3, 0.2 + 0.1], abs=1e-6)


def test_the_optimizers_rate_is_the_initial_one_where_the_policy_names_none(url, key):
    halving = {"type": "step", "step_size": 2, "gamma": 0.5}

    history = fit(linear(0.04), RemoteLR(url, key, halving), epochs=6)

    assert history["learning_rate"] == float32([0.04, 0.04, 0.02, 0.02, 0.01, 0.01])


def test_several_optimizers_keep_the_ratio_of_their_rates(url, key):
    optimizers = keras.optimizers.OptimizerMap(keras.optimizers.SGD(0.1, name="slow"))
    optimizers["only/kernel"] = keras.optimizers.SGD(0.4, name="fast")
    model = linear(keras.optimizers.MultiOptimizer(optimizers))

    history = fit(model, Losses([1.0] * 6), RemoteLR(url, key, factor=0.5, patience=2), epochs=6)

    assert history["learning_rate_fast"] == float32([0.4, 0.4, 0.4, 0.2, 0.2, 0.1])
    assert history["learning_rate_slow"] == float32([0.1, 0.1, 0.1, 0.05, 0.05, 0.025])


def test_mixed_precision_changes_the_rate_of_the_optimizer_inside(url, key):
    model = linear(keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1)))

    history = fit(model, Losses([1.0] * 4), RemoteLR(url, key, factor=0.5, patience=1), epochs=4)

    assert history["learning_rate"] == float32([0.1, 0.1, 0.05, 0.025])


def test_training_from_a_later_epoch_starts_with_that_epochs_rate(url, key):
    halving = {"type": "step", "step_size": 2, "gamma": 0.5, "initial_learning_rate": 0.8}

    history = fit(linear(), RemoteLR(url, key, halving), epochs=8, initial_epoch=5)

    assert history["learning_rate"] == float32([0.2, 0.1, 0.1])


def test_fit_in_two_parts_has_the_rates_of_one(url, key):
    losses = [1.0] * 12
    whole = fit(linear(), Losses(losses), RemoteLR(url, f"{key}-whole", patience=3), epochs=12)

    model = linear()
    callbacks = [Losses(losses), RemoteLR(url, f"{key}-parts", patience=3)]
    parts = fit(model, *callbacks, epochs=5)["learning_rate"]
    parts += fit(model, *callbacks, epochs=12, initial_epoch=5)["learning_rate"]

    assert parts == whole["learning_rate"]


def test_the_history_of_the_run_has_what_the_fit_reported(url, key):
    x, y = data()
    history = fit(linear(), RemoteLR(url, key, patience=1), epochs=5, validation_data=(x, y))

    with Client(url) as client:
        run = client.get_run(key)
        stored = list(run.history())

    assert [row.metrics["val_loss"] for row in stored] == history["val_loss"]
    assert [row.used_learning_rate for row in stored] == history["learning_rate"]
    assert run.view.status == "completed"


def test_a_schedule_inside_the_optimizer_is_refused_with_the_remedy(url, key):
    model = linear(keras.optimizers.SGD(CosineDecay(0.1, 10)))

    with pytest.raises(TypeError, match=r"Give the schedule to RemoteLR as `policy=`"):
        fit(model, RemoteLR(url, key))


def test_epochs_without_validation_count_for_no_plateau(url, key):
    """With validation_freq=2 the plateau sees every second epoch, as Keras's own does."""
    x, y = data()
    validated = {"epochs": 12, "validation_data": (x, y), "validation_freq": 2}
    plateau = {"factor": 0.5, "patience": 2, "min_delta": 10.0}
    with pytest.warns(UserWarning, match="conditioned on metric `val_loss`"):
        expected = fit(linear(), keras.callbacks.ReduceLROnPlateau(**plateau), **validated)

    with pytest.warns(UserWarning, match="has no metric `val_loss`") as warned:
        history = fit(linear(), RemoteLR(url, key, **plateau), **validated)

    assert len(ours(warned)) == 1
    assert history["learning_rate"] == expected["learning_rate"]
    assert len(set(history["learning_rate"])) == 3


def test_a_loss_that_is_not_a_number_is_an_epoch_without_improvement(url, key):
    losses = [1.0, math.nan, math.inf, math.nan, 0.5]

    history = fit(linear(), Losses(losses), RemoteLR(url, key, factor=0.5, patience=2), epochs=5)

    assert history["learning_rate"] == float32([0.1, 0.1, 0.1, 0.05, 0.05])


def test_batches_of_a_generator_without_a_length_are_counted(url, key):
    def endless():
        while True:
            yield np.ones((BATCH, 1), "float32"), np.zeros((BATCH, 1), "float32")

    falling = {"schedule": {"type": "linear", "initial_learning_rate": 0.8, "end_learning_rate": 0.0, "decay_steps": 8}}
    steps = StepsTaken()
    remote = RemoteLR(url, key, {**falling, "unit": "step"})

    unit_gradient(keras.optimizers.SGD(0.5)).fit(
        endless(), steps_per_epoch=4, epochs=2, verbose=0, shuffle=False, callbacks=[remote, steps]
    )

    assert steps.rates == pytest.approx([0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1], abs=1e-6)
    assert ROWS // BATCH == BATCHES == 4


def test_a_fit_leaves_the_decided_rate_in_the_optimizer_as_keras_own_plateau_does(url, key, tmp_path):
    """Keras's `test_reduces_lr_with_model_fit`, for any later training: after a save, or of another run."""
    plateau = {"patience": 1, "factor": 0.1, "monitor": "val_loss", "min_delta": 100.0}
    xy, validation = data(), {"validation_data": data()}
    own, model = linear(), linear()
    fit(own, keras.callbacks.ReduceLROnPlateau(**plateau), epochs=2, xy=xy, **validation)

    history = fit(model, RemoteLR(url, key, **plateau), epochs=2, xy=xy, **validation)

    assert history["learning_rate"] == float32([0.1, 0.1])
    assert float(model.optimizer.learning_rate) == float(own.optimizer.learning_rate) == float(np.float32(0.01))
    model.save(tmp_path / "model.keras")
    assert float(keras.saving.load_model(tmp_path / "model.keras").optimizer.learning_rate) == float(np.float32(0.01))
    assert fit(model, RemoteLR(url, f"{key}-2", patience=9), epochs=1, **validation)["learning_rate"] == float32([0.01])


@pytest.mark.parametrize("bound", [{"min_lr": 0.005}, {"cooldown": 2}, {"cooldown": 1, "min_lr": 0.002}], ids=str)
def test_a_fit_leaves_the_rate_of_keras_own_plateau_with_a_bound_and_a_cooldown(url, key, bound):
    """Keras's `test_honors_min_lr` and `test_cooldown`."""
    plateau = {"patience": 1, "factor": 0.1, "monitor": "val_loss", "min_delta": 100.0, **bound}
    own, model = linear(), linear()
    fit(own, keras.callbacks.ReduceLROnPlateau(**plateau), epochs=4, validation_data=data())

    fit(model, RemoteLR(url, key, **plateau), epochs=4, validation_data=data())

    assert float(model.optimizer.learning_rate) == float(own.optimizer.learning_rate) < 0.1


def test_a_second_fit_with_the_same_callback_begins_with_a_new_plateau(url, key):
    """Keras's `test_state_reset_across_fit_calls`."""
    callback = RemoteLR(url, key, patience=3, factor=0.5, cooldown=2)
    fit(linear(), Losses([0.5] * 6), callback, epochs=6)

    with pytest.warns(RemoteLRWarning, match="begins again at epoch 1"):
        history = fit(linear(), Losses([2.0] * 4), callback, epochs=4)

    # The best of the first fit, 0.5, would have counted the first epoch as one without improvement.
    assert history["learning_rate"] == float32([0.1, 0.1, 0.1, 0.1])
    with Client(url) as client:
        assert client.get_run(key).decision.plateau == {"best": 2.0, "wait": 0, "cooldown": 2}


def test_a_reduction_is_logged_as_keras_logs_it_when_its_interactive_logging_is_off(url, key, caplog):
    """Keras's `test_verbose_logging`."""
    keras.config.disable_interactive_logging()
    try:
        with caplog.at_level("INFO"):
            fit(linear(), Losses([1.0] * 2), RemoteLR(url, key, patience=1, verbose=1), epochs=2)
    finally:
        keras.config.enable_interactive_logging()

    assert ["Epoch 1: RemoteLR setting learning rate to 0.1.", "Epoch 2: RemoteLR reducing learning rate to 0.01."] == [
        message for message in map(logging.LogRecord.getMessage, caplog.records) if message.startswith("Epoch ")
    ]


def test_a_schedule_that_ends_at_zero_leaves_the_last_rate_that_can_train(url, key):
    model = linear()
    policy = {"type": "linear", "end_learning_rate": 0.0, "decay_steps": 2}

    history = fit(model, RemoteLR(url, key, policy), epochs=2)

    assert float(model.optimizer.learning_rate) == history["learning_rate"][-1] == float(np.float32(0.05))


def test_a_forgotten_unit_is_warned_of_once_when_training_begins(url, key):
    cosine = {"type": "cosine", "decay_steps": 3 * BATCHES}

    before = []

    with pytest.warns() as warned:
        fit(linear(), RemoteLR(url, key, cosine), Before(0, lambda: before.extend(ours(warned))), epochs=2)

    expected = (
        f"RemoteLR: run '{key}': the schedule takes 12 epochs and the run has 2 epochs: only the beginning of the "
        'curve is used. It fits the 8 steps of the run: set "unit": "step" in the policy.'
    )
    assert [expected] == ours(warned) == before


def test_a_second_fit_with_more_epochs_is_measured_by_its_own_length(url, key):
    """The run keeps the `total_epochs` of its first training."""
    cosine = {"type": "cosine", "decay_steps": 20}
    with pytest.warns(RemoteLRWarning, match="the run has 4 epochs"):
        fit(linear(), RemoteLR(url, key, cosine), epochs=4)

    with warnings.catch_warnings():
        warnings.simplefilter("error", RemoteLRWarning)
        fit(linear(), RemoteLR(url, key, cosine), epochs=20, initial_epoch=4)
