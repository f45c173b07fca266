"""A training job as a process, with checkpoints; it appends the rate of each step to a file.

python -m support.pytorch.job '{"url": …, "run": …, "folder": …, "policy": …}', with RANK and WORLD_SIZE for ranks.
"""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch

from remotelr.torch import RemoteLR, TorchRanks
from support.pytorch.loops import sgd, train

STEPS = 5
PLATEAU = {"type": "reduce_on_plateau", "flavor": "torch", "factor": 0.5, "patience": 0}
COSINE = {"schedule": {"type": "cosine", "decay_steps": 30}, "unit": "step"}


class Job:
    """url, run, policy, epochs: of the training. folder: of the checkpoint and the rates.

    wrapper: of the model: `ddp`, `fsdp` (without checkpoints) or `accelerate`.
    kill_at: [epoch, step] before which this process kills itself, in its first life. wait_at: an epoch before which it
    writes the file `waiting` and waits for the file `go`. save_every: steps between two checkpoints.
    """

    def __init__(self, *, url: str | None, run: str, folder: str, policy: Any, **settings: Any) -> None:
        self.rank, self.count = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
        self.folder = Path(folder)
        self.settings = settings
        self.wrapper = settings.get("wrapper", "ddp")
        self.epochs = settings.get("epochs", 6)
        self.model = torch.nn.Linear(1, 1)
        self.wrapped: Any = self.model
        accelerator: Any = None
        if self.wrapper == "accelerate":
            from accelerate import Accelerator

            accelerator = Accelerator(cpu=True)
        if self.count > 1 and accelerator is None:
            self._join(settings.get("store"))
        self.optimizer = torch.optim.SGD(
            [{"params": [self.model.weight], "lr": 0.1}, {"params": [self.model.bias], "lr": 0.01}],
            lr=0.1,
            momentum=0.5,
        )
        self.scheduler = RemoteLR(
            self.optimizer,
            url,
            run,
            policy,
            steps_per_epoch=STEPS,
            total_epochs=self.epochs,
            spool_dir=self.folder / "spools",
            timeout_s=settings.get("timeout_s", 20.0),
            reduce=settings.get("reduce", "rank0"),
            ranks=TorchRanks(arrival_timeout_s=3.0) if self.count > 1 else None,
        )
        self.optimizer.register_step_post_hook(self._record)
        self.prepared: Any = self.optimizer
        if accelerator is not None:
            scheduler = self.scheduler
            self.wrapped, self.prepared, self.scheduler = accelerator.prepare(self.model, self.optimizer, scheduler)
            assert self.scheduler is scheduler
        self.epoch = self.step = 0
        self.resumed = (self.folder / "checkpoint.pt").exists()
        if self.resumed:
            self._load()

    def _join(self, store: str | None) -> None:
        by_file = {"init_method": f"file://{store}", "rank": self.rank, "world_size": self.count}
        torch.distributed.init_process_group("gloo", **(by_file if store else {}))
        if self.wrapper == "fsdp":
            from torch.distributed.fsdp import fully_shard

            mesh = torch.distributed.device_mesh.init_device_mesh("cpu", (self.count,))
            self.wrapped = fully_shard(self.model, mesh=mesh)
        else:
            self.wrapped = torch.nn.parallel.DistributedDataParallel(self.model)

    def train(self) -> None:
        first = self.step
        for epoch in range(self.scheduler.last_epoch, self.epochs):
            self.epoch = epoch
            self._wait()
            for step in range(first, STEPS):
                self.step = step
                if self.settings.get("save_every") and self.step % self.settings["save_every"] == 0:
                    self._save()
                self._kill()
                self.optimizer.zero_grad()
                self.wrapped(torch.ones(1, 1)).sum().backward()
                self.prepared.step()
            first = 0
            if self.settings.get("alone_at") != self.epoch or self.rank == 0:
                self.scheduler.step(self._metric())
            self.step = 0
            self._save()

    def _metric(self) -> Any:
        """Each rank has a validation loss of its own, and each weighs its number of samples."""
        loss = 1.0 + 0.1 * (self.epoch % 2) + self.rank
        return (loss, 1.0 + 2.0 * self.rank) if self.settings.get("reduce") == "mean" else loss

    def _record(self, optimizer: Any, *_: Any) -> None:
        rates = [group["lr"] for group in optimizer.param_groups]
        with (self.folder / f"rates-{self.rank}.jsonl").open("a") as file:
            file.write(json.dumps([self.epoch, self.step, *rates]) + "\n")

    def _save(self) -> None:
        if self.rank != 0 or self.wrapper == "fsdp":
            return
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "step": self.step,
        }
        torch.save(state, self.folder / "new.pt")
        (self.folder / "new.pt").replace(self.folder / "checkpoint.pt")

    def _load(self) -> None:
        state = torch.load(self.folder / "checkpoint.pt", weights_only=True)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        self.step = state["step"]

    def _kill(self) -> None:
        if not self.resumed and self.settings.get("kill_at") == [self.epoch, self.step, self.rank]:
            os.kill(os.getpid(), signal.SIGKILL)

    def _wait(self) -> None:
        for name in self.settings.get("wait_at", {}).get(str(self.epoch), []):
            if self.rank == 0:
                (self.folder / f"waiting-{name}").touch()
            while not (self.folder / f"go-{name}").exists():
                signal.sigtimedwait([], 0.02)


def undisturbed(policy: Any) -> list[list[float]]:
    """The rates of the training of one process, by the rules alone."""
    remote = RemoteLR(sgd(0.1, 0.01), policy=policy, steps_per_epoch=STEPS, verbose=False)
    rates = train(remote, [1.0 + 0.1 * (epoch % 2) for epoch in range(6)], steps=STEPS)
    assert len({rate for rate, _ in rates}) > 2
    return rates


if __name__ == "__main__":
    Job(**json.loads(sys.argv[1])).train()
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
