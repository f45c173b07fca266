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
        for optimizer in optimizers:
            _check(optimizer)
        self._optimizers = optimizers
        self._initial = [_initial_rate(group) for group in self._groups()]
        default = _as_float(optimizers[0].defaults.get("lr"))
        self.reference = default if default in self._initial and default else max(self._initial)
        self.ratios = [rate / self.reference if self.reference else 1.0 for rate in self._initial]

    @property
    def initial_rates(self) -> list[float]:
        """The rates that the user chose, by group."""
        return list(self._initial)

    def read(self) -> list[float]:
        """The present rates, by group."""
        return [float(group["lr"]) for group in self._groups()]

    def reference_rate(self) -> float:
        """The present rate of the first group whose ratio is 1."""
        rates = dict(zip(reversed(self.ratios), reversed(self.read()), strict=False))
        return rates.get(1.0, max(rates.values()))

    def write(self, rate: float, momentum: float | None, in_force: float) -> None:
        """Set the rate of every group, and the momentum if there is one. in_force: the rate before."""
        groups = list(self._groups())
        for group in groups[len(self.ratios) :]:
            added = _as_float(group["lr"]) or 0.0
            self.ratios.append(added / in_force if in_force else 1.0)
            self._initial.append(self.ratios[-1] * self.reference)
            group.setdefault("initial_lr", self._initial[-1])
        for group, ratio in zip(groups, self.ratios, strict=True):
            # Not rate * 1.0 * scale where neither is set: the decided rate is set bit for bit.
            own = rate if ratio == 1.0 else rate * ratio
            _set(group, own * group["lr_scale"] if "lr_scale" in group else own)
            if momentum is not None:
                _set_momentum(group, momentum)

    def steps_made(self) -> int:
        """Optimizer steps that the state of the first optimizer remembers; 1 for a state without a count."""
        states = self._optimizers[0].state.values()
        counts = [float(state["step"]) for state in states if "step" in state]
        return int(max(counts)) if counts else int(any(value is not None for s in states for value in s.values()))

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
