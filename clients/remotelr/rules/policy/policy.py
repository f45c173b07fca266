"""The policy of a run: a schedule, the unit of its positions, bounds, how ranks are reduced, guard and stop rules."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from math import isfinite, isnan
from typing import Any, Literal

from remotelr.rules.composition.modifiers import check_bounds
from remotelr.rules.policy.aggregate import Aggregate
from remotelr.rules.policy.guard import Guard
from remotelr.rules.policy.stop_rules import Stop
from remotelr.rules.schedules.base import Binding, Point, Schedule, State, bind_schedule
from remotelr.rules.values.fields import MAX_LEARNING_RATE, RateOrZero, check_fields
from remotelr.rules.values.floats import LAST_POSITION, clamp


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """A policy.

    schedule: the tree of nodes. unit: of its positions, epochs or optimizer steps.
    min_lr, max_lr: bounds of every rate; by default 0 and `MAX_LEARNING_RATE` (1,000).
    guard: reacts to a loss that is not finite or explodes. stop: the stop rules.
    aggregate: reduction of the reports of several ranks; None: rank 0 alone decides.
    """

    schedule: Schedule
    unit: Literal["epoch", "step"] = "epoch"
    min_lr: RateOrZero | None = None
    max_lr: RateOrZero | None = None
    aggregate: Aggregate | None = None
    guard: Guard | None = None
    stop: Stop | None = None

    def __post_init__(self) -> None:
        check_fields(self)
        check_bounds(self.min_lr, self.max_lr)

    def bind(self, binding: Binding) -> "Policy":
        """The policy with every open rate taken from the run. Raises InvalidPolicy if the run has none."""
        return replace(self, schedule=bind_schedule(self.schedule, binding))

    def start(self, learning_rate: float) -> State:
        """The schedule's state before the first report of a run that begins at `learning_rate`."""
        return self.schedule.start(learning_rate)

    def observe(self, state: State, point: Point) -> State:
        """The schedule's state after `point`."""
        return self.schedule.observe(state, point)

    def raw_learning_rate(self, state: State, position: float) -> float:
        """The rate of the schedule alone, finite at any position."""
        return _finite(self.schedule.learning_rate(state, _inside(position)))

    def bounded(self, learning_rate: float) -> float:
        """The rate inside the policy's bounds."""
        return clamp(learning_rate, max(self.min_lr or 0.0, 0.0), self._highest)

    def learning_rate(self, state: State, position: float) -> float:
        """The rate at `position`, inside the bounds: finite, never negative."""
        return self.bounded(self.raw_learning_rate(state, position))

    def momentum(self, state: State, position: float) -> float | None:
        """The momentum at `position`, if the schedule has one (one_cycle, cyclic)."""
        return self.schedule.momentum(state, _inside(position))

    def plateau(self, state: State) -> Mapping[str, Any] | None:
        """`best`, `wait` and `cooldown` of the plateau in force, else None."""
        return self.schedule.plateau(state)

    def monitors(self) -> tuple[str, ...]:
        """The metrics that the policy evaluates, each once: of schedule (in tree order), guard and stop rules."""
        names = [getattr(node, "monitor", None) for node in walk(self.schedule)]
        names.append(None if self.guard is None else self.guard.monitor)
        names.extend(() if self.stop is None else self.stop.monitors())
        return tuple(dict.fromkeys(name for name in names if name is not None))

    @property
    def initial_learning_rate(self) -> float | None:
        """The first rate of the policy; None if it takes that of the run."""
        return _named_rate(self.schedule)

    @property
    def _highest(self) -> float:
        return MAX_LEARNING_RATE if self.max_lr is None else self.max_lr


def walk(schedule: Schedule) -> Iterator[Schedule]:
    """The node and every node below it, each before its own."""
    yield schedule
    for field in fields(schedule):  # type: ignore[arg-type]  # every schedule is a dataclass; a protocol cannot say so
        value = getattr(schedule, field.name)
        for part in value if isinstance(value, tuple) else (value,):
            if hasattr(part, "observe"):
                yield from walk(part)


def _named_rate(schedule: Schedule) -> float | None:
    named: float | None = getattr(schedule, "initial_learning_rate", None)
    if named is not None:
        return named
    inner = getattr(schedule, "schedule", None)
    return None if inner is None else _named_rate(inner)


def _inside(position: float) -> float:
    return 0.0 if isnan(position) else min(max(position, 0.0), LAST_POSITION)


def _finite(rate: float) -> float:
    if isfinite(rate):
        return rate
    return MAX_LEARNING_RATE if rate > 0 else 0.0
