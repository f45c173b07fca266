"""A Lightning module of one weight, and the rates that its steps use."""

import importlib
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, TensorDataset

FAMILY = "lightning.pytorch"
RATE, STEPS = 0.1, 5


def loader(batches: int = STEPS) -> Any:
    return DataLoader(TensorDataset(torch.linspace(0, 1, 2 * batches).reshape(-1, 1)), batch_size=2)


def model(
    family: str = FAMILY, *, losses: Iterable[float] = (1.0,), optimizers: Callable[[Any], Any] | None = None
) -> Any:
    """A module that logs `losses` as val_loss, by epoch."""
    pl = importlib.import_module(family)
    values = list(losses)

    class Module(pl.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.linear = torch.nn.Linear(1, 1)

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            loss = self.linear(batch[0]).square().mean()
            self.log("train_loss", loss, on_step=False, on_epoch=True)
            return loss

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("val_loss", values[min(self.current_epoch, len(values) - 1)], batch_size=2)

        def configure_optimizers(self) -> Any:
            if optimizers is not None:
                return optimizers(self)
            return torch.optim.SGD(self.parameters(), lr=RATE)

    return Module()


def trainer(folder: Path | str, callbacks: list[Any], family: str = FAMILY, **changes: Any) -> Any:
    """4 epochs of 5 steps."""
    pl = importlib.import_module(family)
    return pl.Trainer(
        **{
            "default_root_dir": str(folder),
            "max_epochs": 4,
            "accelerator": "cpu",
            "devices": 1,
            "callbacks": callbacks,
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "num_sanity_val_steps": 0,
            **changes,
        }
    )


def recorder(family: str = FAMILY, dies_at: int = 0) -> Any:
    """A callback that keeps the rates of the first group of each step in `used`, and dies after so many."""
    pl = importlib.import_module(family)

    class Recorder(pl.Callback):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            self.used: list[float] = []

        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            trainer.optimizers[0].register_step_post_hook(self._record)

        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
            if dies_at and trainer.global_step == dies_at:
                os.kill(os.getpid(), 9)

        def _record(self, optimizer: Any, *_: Any) -> None:
            self.used.append(float(optimizer.param_groups[0]["lr"]))

    return Recorder()


SETTINGS: dict[str, dict[str, Any]] = {
    "plateau": {"patience": 0, "factor": 0.5},
    "cosine": {"policy": {"schedule": {"type": "cosine", "decay_steps": 20}, "unit": "step"}},
}

# When a checkpoint is saved.
CHECKPOINTS: dict[str, dict[str, Any]] = {
    "epoch": {"every_n_epochs": 1, "save_on_train_epoch_end": True},
    "validation": {"every_n_epochs": 1, "save_on_train_epoch_end": False},
    "batch": {"every_n_train_steps": 3},
}


def main() -> None:
    """Arguments: folder, url, run, policy, kind of checkpoint, and the step to die at; 0 resumes to the end."""
    from lightning.pytorch.callbacks import ModelCheckpoint

    from remotelr.lightning import RemoteLR

    folder, url, run, policy, kind, dies_at = sys.argv[1:]
    rates = recorder(dies_at=int(dies_at))
    saver = ModelCheckpoint(folder, save_last=True, save_top_k=-1, **CHECKPOINTS[kind])
    made = trainer(folder, [saver, RemoteLR(url, run, **SETTINGS[policy]), rates], enable_checkpointing=True)
    resumed = None if int(dies_at) else f"{folder}/last.ckpt"
    made.fit(model(losses=[1.0]), loader(), loader(1), ckpt_path=resumed)
    for used in rates.used:
        print(f"rate {used!r}", flush=True)


if __name__ == "__main__":
    main()
