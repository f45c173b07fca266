"""Tiny optimizers and training loops that record the rates in use."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.optim import SGD, Optimizer


def sgd(*rates: float, **settings: Any) -> SGD:
    """One weight per group, each group with its rate."""
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": rate} for rate in rates or (0.1,)]
    return SGD(groups, **{"lr": (rates or (0.1,))[0], **settings})


def set_gradients(optimizer: Optimizer) -> None:
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.ones_like(parameter)


def step(optimizer: Optimizer) -> None:
    set_gradients(optimizer)
    optimizer.step()


class UsedRates:
    """The rates of each step of an optimizer, by group, as its weights show them: the gradients are 1."""

    def __init__(self, optimizer: Optimizer) -> None:
        self.by_step: list[list[float]] = []
        self.hook = optimizer.register_step_post_hook(self._record)

    def _record(self, optimizer: Optimizer, *_: Any) -> None:
        self.by_step.append([float(group["lr"]) for group in optimizer.param_groups])

    @property
    def first(self) -> list[float]:
        """The rates of the first group."""
        return [rates[0] for rates in self.by_step]


def train(
    scheduler: Any,
    losses: Iterable[Any],
    *,
    optimizer: Optimizer | None = None,
    steps: int = 1,
    after_step: Callable[[], object] | None = None,
) -> list[list[float]]:
    """Train one epoch for each of `losses`; returns the rates of all steps."""
    optimizer = optimizer or scheduler.optimizer
    used = UsedRates(optimizer)
    for loss in losses:
        for _ in range(steps):
            step(optimizer)
            if after_step is not None:
                after_step()
        scheduler.step(loss)
    used.hook.remove()
    return used.by_step
