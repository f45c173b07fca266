"""The interface of schedules, open-loop and closed-loop.

`start` gives the first state, `observe` the state after a report, `learning_rate` the rate at a position. All are
pure and total, so that nodes compose and a log can be replayed.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol, Self

from remotelr.rules.errors import InvalidPolicy
from remotelr.rules.values.fields import Rate, check_fields

# The state of a schedule: None, finite numbers, strings, booleans, lists and string-keyed dicts of
# them. Never NaN or infinity (no database and no JSON carries those), never tuples (JSON has none).
State = Any


@dataclass(frozen=True, slots=True)
class Point:
    """One epoch that has ended.

    position: where that epoch began, in the policy's unit (epochs or optimizer steps, 0-based).
    metrics: name to value; a value may be NaN or infinite; a name that is absent was not measured.
    """

    position: float
    metrics: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Binding:
    """The values of a run that fill open fields of its policy.

    initial_learning_rate: the trainer's rate, > 0; None if unknown.
    total: length of the run in the policy's unit; None if unknown.
    epoch_length: positions of one epoch: 1 for epochs, the run's steps_per_epoch for steps; None if unknown.
    """

    initial_learning_rate: float | None = None
    total: int | None = None
    epoch_length: int | None = None


class Schedule(Protocol):
    """A node of a policy. Implementations are frozen dataclasses; the codec reads their fields."""

    type: ClassVar[str]

    def bind(self, binding: Binding) -> Self:
        """The node with every open rate filled in. Raises InvalidPolicy if the run has none."""

    def start(self, learning_rate: float) -> State:
        """The state before the first report.

        learning_rate: the rate handed over: the run's initial one, or the end of the previous part.
        """

    def observe(self, state: State, point: Point) -> State:
        """The state after `point`; open-loop nodes return `state`."""

    def learning_rate(self, state: State, position: float) -> float:
        """The rate at `position` (0-based, may be fractional, in the policy's unit)."""

    def momentum(self, state: State, position: float) -> float | None:
        """The momentum at `position` (one_cycle, cyclic), else None."""

    def plateau(self, state: State) -> Mapping[str, Any] | None:
        """`best`, `wait` and `cooldown` of the plateau now in force in this tree, else None."""


def bind_schedule(schedule: Schedule, binding: Binding) -> Schedule:
    """The bound `schedule` of a node. Raises InvalidPolicy with `schedule` in its path."""
    try:
        return schedule.bind(binding)
    except InvalidPolicy as error:
        raise error.under("schedule") from None


class OpenLoop:
    """A schedule without metrics. Its state is None."""

    __slots__ = ()

    is_stateful = False

    def __post_init__(self) -> None:
        check_fields(self)
        # Rules between several fields are in the node.
        check_consistency = getattr(self, "_check_consistency", None)
        if check_consistency is not None:
            check_consistency()

    def start(self, learning_rate: float) -> State:
        return None

    def observe(self, state: State, point: Point) -> State:
        return state

    def plateau(self, state: State) -> Mapping[str, Any] | None:
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class FromInitialRate(OpenLoop):
    """An open-loop node that begins at its own rate or, by default, at that of the run."""

    initial_learning_rate: Rate | None = None

    def bind(self, binding: Binding) -> Self:
        if self.initial_learning_rate is not None:
            return self
        return replace(self, initial_learning_rate=rate_of_run(binding))

    def momentum(self, state: State, position: float) -> float | None:
        return None

    @property
    def _initial(self) -> float:
        return bound(self.initial_learning_rate)


class FromOwnRates(OpenLoop):
    """An open-loop node that has all its rates."""

    __slots__ = ()

    def bind(self, binding: Binding) -> Self:
        return self

    def momentum(self, state: State, position: float) -> float | None:
        return None


class Wrapper(ABC):
    """A node around one schedule: its state is that of the schedule, at the position `_inner`."""

    __slots__ = ()

    schedule: Schedule

    @property
    def is_stateful(self) -> bool:
        return is_stateful(self.schedule)

    @property
    def initial_learning_rate(self) -> float | None:
        return getattr(self.schedule, "initial_learning_rate", None)

    def start(self, learning_rate: float) -> State:
        return self.schedule.start(learning_rate)

    def observe(self, state: State, point: Point) -> State:
        return self.schedule.observe(state, replace(point, position=self._inner(point.position)))

    def momentum(self, state: State, position: float) -> float | None:
        return self.schedule.momentum(state, self._inner(position))

    def plateau(self, state: State) -> Mapping[str, Any] | None:
        return self.schedule.plateau(state)

    @abstractmethod
    def _inner(self, position: float) -> float:
        """The position of the schedule when the node is at `position`."""


def is_stateful(schedule: Schedule) -> bool:
    """Whether the schedule has a state that reports can change."""
    return bool(getattr(schedule, "is_stateful", True))


def span_of(schedule: Schedule) -> float | None:
    """The position at which the schedule has made its last change, or has completed its first period of a decay.

    A node declares it as `span`. None: it goes on for ever, begins again, or depends on metrics.
    """
    span: float | None = getattr(schedule, "span", None)
    return span


def rate_of_run(binding: Binding) -> float:
    """The run's initial rate. Raises InvalidPolicy if it is unknown."""
    if binding.initial_learning_rate is None:
        raise InvalidPolicy("is missing, and the run has no rate of its own", "initial_learning_rate")
    return binding.initial_learning_rate


def bound(learning_rate: float | None) -> float:
    """The rate that `bind` filled in. Raises InvalidPolicy if the policy is not bound."""
    if learning_rate is None:
        raise InvalidPolicy("is open; bind the policy to a run first", "initial_learning_rate")
    return learning_rate
