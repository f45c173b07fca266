"""What all tests of the terminal share: a service that is up, and runs on it."""

from collections.abc import Callable
from typing import Any

import pytest

from fixtures.service import Service
from remotelr import Client, Run

PLATEAU = {"type": "reduce_on_plateau", "factor": 0.5, "patience": 2, "flavor": "torch"}


@pytest.fixture(autouse=True)
def _at_the_shared_service(shared_service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REMOTELR_URL", shared_service.url)


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
