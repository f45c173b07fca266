"""Starts `support.pytorch.job` in processes of its own and reads what they leave."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

LIMIT_S = 150.0


class Jobs:
    """The ranks of one training job, in `folder`."""

    def __init__(self, folder: Path, ranks: int = 1, **arguments: Any) -> None:
        self.folder = folder
        self.arguments = {"folder": str(folder), **arguments}
        self._ranks = ranks
        self._lives = 0
        self.processes: list[subprocess.Popen[str]] = []
        folder.mkdir(exist_ok=True)

    def start(self, command: tuple[str, ...] = (sys.executable, "-m"), **environment: str) -> "Jobs":
        self._lives += 1
        store = {"store": str(self.folder / f"store-{self._lives}")} if self._ranks > 1 else {}
        call = [*command, "support.pytorch.job", json.dumps({**store, **self.arguments})]
        for rank in range(self._ranks):
            ranks = {"RANK": str(rank), "WORLD_SIZE": str(self._ranks)}
            self.processes.append(self._started(call, {**ranks, **environment}))
        return self

    def start_torchrun(self, *options: str, ranks: int) -> "Jobs":
        options = ("--standalone", f"--nproc-per-node={ranks}", *options, "-m")
        call = [sys.executable, "-m", "torch.distributed.run", *options, "support.pytorch.job"]
        # Without this, torch's own restart often fails: pytorch/pytorch#135712.
        environment = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
        self.processes.append(self._started([*call, json.dumps(self.arguments)], environment))
        return self

    def _started(self, call: list[str], environment: dict[str, str]) -> "subprocess.Popen[str]":
        tests = Path(__file__).parents[2]
        inherited = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tests), os.environ.get("PYTHONPATH", "")])}
        return subprocess.Popen(
            call,
            env={**inherited, "OMP_NUM_THREADS": "1", **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def wait(self) -> list[int]:
        """The exit codes, by rank; `output` has what they printed."""
        self.output = [process.communicate(timeout=LIMIT_S)[0] for process in self.processes]
        codes = [process.returncode for process in self.processes]
        self.processes = []
        return codes

    def wait_for(self, name: str) -> None:
        """Wait until the job has come to the pause `name`."""
        deadline = time.monotonic() + LIMIT_S
        while not (self.folder / f"waiting-{name}").exists():
            assert all(process.poll() is None for process in self.processes), self.wait() and self.output
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def go_on(self, name: str) -> None:
        (self.folder / f"go-{name}").touch()

    def kill(self) -> None:
        for process in self.processes:
            process.kill()
            process.communicate()

    def rates(self, rank: int = 0) -> list[list[float]]:
        """The rates of each step by group, as the last life that made the step used them."""
        lines = (self.folder / f"rates-{rank}.jsonl").read_text().splitlines()
        by_step = {(epoch, step): rates for epoch, step, *rates in map(json.loads, lines)}
        return [by_step[step] for step in sorted(by_step)]
