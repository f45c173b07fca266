"""A Trainer with a model of one weight, and the rates that its steps use and log."""

import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainerCallback, TrainingArguments

RATE = 0.1
# 20 batches of 2: an epoch has 20 steps.
ROWS, BATCH = 40, 2


class Model(torch.nn.Module):
    """One weight and a bias; the loss is the distance to the labels."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = torch.nn.Linear(1, 1)

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        out = self.linear(x)
        return {"loss": torch.nn.functional.mse_loss(out, labels), "logits": out}


class Rates(TrainerCallback):  # type: ignore[misc]
    """The rates of the first group, as each step uses them, and as the Trainer logs them."""

    def __init__(self) -> None:
        self.used: list[float] = []
        self.logged: list[float] = []

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.used.append(float(kwargs["optimizer"].param_groups[0]["lr"]))

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.logged = [each["learning_rate"] for each in state.log_history if "learning_rate" in each]


class Evaluations(TrainerCallback):  # type: ignore[misc]
    """Replaces the loss of each evaluation, before RemoteLR gets it."""

    def __init__(self, losses: Iterable[float]) -> None:
        self.losses = list(losses)

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # By position and not by call: a resumed training is given the same values.
        kwargs["metrics"]["eval_loss"] = self.losses[min(state.global_step // 5, len(self.losses)) - 1]


class Killer(TrainerCallback):  # type: ignore[misc]
    """SIGKILL after a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            os.kill(os.getpid(), 9)


def data(rows: int = ROWS) -> list[dict[str, list[float]]]:
    return [{"x": [i / rows], "labels": [2 * i / rows]} for i in range(rows)]


def arguments(folder: Path | str, **changes: Any) -> TrainingArguments:
    """Evaluate and report every 5 steps of 20, and log every one."""
    return TrainingArguments(
        **{
            "output_dir": str(folder),
            "per_device_train_batch_size": BATCH,
            "learning_rate": RATE,
            "num_train_epochs": 1,
            "eval_strategy": "steps",
            "eval_steps": 5,
            "logging_steps": 1,
            "save_strategy": "no",
            "report_to": [],
            "use_cpu": True,
            "disable_tqdm": True,
            "seed": 0,
            **changes,
        }
    )


def trainer(args: TrainingArguments, callbacks: list[Any], **changes: Any) -> Trainer:
    return Trainer(
        **{
            "model": Model(),
            "args": args,
            "train_dataset": data(),
            "eval_dataset": data(4),
            "callbacks": callbacks,
            **changes,
        }
    )


def train(folder: Path | str, remote: Any, *more: Any, losses: Iterable[float] = (1.0,), **changes: Any) -> Rates:
    """Train 20 steps; returns the rates."""
    rates = Rates()
    trainer(arguments(folder, **changes), [Evaluations(losses), remote, *more, rates]).train()
    return rates


def main() -> None:
    """Arguments: folder, url, run, policy, steps between checkpoints, and the step to die at; 0 resumes to the end."""
    from remotelr.transformers import RemoteLR

    folder, url, run, policy, save_steps, dies_at = sys.argv[1:]
    remote = RemoteLR(url, run, **SETTINGS[policy])
    rates = Rates()
    made = trainer(
        arguments(folder, save_strategy="steps", save_steps=int(save_steps)),
        [Evaluations([1.0] * 4), remote, Killer(int(dies_at) or -1), rates],
    )
    made.train(resume_from_checkpoint=int(dies_at) == 0)
    for used in rates.used:
        print(f"rate {used!r}", flush=True)


SETTINGS: dict[str, dict[str, Any]] = {
    "plateau": {"patience": 0, "factor": 0.5},
    "cosine": {"policy": {"schedule": {"type": "cosine", "decay_steps": 20}, "unit": "step"}},
}

if __name__ == "__main__":
    main()
