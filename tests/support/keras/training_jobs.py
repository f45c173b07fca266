"""Tiny models and data, and callbacks that measure a training."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from remotelr.errors import RemoteLRWarning

ROWS, BATCH = 32, 8
BATCHES = ROWS // BATCH


def data(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Noise, so that the validation loss has no reason to fall for long."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(ROWS, 4)).astype("float32"), rng.normal(size=(ROWS, 1)).astype("float32")


def linear(optimizer: Any = 0.1, **compiled: Any) -> keras.Model:
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1, name="only")])
    chosen = keras.optimizers.SGD(optimizer) if isinstance(optimizer, float) else optimizer
    model.compile(chosen, "mse", **compiled)
    return model


def unit_gradient(optimizer: Any, **compiled: Any) -> keras.Model:
    """One weight whose gradient is 1 in every batch: under SGD it falls by exactly the rate of the step."""
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros")])
    model.compile(optimizer, loss=lambda _, predicted: keras.ops.mean(predicted), **compiled)
    return model


def ones(rows: int = ROWS) -> tuple[np.ndarray, np.ndarray]:
    return np.ones((rows, 1), "float32"), np.zeros((rows, 1), "float32")


class Before(keras.callbacks.Callback):  # type: ignore[misc]  # Keras ships no types
    """Calls `act` before an epoch."""

    def __init__(self, epoch: int, act: Callable[[], object]) -> None:
        super().__init__()
        self._epoch, self._act = epoch, act

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        if epoch == self._epoch:
            self._act()


class StepsTaken(keras.callbacks.Callback):  # type: ignore[misc]  # Keras ships no types
    """The rate of every batch as the weight of `unit_gradient` shows it."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = [0.0]

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.weights.append(float(np.asarray(self.model.get_weights()[0]).item()))

    @property
    def rates(self) -> list[float]:
        return [before - after for before, after in zip(self.weights, self.weights[1:], strict=False)]


class Losses(keras.callbacks.Callback):  # type: ignore[misc]  # Keras ships no types
    """Replaces `val_loss` by these values, for the callbacks after it."""

    def __init__(self, values: list[float]) -> None:
        super().__init__()
        self.values = values

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        logs["val_loss"] = self.values[epoch]


def ours(warned: Any) -> list[str]:
    """The warnings of RemoteLR, without those of NumPy on the torch backend."""
    return [str(warning.message) for warning in warned if warning.category is RemoteLRWarning]
