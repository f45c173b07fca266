"""The state of a run: what its schedule remembers, and what operators have ordered.

It travels with every decision, so that a trainer can go on alone, and is stored with every event,
so that a run can go back. Its JSON leaves out what is at rest: an untouched run is {"schedule": …}.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from remotelr.rules.policy.guard import NO_GUARD_STATE, GuardState
from remotelr.rules.policy.limits import Limits
from remotelr.rules.policy.policy import Policy
from remotelr.rules.run.clock import RUNNING, Clock
from remotelr.rules.run.command import OverrideKind
from remotelr.rules.run.decision import Reason
from remotelr.rules.schedules.base import State
from remotelr.rules.values.floats import MAX_FACTOR, clamp
from remotelr.rules.values.records import record, replace


@dataclass(frozen=True, slots=True, kw_only=True)
class Override:
    """A command, or its end, that bears on the rate from `epoch` on: one of these, or (none of them) a release.

    learning_rate: a pin. factor: a factor. one_shot: a one-shot rate. base: the rate the schedule goes on from.
    until: the time at which a pin or a one-shot ends, for who has a clock.
    ends: the end of a pin or of a one-shot. clock: the schedule's clock is stopped, or goes on.
    """

    epoch: int
    learning_rate: float | None = None
    factor: float | None = None
    one_shot: float | None = None
    base: float | None = None
    until: str | None = None
    ends: OverrideKind | None = None
    clock: Literal["pause", "resume"] | None = None

    @property
    def releases(self) -> bool:
        values = (self.learning_rate, self.factor, self.one_shot, self.base, self.ends, self.clock)
        return all(value is None for value in values)

    def replaces(self, other: "Override") -> bool:
        """Whether it takes the place of `other`, which is to hold from a later epoch.

        After a rewind an order of the earlier life may still lie ahead; and a new pin ends otherwise than the old one.
        """
        if self.learning_rate is not None or self.base is not None:
            return other.one_shot is None and other.ends != "one_shot" and other.clock is None
        if self.one_shot is not None:
            return other.one_shot is not None or other.ends == "one_shot"
        if self.clock is not None:
            return other.clock is not None
        return self.releases

    def to_json(self) -> dict[str, Any]:
        members = {name: getattr(self, name) for name in Override.__slots__}
        return {name: value for name, value in members.items() if value is not None}


@record
class RunState:
    """Everything the next decision depends on, beside the policy and the report.

    schedule: what the policy's schedule remembers.
    pin: the rate an operator holds, whatever the schedule says; None when nobody does. one_shot: the rate held for
        a while only, above pin and schedule. Each with the time it ends at, where it ends at a time.
    scale: what operators multiply the scheduled rate with.
    clock: of the schedule.
    overrides: commands that hold from an epoch not yet decided, oldest first.
    stop: the run was told to stop by an operator. stopped_by: by what in its policy it was told to.
    limits: what its experiment allows.
    guard, early_stopping: what the policy's guard and its early stopping remember (JSON); None before the first report.
    """

    schedule: State = None
    pin: float | None = None
    pin_until: str | None = None
    one_shot: float | None = None
    one_shot_until: str | None = None
    scale: float = 1.0
    clock: Clock = RUNNING
    overrides: tuple[Override, ...] = ()
    stop: bool = False
    stopped_by: Literal["early_stopping", "target", "guard"] | None = None
    limits: Limits | None = None
    guard: GuardState = NO_GUARD_STATE
    early_stopping: Mapping[str, Any] | None = None

    def with_override(self, order: Override) -> "RunState":
        """The state with one more order, and without those of later epochs whose place it takes."""
        kept = [other for other in self.overrides if other.epoch <= order.epoch or not order.replaces(other)]
        return replace(self, overrides=tuple(sorted((*kept, order), key=lambda each: each.epoch)))

    def clock_at(self, policy: Policy, epoch: int, position: float) -> Clock:
        """The schedule's clock once the orders that hold by `epoch`, which begins at `position`, are carried out."""
        clock = self.clock
        for order in self.overrides:
            if order.epoch <= epoch:
                clock = _clock_after(policy, clock, order, position)
        return clock

    def to_json(self) -> dict[str, Any]:
        document: dict[str, Any] = {"schedule": self.schedule}
        if self.pin is not None:
            document["pin"] = self.pin
        if self.scale != 1.0:
            document["scale"] = self.scale
        if self.overrides:
            document["overrides"] = [order.to_json() for order in self.overrides]
        if self.stop:
            document["stop"] = True
        if self.pin_until is not None:
            document["pin_until"] = self.pin_until
        if self.one_shot is not None:
            document["one_shot"] = self.one_shot
        if self.one_shot_until is not None:
            document["one_shot_until"] = self.one_shot_until
        if self.clock != RUNNING:
            document["clock"] = self.clock.to_json()
        if self.stopped_by is not None:
            document["stopped_by"] = self.stopped_by
        if self.guard is not NO_GUARD_STATE and (guard := self.guard.to_json()):
            document["guard"] = guard
        if self.early_stopping is not None:
            document["early_stopping"] = self.early_stopping
        if self.limits is not None:
            document["limits"] = self.limits.to_json()
        return document

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> "RunState":
        if len(document) == 1:
            return cls(schedule=document["schedule"])
        read: dict[str, Any] = dict(document)
        if "overrides" in read:
            read["overrides"] = tuple(Override(**order) for order in read["overrides"])
        if "clock" in read:
            read["clock"] = Clock.from_json(read["clock"])
        if "guard" in read:
            read["guard"] = GuardState(**read["guard"])
        if "limits" in read:
            read["limits"] = Limits.from_json(read["limits"])
        return cls(**read)


@dataclass(frozen=True, slots=True)
class Rate:
    """A learning rate and what made it: the schedule, a command, the policy's guard, or bounds.

    wanted: before the bounds of the policy and the limits. scheduled: what the schedule alone says.
    """

    learning_rate: float
    reason: Reason
    wanted: float
    scheduled: float


def rate_at(policy: Policy, state: RunState, epoch: int, position: float) -> Rate:
    """The rate of a run at `position` (the policy's unit) inside `epoch`; commands, guard, bounds and limits included.

    policy: bound to its run. This is what the service decides with at the beginning of an epoch and
    what a trainer evaluates for every batch of it.
    """
    state = apply_due_overrides(policy, state, epoch, position)
    scheduled = scheduled_rate(policy, state, position)
    wanted, reason = _requested_rate(state, scheduled)
    learning_rate = policy.bounded(wanted)
    if state.limits is not None:
        learning_rate = state.limits.bounded(learning_rate)
    return Rate(learning_rate, reason if learning_rate == wanted else "bounds", wanted, scheduled)


def scheduled_rate(policy: Policy, state: RunState, position: float) -> float:
    """What the schedule alone says, by its own clock."""
    clock = state.clock
    return policy.raw_learning_rate(state.schedule, position if clock is RUNNING else clock.read(position))


def apply_due_overrides(policy: Policy, state: RunState, epoch: int, position: float) -> RunState:
    """The state with every order that holds by `epoch`, which begins at `position`, carried out."""
    if not state.overrides:
        return state
    due = [order for order in state.overrides if order.epoch <= epoch]
    if not due:
        return state
    state = replace(state, overrides=tuple(order for order in state.overrides if order.epoch > epoch))
    for order in due:
        state = apply_override(policy, state, order, position)
    return state


def apply_override(policy: Policy, state: RunState, order: Override, position: float) -> RunState:
    """The state with one order carried out, at `position` where the policy counts steps.

    A factor multiplies what is in force: the pin where there is one, else the schedule; never a one-shot.
    """
    if order.learning_rate is not None:
        return replace(state, pin=order.learning_rate, pin_until=order.until)
    if order.one_shot is not None:
        return replace(state, one_shot=order.one_shot, one_shot_until=order.until)
    if order.base is not None:
        return _rebased(policy, state, order.base, _effective_position(policy, order, position))
    if order.ends == "pin":
        return replace(state, pin=None, pin_until=None)
    if order.ends == "one_shot":
        return replace(state, one_shot=None, one_shot_until=None)
    if order.clock is not None:
        return replace(state, clock=_clock_after(policy, state.clock, order, position))
    if order.factor is None:
        state = replace(state, one_shot=None, one_shot_until=None, clock=RUNNING)
        return replace(state, pin=None, pin_until=None, scale=1.0)
    if state.pin is not None:
        return replace(state, pin=bounded_product(state.pin, order.factor))
    return replace(state, scale=bounded_product(state.scale, order.factor))


def bounded_product(rate: float, factor: float) -> float:
    """Their product, neither 0 nor infinite however many factors there were: a later one leads back."""
    return clamp(rate * factor, 1 / MAX_FACTOR, MAX_FACTOR)


def _requested_rate(state: RunState, scheduled: float) -> tuple[float, Reason]:
    if state.one_shot is not None:
        return state.one_shot, "command"
    if state.pin is not None:
        return state.pin, "command"
    guard = state.guard
    if guard is not NO_GUARD_STATE:
        if guard.held is not None:
            return guard.held, "guard"
        scheduled *= guard.scale
    if state.scale != 1.0 or state.clock.paused:
        return clamp(scheduled * state.scale, -MAX_FACTOR, MAX_FACTOR), "command"
    return scheduled, "guard" if guard.scale != 1.0 else "schedule"


def _rebased(policy: Policy, state: RunState, learning_rate: float, position: float) -> RunState:
    """The schedule scaled so that it is at `learning_rate` now; where it is at 0 no factor leads there, and it is
    pinned."""
    now = scheduled_rate(policy, state, position) * state.guard.scale
    scale = learning_rate / now if now > 0 else 0.0
    if not 1 / MAX_FACTOR <= scale <= MAX_FACTOR:
        return replace(state, pin=learning_rate, pin_until=None)
    return replace(state, pin=None, pin_until=None, scale=scale)


def _clock_after(policy: Policy, clock: Clock, order: Override, position: float) -> Clock:
    if order.clock is None:
        return RUNNING if order.releases else clock
    at = _effective_position(policy, order, position)
    if order.clock == "resume":
        return clock.resuming(at)
    # The rate in force is the one of the epoch before; of steps, the one that is reached.
    return clock.pausing(at, max(at - 1.0, 0.0) if policy.unit == "epoch" else at)


def _effective_position(policy: Policy, order: Override, position: float) -> float:
    """Where in the run an order takes hold. After a gap an epoch can be named, a step cannot."""
    return float(order.epoch) if policy.unit == "epoch" else position
