"""A policy by steps costs no call for each batch: the training step reads the rates of the epoch from the optimizer."""

import keras
import numpy as np
import pytest
from keras.optimizers.schedules import PiecewiseConstantDecay

from remotelr.keras import RemoteLR
from remotelr.rules import policy_from_json, preview
from support.keras.training_jobs import BATCH, ROWS

EPOCHS = 3
BATCHES = ROWS // BATCH
TOTAL = EPOCHS * BATCHES
POLICY = {"schedule": {"type": "cosine", "initial_learning_rate": 0.05, "decay_steps": TOTAL}, "unit": "step"}
TABLE = {"epoch_rates", "epoch_start", "rate_set"}
NOT_ON_TORCH = pytest.mark.skipif(keras.backend.backend() == "torch", reason="the training step is not compiled")


def model_with(optimizer, **settings):
    keras.utils.set_random_seed(3)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8, "tanh"), keras.layers.Dense(1)])
    model.compile(optimizer, "mse", **settings)
    return model


def fit(model, *callbacks, epochs=EPOCHS, **settings):
    rng = np.random.default_rng(5)
    x, y = rng.normal(size=(ROWS, 4)).astype("float32"), rng.normal(size=(ROWS, 1)).astype("float32")
    model.fit(x, y, BATCH, epochs, 0, callbacks=list(callbacks), shuffle=False, **settings)
    return model


@pytest.mark.parametrize("kind", ["SGD", "Adam", "AdamW"])
def test_the_weights_are_those_of_the_schedule_inside_the_optimizer_bit_for_bit(url, key, kind):
    make = getattr(keras.optimizers, kind)
    # Keras's CosineDecay calculates in float32; a schedule of given values has the policy's rates, rounded once.
    rates = preview(policy_from_json(POLICY), 0.05, TOTAL).learning_rates
    own = fit(model_with(make(PiecewiseConstantDecay(list(range(TOTAL - 1)), list(rates)))))

    ours = fit(model_with(make(0.05)), RemoteLR(url, key, POLICY))

    for one, other in zip(own.get_weights(), ours.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


@NOT_ON_TORCH
def test_several_steps_per_execution_train_the_same_weights_as_one(url, key):
    one = fit(model_with("sgd"), RemoteLR(url, f"{key}-1", POLICY))

    four = fit(model_with("sgd", steps_per_execution=4), RemoteLR(url, f"{key}-4", POLICY))

    for left, right in zip(one.get_weights(), four.get_weights(), strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-6)


@NOT_ON_TORCH
def test_a_callback_reads_the_rate_of_the_present_step_from_the_optimizers_variable(url, key):
    class Reader(keras.callbacks.Callback):
        def __init__(self):
            super().__init__()
            self.rates = []

        def on_train_batch_begin(self, batch, logs=None):
            self.rates.append(float(self.model.optimizer.learning_rate.numpy()))

    reader = Reader()
    fit(model_with("sgd"), RemoteLR(url, key, POLICY), reader)

    expected = preview(policy_from_json(POLICY), 0.05, TOTAL).learning_rates
    assert reader.rates == [float(np.float32(rate)) for rate in expected]


def test_a_saved_optimizer_has_no_table_and_loads_with_and_without_one(url, key, tmp_path):
    plain, ours = fit(model_with("adam")), fit(model_with("adam"), RemoteLR(url, key, POLICY))
    files = {}
    for name, model in {"plain": plain, "ours": ours}.items():
        files[name] = tmp_path / f"{name}.keras"
        model.save(files[name])

    loaded = keras.saving.load_model(files["ours"])
    saved = [variable for variable in ours.optimizer.variables if variable.name not in TABLE]

    assert len(saved) == len(plain.optimizer.variables)
    for before, after in zip(saved, loaded.optimizer.variables, strict=True):
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(before), keras.ops.convert_to_numpy(after))
    state = {}
    plain.optimizer.save_own_variables(state)
    ours.optimizer.load_own_variables(state)
    assert int(ours.optimizer.iterations) == int(plain.optimizer.iterations)


@NOT_ON_TORCH
def test_a_rate_set_by_another_callback_counts_until_the_next_epoch(url, key):
    class Meddler(keras.callbacks.Callback):
        used = None

        def on_train_batch_begin(self, batch, logs=None):
            if batch == 1:
                self.model.optimizer.learning_rate = 0.0
            elif batch == 2:
                self.used = [weights.copy() for weights in self.model.get_weights()]
            elif batch == 3:
                after = self.model.get_weights()
                assert all(np.array_equal(one, other) for one, other in zip(self.used, after, strict=True))

    meddler = Meddler()
    fit(model_with("sgd"), RemoteLR(url, key, POLICY), meddler, epochs=1)

    assert meddler.used is not None


def test_after_a_fit_that_failed_the_optimizer_follows_a_rate_set_by_hand(url, key):
    class Failure(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            raise RuntimeError("the trainer fails")

    model = model_with("sgd")
    with pytest.raises(RuntimeError, match="the trainer fails"):
        fit(model, RemoteLR(url, key, POLICY), Failure())
    before = [weights.copy() for weights in model.get_weights()]

    model.optimizer.learning_rate = 0.0
    fit(model)

    assert all(np.array_equal(one, other) for one, other in zip(before, model.get_weights(), strict=True))


@NOT_ON_TORCH
@pytest.mark.filterwarnings("ignore:.*the schedule takes:remotelr.errors.RemoteLRWarning")
def test_a_second_fit_with_longer_epochs_gets_a_longer_table(url, key):
    model = model_with("sgd")
    remote = RemoteLR(url, key, POLICY)
    fit(model, remote, epochs=1, steps_per_epoch=2)

    fit(model, RemoteLR(url, f"{key}-2", POLICY))

    assert max(variable.shape[0] for variable in model.optimizer.variables if variable.name == "epoch_rates") == BATCHES
