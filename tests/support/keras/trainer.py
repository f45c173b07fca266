"""A training job as a process: `trainer.py settings.json`. It kills itself where those say, as a preemption would."""

import json
import os
import signal
import sys
from pathlib import Path

import keras

from remotelr.keras import RemoteLR
from support.keras.training_jobs import BATCH, Losses, data, linear


class Witness(keras.callbacks.Callback):
    """Writes down the rate of every epoch that ended, and dies on demand."""

    def __init__(self, file: Path, dies_at: tuple[int, str]) -> None:
        super().__init__()
        self._file = file
        self._dies_at = tuple(dies_at)
        self._epoch = 0

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if self._dies_at == (self._epoch, "batch") and batch == 1:
            os.kill(os.getpid(), signal.SIGKILL)

    def on_epoch_end(self, epoch, logs=None):
        with self._file.open("a") as file:
            file.write(json.dumps({"epoch": epoch, "learning_rate": logs["learning_rate"]}) + "\n")
            file.flush()
        if self._dies_at == (epoch, "end"):
            os.kill(os.getpid(), signal.SIGKILL)


def main(settings: dict) -> None:
    remote = RemoteLR(settings["url"], settings["run"], settings.get("policy"), **settings.get("plateau", {}))
    backup = keras.callbacks.BackupAndRestore(settings["backup"])
    witness = Witness(Path(settings["seen"]), settings["dies_at"])
    # The witness stands where a kill loses the backup of the epoch, or where it does not.
    callbacks = {
        "backup last": [remote, witness, backup],
        "backup first": [backup, remote, witness],
    }[settings["order"]]
    x, y = data()
    linear().fit(
        x,
        y,
        batch_size=BATCH,
        epochs=settings["epochs"],
        verbose=0,
        callbacks=[Losses(settings["losses"]), *callbacks],
    )


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
