"""Modifiers of any node: warm-up, offset, bounds, noise."""

from dataclasses import dataclass, replace
from math import cos, log, pi
from typing import ClassVar, Literal, Self

from remotelr.rules.composition.noise import Noise
from remotelr.rules.errors import InvalidPolicy
from remotelr.rules.schedules.base import Binding, Point, Schedule, State, Wrapper, span_of
from remotelr.rules.values.fields import Length, LengthOrZero, Offset, RateOrZero, check_fields, fields_of
from remotelr.rules.values.floats import blend, clamp


@dataclass(frozen=True, slots=True, kw_only=True)
class Warmup:
    """A ramp before the schedule, from `start_learning_rate` up to its `target`.

        p = min((t + offset) / over, 1)
        lr(t) = start + (target - start) * shape(p)      for t < steps

    steps: how long it lasts; 0 is no warm-up.
    shape: linear; cosine (1 - cos(pi p)) / 2; log: log(1 + t + offset) / log(over), DeepSpeed's `WarmupLR`.
    prefix: true: the schedule's own position starts at the end of the warm-up. false (timm's default): the warm-up
        replaces the first part of the curve.
    target: `peak`, the rate the schedule begins at; `schedule`, the one it has where the warm-up ends; or a rate.
    offset, over: shift and stretch the ramp inside `steps`; `over` is `steps` where it is not given.
    """

    steps: LengthOrZero
    start_learning_rate: RateOrZero = 0.0
    shape: Literal["linear", "cosine", "log"] = "linear"
    prefix: bool = True
    target: Literal["peak", "schedule"] | RateOrZero = "peak"
    offset: Offset = 0.0
    over: Length | None = None

    def __post_init__(self) -> None:
        check_fields(self)

    def learning_rate(self, target: float, position: float) -> float:
        """The rate on the ramp to `target`, for a position before `steps`."""
        return blend(self.start_learning_rate, target, self._share(position + self.offset))

    def _share(self, t: float) -> float:
        over = self.steps if self.over is None else self.over
        if t >= over:
            return 1.0
        if self.shape == "cosine":
            return (1 - cos(pi * t / over)) / 2
        if self.shape == "log":
            return min(log(1 + t) / log(over), 1.0) if over > 1 else 1.0
        return t / over


@dataclass(frozen=True, slots=True, kw_only=True)
class WithModifiers(Wrapper):
    """A schedule with a warm-up, an offset, noise or bounds, applied in this order.

    In JSON they are members of the node: `{"type": "cosine", ..., "warmup": {"steps": 5}}`. A field of the node with
    the same name takes precedence: `min_lr` of a plateau.

    warmup: before, or instead of, the first part. A closed-loop node sees no metric of an epoch that began before
        the warm-up's end (timm's and fairseq's rule), and its plateau starts counting there.
    offset: the schedule is evaluated at t + offset; the warm-up is not shifted.
    noise: on the rate that the others give, by the position in the whole, warm-up included; on a closed-loop node
        only after the warm-up (timm, both).
    min_lr, max_lr: bounds on the rate that comes out of all this, warm-up and noise included.

    The state is that of the schedule inside.
    """

    type: ClassVar[str] = "modified"

    schedule: Schedule
    warmup: Warmup | None = None
    offset: Offset | None = None
    min_lr: RateOrZero | None = None
    max_lr: RateOrZero | None = None
    noise: Noise | None = None

    def __post_init__(self) -> None:
        check_fields(self)
        if isinstance(self.schedule, WithModifiers):
            raise InvalidPolicy("is modified already; put all modifiers on it at once", "schedule")
        for name in owned_modifiers(type(self.schedule)):
            if getattr(self, name) is not None:
                raise InvalidPolicy(f"belongs to {self.schedule.type} itself; set it there", name)
        check_bounds(self.min_lr, self.max_lr)

    @property
    def cost(self) -> int:
        """The parts evaluated for the modifiers at one position; see `policy.cost`."""
        return 10 if self.noise is None else self.noise.cost

    def bind(self, binding: Binding) -> Self:
        return replace(self, schedule=self.schedule.bind(binding))

    def observe(self, state: State, point: Point) -> State:
        if self._warming_at(point.position):
            return state
        return Wrapper.observe(self, state, point)

    @property
    def span(self) -> float | None:
        span = span_of(self.schedule)
        # The reverse of `_inner`.
        return None if span is None else max(span - (self.offset or 0.0), 0.0) + self._skipped

    def learning_rate(self, state: State, position: float) -> float:
        if self.warmup is not None and self._warming_at(position):
            rate = self.warmup.learning_rate(self._target(self.warmup, state), position)
        else:
            rate = self.schedule.learning_rate(state, self._inner(position))
        if self.noise is not None and not self._still_at(position):
            rate *= self.noise.factor(position)
        return clamp(rate, self.min_lr, self.max_lr)

    def _warming_at(self, position: float) -> bool:
        return self.warmup is not None and position < self.warmup.steps

    def _still_at(self, position: float) -> bool:
        """Whether noise is off: timm's plateau is noisy only after the first position past its warm-up."""
        return self.warmup is not None and self.is_stateful and position <= self.warmup.steps

    def _inner(self, position: float) -> float:
        """The position the schedule inside sees; its first while a prefixed warm-up lasts."""
        return max(position - self._skipped, 0.0) + (self.offset or 0.0)

    @property
    def _skipped(self) -> float:
        return self.warmup.steps if self.warmup is not None and self.warmup.prefix else 0.0

    def _target(self, warmup: Warmup, state: State) -> float:
        if warmup.target == "schedule":
            return self.schedule.learning_rate(state, self._inner(warmup.steps))
        if warmup.target == "peak":
            return peak_of(self.schedule, state)
        return float(warmup.target)


# The keys of a node that belong to `Modified` and not to the node, in JSON as here.
MODIFIERS = tuple(field.name for field in fields_of(WithModifiers) if field.name != "schedule")


def owned_modifiers(node: type) -> frozenset[str]:
    """The names in MODIFIERS that mean a field of the node itself: `min_lr` of a plateau, `max_lr` of one_cycle."""
    return frozenset(MODIFIERS) & {field.name for field in fields_of(node)}


def peak_of(schedule: Schedule, state: State) -> float:
    """The rate a warm-up leads to: the one the schedule names for its beginning, else the one it has there."""
    named: float | None = getattr(schedule, "initial_learning_rate", None)
    return schedule.learning_rate(state, 0.0) if named is None else named


def check_bounds(min_lr: float | None, max_lr: float | None) -> None:
    """Raises InvalidPolicy when the lower bound is above the upper."""
    if min_lr is not None and max_lr is not None and min_lr > max_lr:
        raise InvalidPolicy(f"must be at most max_lr ({max_lr:g}), is {min_lr:g}", "min_lr")
