"""Accelerate: it prepares the scheduler, and skips optimizer steps while gradients accumulate."""

from collections.abc import Iterator

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed: `make adapters` runs these tests")
accelerate = pytest.importorskip("accelerate", reason="Accelerate is not installed: `make adapters` runs these tests")

from accelerate.state import AcceleratorState, GradientState, PartialState  # noqa: E402

from remotelr.testing import InMemoryService  # noqa: E402
from remotelr.torch import RemoteLR  # noqa: E402

COSINE = {"schedule": {"type": "cosine", "decay_steps": 12}, "unit": "step"}


@pytest.fixture(autouse=True)
def _reset() -> Iterator[None]:
    """Accelerate keeps its configuration in the process."""
    yield
    _end()


class Loop:
    """A training with Accelerate, which accumulates the gradients of two batches. late: the scheduler is made last."""

    def __init__(self, service: InMemoryService, *, late: bool = False) -> None:
        self.accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=2)
        self.model = torch.nn.Linear(1, 1)
        optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1, momentum=0.5)
        self.model, self.optimizer = self.accelerator.prepare(self.model, optimizer)
        self.scheduler = RemoteLR(
            self.optimizer if late else optimizer,
            service.url,
            "run",
            COSINE,
            steps_per_epoch=2,
            transport=service,
            verbose=False,
        )
        self.prepared = self.accelerator.prepare(self.scheduler)
        self.rates: list[float] = []

    def train(self, epochs: int) -> list[float]:
        for _ in range(epochs):
            for _ in range(4):
                with self.accelerator.accumulate(self.model):
                    self.accelerator.backward(self.model(torch.ones(1, 1)).sum())
                    self.optimizer.step()
                    self.prepared.step()
                    self.optimizer.zero_grad()
                    self.rates.append(self.optimizer.param_groups[0]["lr"])
            self.prepared.step(1.0)
        return self.rates[1::2]


@pytest.mark.parametrize("late", [False, True], ids=["made-before-prepare", "made-for-a-prepared-optimizer"])
def test_a_prepared_scheduler_counts_the_real_steps(late):
    service = InMemoryService()
    loop = Loop(service, late=late)

    rates = loop.train(3)

    assert loop.prepared is loop.scheduler
    assert 6 == loop.scheduler.state_dict()["steps"]
    assert rates == sorted(rates, reverse=True) and 6 == len(set(rates))


def test_save_state_and_load_state_keep_the_scheduler(tmp_path):
    service = InMemoryService()
    loop = Loop(InMemoryService())
    whole = loop.train(4)
    loop.scheduler._training.abandon()
    _end()
    first = Loop(service)
    first.train(2)
    first.accelerator.save_state(str(tmp_path / "saved"))
    first.scheduler._training.abandon()
    _end()

    second = Loop(service)
    second.accelerator.load_state(str(tmp_path / "saved"))

    assert 2 == second.scheduler.last_epoch
    assert whole[4:] == second.train(2)


def _end() -> None:
    for state in (AcceleratorState, GradientState, PartialState):
        state._reset_state()
