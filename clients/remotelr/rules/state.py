"""The state of a run: what its schedule remembers, and what operators have ordered.

It travels with every decision, so that a trainer can go on alone, and is stored with every event,
so that a run can go back. Its JSON leaves out what is at rest: an untouched run is {"schedule": …}.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from remotelr.rules.decision import Reason
from remotelr.rules.policy import Policy
from remotelr.rules.schedule import State


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """A command that bears on the rate from `epoch` on: a pin, a factor, or (neither) a release."""

    epoch: int
    learning_rate: float | None = None
    factor: float | None = None

    def to_json(self) -> dict[str, Any]:
        members = {"epoch": self.epoch, "learning_rate": self.learning_rate, "factor": self.factor}
        return {name: value for name, value in members.items() if value is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class RunState:
    """Everything the next decision depends on, beside the policy and the report.

    schedule: what the policy's schedule remembers.
    pin: the rate an operator holds, whatever the schedule says; None when nobody does.
    scale: what operators multiply the scheduled rate with.
    orders: commands that hold from an epoch not yet decided, oldest first.
    stop: the run was told to stop.
    """

    schedule: State = None
    pin: float | None = None
    scale: float = 1.0
    orders: tuple[Order, ...] = ()
    stop: bool = False

    def at(self, epoch: int) -> "RunState":
        """The state with every order that holds by `epoch` carried out."""
        due = [order for order in self.orders if order.epoch <= epoch]
        if not due:
            return self
        state = replace(self, orders=tuple(order for order in self.orders if order.epoch > epoch))
        for order in due:
            state = state.obeying(order)
        return state

    def obeying(self, order: Order) -> "RunState":
        """A factor multiplies what is in force: the pin where there is one, else the schedule."""
        if order.learning_rate is not None:
            return replace(self, pin=order.learning_rate)
        if order.factor is None:
            return replace(self, pin=None, scale=1.0)
        if self.pin is not None:
            return replace(self, pin=self.pin * order.factor)
        return replace(self, scale=self.scale * order.factor)

    def ordering(self, order: Order) -> "RunState":
        """The state with one more order. A pin or a release cancels what was to hold from a later epoch:
        after a rewind an order of the earlier life may still lie ahead."""
        kept = self.orders
        if order.factor is None:
            kept = tuple(earlier for earlier in kept if earlier.epoch <= order.epoch)
        return replace(self, orders=tuple(sorted((*kept, order), key=lambda each: each.epoch)))

    def to_json(self) -> dict[str, Any]:
        document: dict[str, Any] = {"schedule": self.schedule}
        if self.pin is not None:
            document["pin"] = self.pin
        if self.scale != 1.0:
            document["scale"] = self.scale
        if self.orders:
            document["orders"] = [order.to_json() for order in self.orders]
        if self.stop:
            document["stop"] = True
        return document

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> "RunState":
        return cls(
            schedule=document["schedule"],
            pin=document.get("pin"),
            scale=document.get("scale", 1.0),
            orders=tuple(Order(**order) for order in document.get("orders", ())),
            stop=document.get("stop", False),
        )


@dataclass(frozen=True, slots=True)
class Rate:
    """A learning rate and what made it: the schedule, a command, or the policy's bounds."""

    learning_rate: float
    reason: Reason


def rate_at(policy: Policy, state: RunState, epoch: int, position: float) -> Rate:
    """The rate of a run at `position` (the policy's unit) inside `epoch`, commands and bounds included.

    policy: bound to its run. This is what the service decides with at the beginning of an epoch and
    what a trainer evaluates for every batch of it.
    """
    ordered = state.at(epoch)
    scheduled = policy.raw_learning_rate(ordered.schedule, position)
    wanted = scheduled * ordered.scale if ordered.pin is None else ordered.pin
    learning_rate = policy.bounded(wanted)
    if learning_rate != wanted:
        return Rate(learning_rate, "bounds")
    commanded = ordered.pin is not None or ordered.scale != 1.0
    return Rate(learning_rate, "command" if commanded else "schedule")
