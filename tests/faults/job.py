"""A Keras job in processes that are killed or halted where a test says, as a scheduler would do it.

They are forked from one that has imported Keras and done nothing else: the import takes seconds, and JAX must not
have computed anything before a fork.
"""

import json
import multiprocessing
import os
import signal
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Literal

BATCHES = 4

# How a process leaves at a batch of an epoch. A batch that is never reached is the end of the epoch.
Leaves = Literal["killed", "halted"]

Order = Literal["backup first", "backup first, killed between", "backup last"]


def _forks() -> Any:
    forks = multiprocessing.get_context("forkserver")
    forks.set_forkserver_preload(["trainings", "remotelr.keras"])
    return forks


@dataclass(frozen=True, kw_only=True)
class Job:
    """A training job. `start` begins a process of it.

    remote: of `RemoteLR`. order: whether the callback that keeps the checkpoint stands before RemoteLR or after it, and
    whether a kill at the end of an epoch comes between the two. every: epochs from one checkpoint to the next.
    """

    folder: Path
    remote: Mapping[str, Any]
    losses: Sequence[float]
    order: Order = "backup last"
    every: int = 1
    _forks: Any = field(default_factory=_forks)

    def start(self, *, leaves: Leaves | None = None, at: tuple[int, int] = (-1, 0)) -> BaseProcess:
        """A process, from the newest checkpoint on; it leaves at (epoch, batch), if `leaves` is given."""
        self.folder.mkdir(exist_ok=True)
        process = self._forks.Process(target=_train, args=(self._settings(leaves, at),))
        process.start()
        return process

    def _settings(self, leaves: Leaves | None, at: tuple[int, int]) -> dict[str, Any]:
        return {
            "folder": str(self.folder),
            "remote": {**self.remote, "spool_dir": str(self.folder / "spool")},
            "losses": list(self.losses),
            "order": self.order,
            "every": self.every,
            "leaves": leaves,
            "at": at,
        }

    @property
    def rates(self) -> list[list[float]]:
        """The rate of each batch of each epoch, as the last process to train it saw them."""
        rates: dict[tuple[int, int], float] = {}
        for line in (self.folder / "seen.jsonl").read_text().splitlines():
            epoch, batch, rate = json.loads(line)
            rates[epoch, batch] = rate
        return [[rates[epoch, batch] for batch in range(BATCHES)] for epoch in range(len(self.losses))]

    @property
    def said(self) -> str:
        """What all its processes printed, warnings too, but for the lines at the start and at the end."""
        lines = (self.folder / "said.txt").read_text().splitlines(keepends=True)
        return "".join(line for line in lines if not line.startswith("RemoteLR: run "))


def _train(settings: Mapping[str, Any]) -> None:
    import keras

    from remotelr.keras import RemoteLR
    from support.keras.training_jobs import BATCH, Losses, data, linear

    folder, at = Path(settings["folder"]), tuple(settings["at"])
    out = (folder / "said.txt").open("a", buffering=1)
    sys.stdout = sys.stderr = out
    warnings.filterwarnings("ignore", category=DeprecationWarning)

    class Seldom(keras.callbacks.BackupAndRestore):  # type: ignore[misc]  # Keras ships no types
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            if (epoch + 1) % settings["every"] == 0:
                super().on_epoch_end(epoch, logs)

    class Witness(keras.callbacks.Callback):  # type: ignore[misc]  # Keras ships no types
        """Writes down the rate of every batch, and leaves where it shall."""

        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            self.epoch = epoch

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            rate = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate.value))
            with (folder / "seen.jsonl").open("a") as seen:
                seen.write(json.dumps([self.epoch, batch, rate]) + "\n")
            self.leave((self.epoch, batch))

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            self.leave((epoch, BATCHES))

        def leave(self, here: tuple[int, int]) -> None:
            if here == at:
                os.kill(os.getpid(), signal.SIGKILL if settings["leaves"] == "killed" else signal.SIGSTOP)

    remote, backup, witness = RemoteLR(**settings["remote"]), Seldom(str(folder / "backup")), Witness()
    callbacks = {
        "backup first": [backup, remote, witness],
        "backup first, killed between": [backup, witness, remote],
        "backup last": [remote, witness, backup],
    }[settings["order"]]
    x, y = data()
    losses = settings["losses"]
    linear().fit(x, y, batch_size=BATCH, epochs=len(losses), verbose=0, callbacks=[Losses(losses), *callbacks])
