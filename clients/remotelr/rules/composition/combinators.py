"""Schedules made of schedules: one after the other, or multiplied."""

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Any, ClassVar, Self

from remotelr.rules.errors import InvalidPolicy
from remotelr.rules.schedules.base import Binding, Point, Schedule, State, bound, is_stateful, rate_of_run, span_of
from remotelr.rules.schedules.piecewise import refuse_unsorted
from remotelr.rules.values.fields import Offset, RateOrZero, check_fields
from remotelr.rules.values.floats import MAX_FACTOR


@dataclass(frozen=True, slots=True, kw_only=True)
class Sequential:
    """One schedule after the other: part i is in force from milestones[i - 1] on and counts its position from there.

        lr(t) = lr of part i at t - milestones[i - 1]

    An open-loop part begins at its own rate. A part with a state (a plateau)
    sees only metrics of epochs that began at or after its milestone, and starts from the rate the part before has
    arrived at there: `linear` to 0.1, then `reduce_on_plateau`, is a warm-up to 0.1 and a plateau from 0.1.

    torch `SequentialLR` (which refuses a plateau), optax `join_schedules` and `sgdr_schedule`.

    Its state: the states of the parts begun so far; None if no part has one.
    """

    type: ClassVar[str] = "sequential"

    schedules: tuple[Schedule, ...]
    milestones: tuple[Offset, ...]

    def __post_init__(self) -> None:
        check_fields(self)
        if not self.schedules:
            raise InvalidPolicy("must hold at least one schedule", "schedules")
        if len(self.milestones) != len(self.schedules) - 1:
            raise InvalidPolicy(
                f"must hold one milestone less than there are schedules ({len(self.schedules)}), "
                f"has {len(self.milestones)}",
                "milestones",
            )
        refuse_unsorted(self.milestones, "milestones")

    @property
    def is_stateful(self) -> bool:
        return any(is_stateful(part) for part in self.schedules)

    @property
    def initial_learning_rate(self) -> float | None:
        return getattr(self.schedules[0], "initial_learning_rate", None)

    def bind(self, binding: Binding) -> Self:
        return replace(self, schedules=bind_all(self.schedules, binding))

    def start(self, learning_rate: float) -> State:
        return [self.schedules[0].start(learning_rate)] if self.is_stateful else None

    def observe(self, state: State, point: Point) -> State:
        if state is None:
            return None
        index, position = self._part_at(point.position)
        states = self._begun(state, index)
        observed = self.schedules[index].observe(states[index], replace(point, position=position))
        return [*states[:index], observed, *states[index + 1 :]]

    @property
    def span(self) -> float | None:
        last = span_of(self.schedules[-1])
        return None if last is None else last + max(self.milestones, default=0.0)

    def learning_rate(self, state: State, position: float) -> float:
        index, position = self._part_at(position)
        return self.schedules[index].learning_rate(self._state_of(state, index), position)

    def momentum(self, state: State, position: float) -> float | None:
        index, position = self._part_at(position)
        return self.schedules[index].momentum(self._state_of(state, index), position)

    def plateau(self, state: State) -> Mapping[str, Any] | None:
        return self.schedules[len(state) - 1].plateau(state[-1]) if state else None

    def _part_at(self, position: float) -> tuple[int, float]:
        index = bisect_right(self.milestones, position)
        return index, position - (self.milestones[index - 1] if index else 0.0)

    def _state_of(self, state: State, index: int) -> State:
        return None if state is None else self._begun(state, index)[index]

    def _begun(self, states: list[State], index: int) -> list[State]:
        """The states with all parts up to `index` begun, each from where the one before has arrived."""
        states = list(states)
        for later in range(len(states), index + 1):
            before = self.milestones[later - 2] if later > 1 else 0.0
            arrived = self.schedules[later - 1].learning_rate(states[-1], self.milestones[later - 1] - before)
            states.append(self.schedules[later].start(arrived))
        return states


@dataclass(frozen=True, slots=True, kw_only=True)
class Chained:
    """The product of several schedules, all at the same position.

        lr(t) = initial * (product of the parts' rates at t)

    The parts are factors: where one names no initial rate it begins at 1, and a plateau among them starts from 1 and
    so multiplies the others. torch `ChainedScheduler`, for its multiplicative members (with an absolute end inside,
    torch's chain depends on the path it took and has no closed form).

    Its state: the states of the parts; None if no part has one.
    """

    type: ClassVar[str] = "chained"

    initial_learning_rate: RateOrZero | None = None
    schedules: tuple[Schedule, ...]

    def __post_init__(self) -> None:
        check_fields(self)
        if not self.schedules:
            raise InvalidPolicy("must hold at least one schedule", "schedules")

    @property
    def is_stateful(self) -> bool:
        return any(is_stateful(part) for part in self.schedules)

    def bind(self, binding: Binding) -> Self:
        initial = rate_of_run(binding) if self.initial_learning_rate is None else self.initial_learning_rate
        factors = bind_all(self.schedules, replace(binding, initial_learning_rate=1.0))
        return replace(self, initial_learning_rate=initial, schedules=factors)

    def start(self, learning_rate: float) -> State:
        return [part.start(1.0) for part in self.schedules] if self.is_stateful else None

    def observe(self, state: State, point: Point) -> State:
        if state is None:
            return None
        return [part.observe(own, point) for part, own in self._parts(state)]

    @property
    def span(self) -> float | None:
        spans = [span_of(part) for part in self.schedules]
        known = [span for span in spans if span is not None]
        return max(known) if len(known) == len(spans) else None

    def learning_rate(self, state: State, position: float) -> float:
        factor = prod(part.learning_rate(own, position) for part, own in self._parts(state))
        return min(bound(self.initial_learning_rate) * factor, MAX_FACTOR)

    def momentum(self, state: State, position: float) -> float | None:
        momenta = (part.momentum(own, position) for part, own in self._parts(state))
        return next((momentum for momentum in momenta if momentum is not None), None)

    def plateau(self, state: State) -> Mapping[str, Any] | None:
        plateaus = (part.plateau(own) for part, own in self._parts(state))
        return next((plateau for plateau in plateaus if plateau is not None), None)

    def _parts(self, state: State) -> list[tuple[Schedule, State]]:
        states = [None] * len(self.schedules) if state is None else state
        return list(zip(self.schedules, states, strict=True))


def bind_all(schedules: tuple[Schedule, ...], binding: Binding) -> tuple[Schedule, ...]:
    """Every part bound. Raises InvalidPolicy with the part's index in its path."""
    bound_parts = []
    for index, part in enumerate(schedules):
        try:
            bound_parts.append(part.bind(binding))
        except InvalidPolicy as error:
            raise error.under(f"schedules[{index}]") from None
    return tuple(bound_parts)
