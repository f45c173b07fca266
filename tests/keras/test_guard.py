"""A fit whose policy guards it: back to a checkpoint when the loss is no number, an end when nothing more is gained."""

import math

import keras
import numpy as np
import pytest

from remotelr import Client
from remotelr.errors import RemoteLRWarning
from remotelr.keras import RemoteLR
from support.keras.training_jobs import BATCH, Losses, data, linear, ours

STEADY = {"type": "constant", "initial_learning_rate": 0.5}
BACK = {"schedule": STEADY, "guard": {"action": "rollback", "rollback_to": "best", "factor": 0.5}}
# The best epoch is 1; what comes after 3 begins there again.
LOSSES = [1.0, 0.8, 0.9, math.nan, 0.7, 0.6]
RATES = [0.5, 0.5, 0.5, 0.5, 0.25, 0.25]


class Weights(keras.callbacks.Callback):
    """What the model and its optimizer were at the beginning and at the end of each epoch."""

    def __init__(self):
        super().__init__()
        self.began, self.ended = [], []

    def on_epoch_begin(self, epoch, logs=None):
        self.began.append(self._now())

    def on_epoch_end(self, epoch, logs=None):
        self.ended.append(self._now())

    def _now(self):
        return [np.array(weights) for weights in self.model.get_weights()]


def fit(*callbacks, losses=LOSSES, model=None, epochs=None):
    x, y = data()
    settings = {"batch_size": BATCH, "epochs": epochs or len(losses), "verbose": 0}
    return (model or linear()).fit(x, y, callbacks=[Losses(losses), *callbacks], **settings).history


@pytest.mark.parametrize("central", [True, False], ids=["service", "alone"])
def test_a_run_goes_back_to_the_weights_of_the_epoch_in_the_decision(url, key, tmp_path, capsys, central):
    # One path for both; the callback that keeps them stands before the one that looks at the end of the epoch.
    checkpoints = str(tmp_path / "{epoch:03d}.weights.h5")
    kept = keras.callbacks.ModelCheckpoint(checkpoints, save_weights_only=True)
    weights = Weights()

    history = fit(weights, kept, RemoteLR(url if central else None, key, BACK, checkpoint=checkpoints), weights)

    began, ended = weights.began[1::2], weights.ended[::2]
    np.testing.assert_array_equal(began[4][0], ended[1][0])
    assert not np.array_equal(began[4][0], ended[3][0])
    assert history["learning_rate"] == RATES
    assert "Epoch 5: RemoteLR loads the weights of the end of epoch 2." in capsys.readouterr().out


def test_a_function_may_load_the_checkpoint(url, key):
    asked = []

    fit(RemoteLR(url, key, BACK, checkpoint=asked.append))

    assert asked == [1]


def test_a_process_that_begins_at_a_rollback_loads_the_checkpoint_again(url, key):
    asked, (x, y) = [], data()
    callbacks = [Losses(LOSSES), RemoteLR(url, key, BACK, checkpoint=asked.append)]

    for first, last in ((0, 4), (4, 6)):
        linear().fit(x, y, batch_size=BATCH, initial_epoch=first, epochs=last, verbose=0, callbacks=callbacks)

    assert asked == [1, 1]


def test_a_rollback_zeroes_non_finite_optimizer_state(url, key):
    model = linear(keras.optimizers.SGD(0.5, momentum=0.9))
    good = model.get_weights()

    class Diverges(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 3:
                for variable in (*self.model.trainable_variables, *self.model.optimizer.momentums):
                    variable.assign(np.full(variable.shape, np.nan))

    history = fit(Diverges(), RemoteLR(url, key, BACK, checkpoint=lambda _: model.set_weights(good)), model=model)

    assert np.isfinite(history["loss"][4:]).all()
    assert np.isfinite(model.get_weights()[0]).all()
    assert history["learning_rate"] == RATES


def test_without_checkpoints_the_rate_falls_and_a_warning_says_what_is_missing(url, key):
    with pytest.warns(RemoteLRWarning) as warned:
        history = fit(RemoteLR(url, key, BACK))

    assert ["no checkpoints are named: set `checkpoint=" in message for message in ours(warned)] == [True]
    assert history["learning_rate"] == RATES


def test_a_checkpoint_that_is_not_there_is_named_and_training_goes_on(url, key, tmp_path):
    with pytest.warns(RemoteLRWarning, match=r"end of epoch 2.*002\.weights\.h5.*goes on with the weights it has"):
        history = fit(RemoteLR(url, key, BACK, checkpoint=tmp_path / "{epoch:03d}.weights.h5"))

    assert history["learning_rate"] == RATES


@pytest.mark.parametrize("path", ["best.weights.h5", "{epoch}-{val_loss:.2f}.weights.h5", "{}.weights.h5"])
def test_a_checkpoint_path_with_other_fields_is_rejected_by_the_constructor(path):
    with pytest.raises(ValueError, match=r"checkpoint must be a path whose only field is \{epoch\}"):
        RemoteLR("http://127.0.0.1:9", "a", checkpoint=path)


def test_early_stopping_ends_a_fit_where_keras_own_does(url, key, capsys):
    losses = np.random.default_rng(5).normal(1, 0.1, 40).astype("float32").tolist()
    expected = fit(keras.callbacks.EarlyStopping(patience=4, min_delta=0.01), losses=losses)["val_loss"]
    policy = {"schedule": STEADY, "stop": {"early_stopping": {"patience": 4, "min_delta": 0.01}}}

    history = fit(RemoteLR(url, key, policy), losses=losses)

    assert history["val_loss"] == expected
    assert 4 < len(expected) < 40
    assert "RemoteLR stops training: the early stopping of its policy ended it." in capsys.readouterr().out
    with Client(url) as client:
        assert client.get_run(key).view.status == "stopped"


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        (
            {"stop": {"target": {"value": 0.8}}},
            "Epoch 2: {}: the target of its policy is reached.",
        ),
        ({"stop": {"budget": {"epochs": 3}}}, "Epoch 3: {}: the budget of its policy is spent."),
        ({"guard": {"action": "stop"}}, "Epoch 4: {}: the guard of its policy ended it."),
    ],
    ids=["target", "budget", "guard"],
)
def test_the_reason_for_the_end_of_a_fit_is_printed(url, key, capsys, rule, said):
    fit(RemoteLR(url, key, {"schedule": STEADY, **rule}))

    assert said.format("RemoteLR stops training") in capsys.readouterr().out
