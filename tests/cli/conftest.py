"""The command line, run in this process as a shell would run it: arguments in, exit code and what was printed out."""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from fixtures.service import Service
from remotelr import Client, Run
from remotelr_service.__main__ import main

PLATEAU = {"type": "reduce_on_plateau", "factor": 0.5, "patience": 2, "flavor": "torch"}


@dataclass(frozen=True, slots=True)
class Said:
    """How a command ended, and what it printed."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Terminal = Callable[..., Said]


@pytest.fixture
def terminal(shared_service: Service, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """`terminal("runs", "list")` is what a shell would see of it, with REMOTELR_URL set to a service that is up."""
    monkeypatch.setenv("REMOTELR_URL", shared_service.url)
    # A proxy of this machine has no business between a test and its service.
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.delenv("REMOTELR_TOKEN", raising=False)

    def run(*arguments: str) -> Said:
        monkeypatch.setattr(sys, "argv", ["remotelr", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        code = ended.value.code
        return Said(code if isinstance(code, int) else 0, printed.out, printed.err)

    return run


@pytest.fixture
def trained(shared_service: Service) -> Callable[..., Run]:
    """`trained("key", [0.9, 0.8])` is a run that has measured this, under way, told to train with 0.1 at first."""
    client = Client(shared_service.url, trust_env=False)

    def train(key: str, losses: list[float], policy: dict[str, Any] | None = None, **rest: Any) -> Run:
        run = client.run(key, policy=policy or PLATEAU, initial_learning_rate=0.1, **rest)
        decision = run.begin(0)
        for epoch, loss in enumerate(losses):
            decision = run.report(epoch, {"val_loss": loss}, learning_rate=decision.learning_rate)
        return run

    return train
