"""The state of a run: that of its schedule, its guard and its stop rules, and the overrides.

Every decision and every event contains it, for local replicas and for rewinds. Its JSON omits defaults: that of a
run without commands is {"schedule": …}.
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
    """The part of a command that takes effect at `epoch`: one of the following members, or none for a release.

    learning_rate: a pin. factor: a factor. one_shot: a one-shot rate. base: the rate from which the schedule goes on.
    ends: the end of a pin or a one-shot. clock: stops or starts the schedule's clock.
    until: time at which the pin or the one-shot ends.
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
        """Whether it replaces `other`, which is due at a later epoch.

        After a rewind, overrides of the earlier attempt may be due later; the end of an old pin may be too.
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
    """The inputs of the next decision beside the policy and the report.

    schedule: the state of the policy's schedule.
    pin: the pinned rate, or None. one_shot: the one-shot rate, which precedes it. pin_until, one_shot_until: times at
        which they end.
    scale: the product of the operators' factors.
    clock: of the schedule.
    overrides: those due at an undecided epoch, oldest first.
    stop: an operator stopped the run. stopped_by: the part of the policy that did.
    limits: of the experiment.
    guard, early_stopping: states of the policy's guard and of its early stopping (JSON; None before the first report).
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

    @property
    def is_overridden(self) -> bool:
        """Whether an override is in force."""
        rates = self.pin is not None or self.one_shot is not None or self.scale != 1.0
        return rates or self.clock != RUNNING

    def with_override(self, override: Override) -> "RunState":
        """The state with the override, and without the later ones that it replaces."""
        kept = [other for other in self.overrides if other.epoch <= override.epoch or not override.replaces(other)]
        return replace(self, overrides=tuple(sorted((*kept, override), key=lambda each: each.epoch)))

    def clock_at(self, policy: Policy, epoch: int, position: float) -> Clock:
        """The schedule's clock with the overrides due at `epoch`, which begins at `position`."""
        clock = self.clock
        for override in self.overrides:
            if override.epoch <= epoch:
                clock = _clock_after(policy, clock, override, position)
        return clock

    def to_json(self) -> dict[str, Any]:
        document: dict[str, Any] = {"schedule": self.schedule}
        if self.pin is not None:
            document["pin"] = self.pin
        if self.scale != 1.0:
            document["scale"] = self.scale
        if self.overrides:
            document["overrides"] = [override.to_json() for override in self.overrides]
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
            read["overrides"] = tuple(Override(**override) for override in read["overrides"])
        if "clock" in read:
            read["clock"] = Clock.from_json(read["clock"])
        if "guard" in read:
            read["guard"] = GuardState(**read["guard"])
        if "limits" in read:
            read["limits"] = Limits.from_json(read["limits"])
        return cls(**read)


@dataclass(frozen=True, slots=True)
class Rate:
    """A learning rate with its cause.

    wanted: the rate before bounds and limits. scheduled: the rate of the schedule alone.
    """

    learning_rate: float
    reason: Reason
    wanted: float
    scheduled: float


def rate_at(policy: Policy, state: RunState, epoch: int, position: float) -> Rate:
    """The rate of a run at `position` (the policy's unit) in `epoch`, with overrides, guard, bounds and limits.

    policy: bound to its run. Decisions evaluate it at the beginning of an epoch, clients at every step.
    """
    state = apply_due_overrides(policy, state, epoch, position)
    scheduled = scheduled_rate(policy, state, position)
    wanted, reason = _requested_rate(state, scheduled)
    learning_rate = policy.bounded(wanted)
    if state.limits is not None:
        learning_rate = state.limits.bounded(learning_rate)
    return Rate(learning_rate, reason if learning_rate == wanted else "bounds", wanted, scheduled)


def rate_without_overrides(policy: Policy, state: RunState, epoch: int, position: float) -> float:
    """The rate that a release at `epoch` would restore: of schedule and guard, inside bounds and limits."""
    released = apply_override(policy, replace(state, overrides=()), Override(epoch=epoch), position)
    return rate_at(policy, released, epoch, position).learning_rate


def scheduled_rate(policy: Policy, state: RunState, position: float) -> float:
    """The rate of the schedule alone, by its own clock."""
    clock = state.clock
    return policy.raw_learning_rate(state.schedule, position if clock is RUNNING else clock.read(position))


def apply_due_overrides(policy: Policy, state: RunState, epoch: int, position: float) -> RunState:
    """The state with the overrides due at `epoch`, which begins at `position`, applied."""
    if not state.overrides:
        return state
    due = [override for override in state.overrides if override.epoch <= epoch]
    if not due:
        return state
    state = replace(state, overrides=tuple(override for override in state.overrides if override.epoch > epoch))
    for override in due:
        state = apply_override(policy, state, override, position)
    return state


def apply_override(policy: Policy, state: RunState, override: Override, position: float) -> RunState:
    """The state with one override applied; `position` counts if the policy's unit is the step.

    A factor multiplies the pin, or without a pin the schedule; never a one-shot.
    """
    if override.learning_rate is not None:
        return replace(state, pin=override.learning_rate, pin_until=override.until)
    if override.one_shot is not None:
        return replace(state, one_shot=override.one_shot, one_shot_until=override.until)
    if override.base is not None:
        return _rebased(policy, state, override.base, _effective_position(policy, override, position))
    if override.ends == "pin":
        return replace(state, pin=None, pin_until=None)
    if override.ends == "one_shot":
        return replace(state, one_shot=None, one_shot_until=None)
    if override.clock is not None:
        return replace(state, clock=_clock_after(policy, state.clock, override, position))
    if override.factor is None:
        state = replace(state, one_shot=None, one_shot_until=None, clock=RUNNING)
        return replace(state, pin=None, pin_until=None, scale=1.0)
    if state.pin is not None:
        return replace(state, pin=bounded_product(state.pin, override.factor))
    return replace(state, scale=bounded_product(state.scale, override.factor))


def bounded_product(rate: float, factor: float) -> float:
    """The product, kept away from 0 and infinity so that later factors can reverse it."""
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
    """The state scaled so that the rate is `learning_rate` now, or pinned if the schedule is at 0."""
    now = scheduled_rate(policy, state, position) * state.guard.scale
    scale = learning_rate / now if now > 0 else 0.0
    if not 1 / MAX_FACTOR <= scale <= MAX_FACTOR:
        return replace(state, pin=learning_rate, pin_until=None)
    return replace(state, pin=None, pin_until=None, scale=scale)


def _clock_after(policy: Policy, clock: Clock, override: Override, position: float) -> Clock:
    if override.clock is None:
        return RUNNING if override.releases else clock
    at = _effective_position(policy, override, position)
    if override.clock == "resume":
        return clock.resuming(at)
    # A pause holds the rate of the previous epoch, or that of the current step.
    return clock.pausing(at, max(at - 1.0, 0.0) if policy.unit == "epoch" else at)


def _effective_position(policy: Policy, override: Override, position: float) -> float:
    """The position at which an override applies. After a gap only epochs are known, not steps."""
    return float(override.epoch) if policy.unit == "epoch" else position
