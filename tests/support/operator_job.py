"""A training job that an operator may steer: `python -m support.operator_job settings.json`, a process of its own.

It prints `at E` when it waits before epoch E, and continues after the line `until E` on stdin. So a test
with many jobs decides how far each has come when something happens, on a machine of any speed. The rate that each
epoch really trained with is written down where the job itself used it.
"""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any


class Gate:
    """Waits at the given epoch."""

    def __init__(self) -> None:
        self._until = 0

    def wait(self, epoch: int) -> None:
        while epoch >= self._until:
            print(f"at {epoch}", flush=True)
            line = sys.stdin.readline()
            if not line:
                # The parent has closed the pipe.
                sys.exit(1)
            self._until = int(line.removeprefix("until "))


class Notebook:
    """The rates the job trained with, one line for each epoch it trained."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def note(self, epoch: int, learning_rate: float) -> None:
        with self._file.open("a") as file:
            file.write(json.dumps({"epoch": epoch, "learning_rate": learning_rate}) + "\n")


def train_by_hand(settings: dict[str, Any], gate: Gate, notebook: Notebook) -> None:
    """A loop of one's own: one weight on its way down a parabola, and a checkpoint after each epoch."""
    from remotelr import Client

    checkpoint = Path(settings["checkpoint"])
    with Client(settings["url"], timeout_s=60.0) as client:
        run = client.run(settings["run"], **settings["spec"])
        weight, epoch = json.loads(checkpoint.read_text()) if checkpoint.exists() else (1.0, 0)
        decision = run.begin(epoch)
        while decision.action == "continue" and decision.epoch < settings["epochs"]:
            gate.wait(decision.epoch)
            rate = decision.learning_rate
            weight -= rate * weight
            notebook.note(decision.epoch, rate)
            decision = run.report(decision.epoch, {"val_loss": weight**2 + 0.1}, learning_rate=rate)
            checkpoint.write_text(json.dumps([weight, decision.epoch]))
        run.finish("stopped" if decision.action == "stop" else "completed")


def train_with_keras(settings: dict[str, Any], gate: Gate, notebook: Notebook) -> None:
    """A real fit. It kills itself in the middle of the epoch `dies_in`, as a preempted machine would."""
    import keras

    from remotelr.keras import RemoteLR
    from support.keras.training_jobs import BATCH, data, linear

    class Steered(keras.callbacks.Callback):  # type: ignore[misc]  # Keras ships no types
        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            gate.wait(epoch)
            self.epoch, self.rate = epoch, float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            if self.epoch == settings["dies_in"] and batch == 1:
                os.kill(os.getpid(), signal.SIGKILL)

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            notebook.note(epoch, self.rate)

    spec = dict(settings["spec"])
    spec.pop("total_epochs")
    x, y = data()
    linear(spec.pop("initial_learning_rate")).fit(
        x,
        y,
        validation_data=(x, y),
        batch_size=BATCH,
        epochs=settings["epochs"],
        verbose=0,
        callbacks=[
            RemoteLR(settings["url"], settings["run"], timeout_s=60.0, **spec),
            Steered(),
            keras.callbacks.BackupAndRestore(settings["checkpoint"]),
        ],
    )


def main(settings: dict[str, Any]) -> None:
    train = train_with_keras if settings["keras"] else train_by_hand
    train(settings, Gate(), Notebook(Path(settings["used"])))


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
