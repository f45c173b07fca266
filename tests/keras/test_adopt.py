"""Callbacks and schedules that are there already, taken over: the rates are those they gave."""

import math
import random

import keras
import numpy as np
import pytest
from keras.callbacks import CSVLogger, LearningRateScheduler, ReduceLROnPlateau
from keras.optimizers.schedules import CosineDecay, ExponentialDecay

from remotelr.keras import RemoteLR
from support.keras.training_jobs import BATCH, Losses, StepsTaken, data, linear, ones, unit_gradient

NOWHERE = "http://127.0.0.1:9"


def fit(model, callbacks, epochs=12, xy=None):
    x, y = data() if xy is None else xy
    return model.fit(x, y, epochs=epochs, callbacks=callbacks, batch_size=BATCH, shuffle=False, verbose=0).history


def both(url, key, losses, make, **given):
    """The rates with the callbacks as they are, and with RemoteLR in their place."""
    own = fit(linear(), [Losses(losses), *make()], epochs=len(losses))
    model = linear()
    taken = RemoteLR.from_callbacks([Losses(losses), *make()], url, key, model=model, **given)
    assert any(isinstance(each, RemoteLR) for each in taken)
    ours = fit(model, taken, epochs=len(losses))
    return own["learning_rate"], ours["learning_rate"]


@pytest.mark.parametrize("seed", range(3))
def test_a_plateau_taken_over_gives_the_rates_it_gave(url, key, seed):
    losses = np.random.default_rng(seed).normal(1, 0.1, 30).astype("float32").tolist()

    own, ours = both(url, key, losses, lambda: [ReduceLROnPlateau(factor=0.7, patience=2, cooldown=1, min_lr=0.01)])

    assert len(set(own)) > 3
    assert ours == own


def test_a_plateau_that_has_been_used_is_read_as_it_was_made(url, key):
    """Keras turns the sign of its min_delta around when it is first used."""
    losses = [1.0 - 0.01 * epoch for epoch in range(12)]
    plateau = ReduceLROnPlateau(factor=0.5, patience=2, min_delta=0.05)
    own = fit(linear(), [Losses(losses), plateau])["learning_rate"]

    ours = fit(linear(), RemoteLR.from_callbacks([Losses(losses), plateau], url, key))["learning_rate"]

    assert len(set(own)) > 1
    assert ours == own


@pytest.mark.parametrize(
    "function",
    [
        lambda epoch: 0.01 * 0.5 ** (epoch // 3),
        lambda epoch, lr: lr if epoch < 5 else lr * math.exp(-0.1),
        lambda epoch, lr: 0.1 if epoch < 4 else 0.02,
    ],
    ids=["of the epoch", "of the rate before", "of either"],
)
def test_a_function_taken_over_gives_the_rates_it_gave(url, key, function):
    own, ours = both(url, key, [1.0] * 12, lambda: [LearningRateScheduler(function)], epochs=12)

    assert len(set(own)) > 1
    assert ours == own


def test_two_functions_follow_on_each_other_as_they_did(url, key):
    functions = [lambda epoch, lr: lr * 0.9, lambda epoch, lr: max(lr, 0.05)]

    own, ours = both(url, key, [1.0] * 12, lambda: [LearningRateScheduler(each) for each in functions], epochs=12)

    assert ours == own


def test_a_plateau_that_a_function_undoes_every_epoch_has_as_little_effect_as_before(url, key, capsys):
    """keras-team/keras#8829: an absolute schedule sets each reduction back at the next epoch."""

    def make():
        return [LearningRateScheduler(lambda epoch: 0.1 * 0.9**epoch), ReduceLROnPlateau(factor=0.1, patience=1)]

    own, ours = both(url, key, [1.0] * 8, make, epochs=8)

    assert ours == own
    assert "ReduceLROnPlateau is dropped, because the function undid each reduction" in capsys.readouterr().out


@pytest.mark.parametrize(
    "schedule", [CosineDecay(0.0, 16, warmup_target=0.1, warmup_steps=4), ExponentialDecay(0.1, 5, 0.5, staircase=True)]
)
def test_a_schedule_taken_out_of_the_optimizer_gives_every_batch_the_rate_it_gave(url, key, schedule):
    own, ours = StepsTaken(), StepsTaken()
    fit(unit_gradient(keras.optimizers.SGD(schedule)), [own], epochs=6, xy=ones())
    model = unit_gradient(keras.optimizers.SGD(schedule))

    fit(model, RemoteLR.from_callbacks([ours], url, key, model=model), epochs=6, xy=ones())

    assert len(set(own.rates)) > 3
    assert ours.rates == pytest.approx(own.rates, abs=1e-6)


def test_an_optimizer_whose_schedule_is_replaced_keeps_its_state(url, key):
    schedule = ExponentialDecay(0.1, 4, 0.5)
    own, ours = [unit_gradient(keras.optimizers.SGD(schedule, momentum=0.9)) for _ in range(2)]
    for model in (own, ours):
        fit(model, [], epochs=1, xy=ones())

    taken = RemoteLR.from_callbacks([], url, key, model=ours)

    assert int(ours.optimizer.iterations) == 4
    fit(own, [], epochs=1, xy=ones())
    ours.fit(*ones(), initial_epoch=1, epochs=2, callbacks=taken, batch_size=BATCH, shuffle=False, verbose=0)
    np.testing.assert_allclose(ours.get_weights()[0], own.get_weights()[0], rtol=1e-5)


def test_remotelr_takes_the_position_of_the_replaced_callback(tmp_path):
    first, last = Losses([1.0]), CSVLogger(tmp_path / "log.csv")

    taken = RemoteLR.from_callbacks([first, ReduceLROnPlateau(verbose=1), last], NOWHERE, "a")

    assert [first, last] == [taken[0], taken[2]]
    assert isinstance(taken[1], RemoteLR)
    assert taken[1].verbose == 1


def test_one_message_describes_the_conversion(capsys):
    RemoteLR.from_callbacks([ReduceLROnPlateau(patience=3)], NOWHERE, "a")

    assert capsys.readouterr().out == (
        "RemoteLR sets the learning rate: ReduceLROnPlateau(monitor='val_loss', factor=0.1, patience=3, cooldown=0) "
        "becomes the policy.\n"
    )


@pytest.mark.parametrize(
    ("callbacks", "why"),
    [
        ([], "no callback sets the rate"),
        ([LearningRateScheduler(lambda epoch: random.random())], "returns other rates when it is called again"),
        ([LearningRateScheduler(lambda epoch: 1 / 0)], "cannot be called before training (ZeroDivisionError"),
        ([LearningRateScheduler(lambda epoch, lr: lr * 0.9)], "give the `model`"),
        ([LearningRateScheduler(lambda epoch: -0.5)], "must"),
        ([LearningRateScheduler(lambda epoch, lr=1.0: lr), ReduceLROnPlateau()], "multiply, which no table expresses"),
        ([ReduceLROnPlateau(), ReduceLROnPlateau("loss")], "reduce each other's rates"),
        ([ReduceLROnPlateau("val_whatever")], "mode"),
    ],
    ids=["nothing", "dice", "raises", "no first rate", "no rate", "relative and plateau", "two plateaus", "no mode"],
)
def test_what_has_no_exact_policy_stays_unchanged_and_is_named(callbacks, why, capsys):
    model = linear() if len(callbacks) > 1 else None

    assert RemoteLR.from_callbacks(callbacks, NOWHERE, "a", model=model, epochs=5) == callbacks

    said = capsys.readouterr().out
    assert "leaves the callbacks unchanged" in said
    assert why in said


def test_a_function_without_a_number_of_epochs_is_refused():
    with pytest.raises(ValueError, match="epochs is missing"):
        RemoteLR.from_callbacks([LearningRateScheduler(lambda epoch: 0.1)], NOWHERE, "a")


def test_a_callback_beside_a_schedule_in_the_optimizer_is_refused_as_keras_refuses_it():
    model = linear(keras.optimizers.SGD(CosineDecay(0.1, 10)))

    with pytest.raises(ValueError, match="follows a schedule of its own"):
        RemoteLR.from_callbacks([ReduceLROnPlateau()], NOWHERE, "a", model=model)
