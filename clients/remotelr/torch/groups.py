"""The rates of the parameter groups of one or several optimizers, in the ratios that the user chose."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.optim import Optimizer


class ParameterGroups:
    """All groups of the optimizers. A group has the run's rate times its ratio.

    The ratio is the group's initial rate to the reference: the optimizer's default rate if a group has it, else the
    largest. A group's `lr_scale` (timm) multiplies on top. A group that is added later has the ratio of its rate to
    the rate in force.

    reference: the run's initial rate.

    Raises TypeError for an optimizer whose rate cannot be set.
    """

    def __init__(self, optimizers: Sequence[Optimizer]) -> None:
        if not optimizers:
            raise TypeError("optimizer must be a torch.optim.Optimizer or several, got an empty sequence")
        for optimizer in optimizers:
            _check(optimizer)
        self._optimizers = optimizers
        # By optimizer: a group that is added to one of them does not move those of the next.
        self._bases = [[_initial_rate(group) for group in optimizer.param_groups] for optimizer in optimizers]
        default = _as_float(optimizers[0].defaults.get("lr"))
        self.reference = default if default in self.base_rates and default else max(self.base_rates)
        self._written: list[float] = []

    @property
    def base_rates(self) -> list[float]:
        """The rate of each group while the run's rate is the reference."""
        return [base for bases in self._bases for base in bases]

    @property
    def ratios(self) -> list[float]:
        """The ratio of each group's rate to the run's."""
        return [self._ratio(base) for base in self.base_rates]

    def restore(self, base_rates: Sequence[float], reference: float) -> None:
        """Take over the ratios of a checkpoint, if it has as many groups."""
        if len(base_rates) == len(self.base_rates):
            remaining = iter(base_rates)
            self._bases = [[float(next(remaining)) for _ in bases] for bases in self._bases]
            self.reference = reference

    def read(self) -> list[float]:
        """The present rates, by group."""
        return [float(group["lr"]) for group in self._groups()]

    def take_added(self, in_force: float) -> None:
        """Take over the groups that were added meanwhile. in_force: the run's present rate."""
        for optimizer, bases in zip(self._optimizers, self._bases, strict=True):
            for group in optimizer.param_groups[len(bases) :]:
                # Its rate of now is in proportion to the rate of now, unless it comes from a checkpoint.
                added = _as_float(group["lr"]) or 0.0
                group.setdefault("initial_lr", added / in_force * self.reference if in_force else added)
                bases.append(_initial_rate(group))
                self.forget_written()

    def write(self, rate: float, momentum: float | None) -> list[float]:
        """Set the rate of every group, and the momentum if there is one; returns the rates."""
        self._written = []
        for group, base in zip(self._groups(), self.base_rates, strict=True):
            ratio = self._ratio(base)
            # Not rate * 1.0 * scale where neither is set: the decided rate is set bit for bit.
            own = rate if ratio == 1.0 else rate * ratio
            self._written.append(own * group["lr_scale"] if "lr_scale" in group else own)
            _set(group, self._written[-1])
            if momentum is not None:
                _set_momentum(group, momentum)
        return self._written

    def forget_written(self) -> None:
        """Expect other rates than the written ones: a checkpoint of the optimizer was loaded."""
        self._written = []

    def overwritten(self) -> float | None:
        """A rate that another scheduler has set since `write`; None if there is none."""
        for group, written in zip(self._groups(), self._written, strict=False):
            # A tensor may be on a device, and reading it would wait for the device at each step.
            if not isinstance(group["lr"], torch.Tensor) and group["lr"] != written:
                return float(group["lr"])
        return None

    def is_initialisation(self) -> bool:
        """This step has rates of 0 and gradients of 0: torch.distributed.checkpoint makes the optimizer's state so."""
        if any(self.read()):
            return False
        gradients = [each.grad for group in self._groups() for each in group["params"] if each.grad is not None]
        return not any(bool(gradient.any()) for gradient in gradients)

    def steps_made(self) -> int:
        """Optimizer steps that the state of the first optimizer remembers; 1 for a state without a count."""
        states = self._optimizers[0].state.values()
        counts = [float(state["step"]) for state in states if "step" in state]
        return int(max(counts)) if counts else int(any(value is not None for s in states for value in s.values()))

    def _ratio(self, base: float) -> float:
        return base / self.reference if self.reference else 1.0

    def _groups(self) -> Iterator[dict[str, Any]]:
        for optimizer in self._optimizers:
            yield from optimizer.param_groups


def _check(optimizer: Optimizer) -> None:
    name = type(optimizer).__name__
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"optimizer must be a torch.optim.Optimizer, got {optimizer!r:.100}")
    if name == "LayerWiseDummyOptimizer":
        raise TypeError(f"{name} has no rate of its own: layer-wise optimizers cannot be driven by a scheduler")
    if hasattr(optimizer, "train_mode") or "ScheduleFree" in name:
        raise TypeError(f"{name} is schedule-free: it needs a constant rate. Use it without RemoteLR")
    if any(_as_float(group.get("lr")) is None for group in optimizer.param_groups):
        raise TypeError(f"{name} has no learning rate (lr=None): give it one, for example lr=1e-3")


def _initial_rate(group: dict[str, Any]) -> float:
    """The rate that the user chose: an optimizer that was loaded has another rate now, and remembers this one."""
    rate = _as_float(group.get("initial_lr", group["lr"]))
    assert rate is not None
    group.setdefault("initial_lr", rate)
    return rate


def _as_float(value: Any) -> float | None:
    return None if value is None else float(value)


def _set(group: dict[str, Any], rate: float) -> None:
    # A compiled step has captured the tensor itself.
    if isinstance(group["lr"], torch.Tensor):
        group["lr"].fill_(rate)
    else:
        group["lr"] = rate


def _set_momentum(group: dict[str, Any], momentum: float) -> None:
    if "momentum" in group:
        group["momentum"] = momentum
    elif "betas" in group:
        group["betas"] = (momentum, *group["betas"][1:])
