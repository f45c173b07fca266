"""One training job of the demo: a small Keras model on handwritten digits.

Usage: `python -m remotelr_service.demo.trainer URL RUN CHECKPOINT [DIE_IN_EPOCH]`.
"""

import os
import signal
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "jax")

import keras
from sklearn.datasets import load_digits

from remotelr.keras import RemoteLR

EPOCHS = 14
BATCH_SIZE = 64

PLATEAU = {"type": "reduce_on_plateau", "factor": 0.5, "patience": 2, "min_delta": 0.02}
WARMUP_COSINE = {
    "schedule": {
        "type": "cosine",
        "initial_learning_rate": 0.4,
        "decay_steps": 11 * 19,
        "alpha": 0.01,
        "warmup": {"steps": 3 * 19, "start_learning_rate": 0.0},
    },
    "unit": "step",
}
POLICIES: dict[str, dict[str, Any]] = {
    "plateau": PLATEAU,
    "plateau-killed": PLATEAU,
    "warmup-cosine": WARMUP_COSINE,
}


class DieInEpoch(keras.callbacks.Callback):  # type: ignore[misc]  # Keras is untyped
    """Kills its own process in the middle of an epoch, as a preemption does."""

    def __init__(self, epoch: int) -> None:
        super().__init__()
        self.fatal_epoch = epoch
        self.epoch = -1

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.epoch = epoch

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if self.epoch == self.fatal_epoch and batch == 7:
            os.kill(os.getpid(), signal.SIGKILL)


def train(url: str, run: str, checkpoint: Path, die_in_epoch: int | None = None) -> None:
    """Train to the end, from the checkpoint if there is one."""
    keras.utils.set_random_seed(7)
    pixels, labels = load_digits(return_X_y=True)
    pixels = pixels.astype("float32") / 16.0
    train_x, train_y, test_x, test_y = pixels[:1200], labels[:1200], pixels[1200:], labels[1200:]

    model = keras.Sequential(
        [keras.layers.Input((64,)), keras.layers.Dense(48, "relu"), keras.layers.Dense(10, "softmax")]
    )
    model.compile(optimizer=keras.optimizers.SGD(0.5), loss="sparse_categorical_crossentropy")
    callbacks: list[Any] = [
        RemoteLR(url=url, run=run, policy=POLICIES[run], spool_dir=checkpoint.parent),
        keras.callbacks.BackupAndRestore(str(checkpoint)),
    ]
    if die_in_epoch is not None:
        callbacks.append(DieInEpoch(die_in_epoch))
    model.fit(
        train_x,
        train_y,
        validation_data=(test_x, test_y),
        epochs=EPOCHS,
        batch_size=BATCH_SIZE,
        # The same batches in every attempt, so that two runs are comparable exactly.
        shuffle=False,
        verbose=0,
        callbacks=callbacks,
    )


if __name__ == "__main__":
    address, name, folder, *fatal = sys.argv[1:]
    train(address, name, Path(folder), int(fatal[0]) if fatal else None)
