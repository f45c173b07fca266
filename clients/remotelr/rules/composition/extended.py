"""`extended`: a curve whose rest was made longer or shorter while it ran, by the command `extend`."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Self

from remotelr.rules.composition.modifiers import remembers
from remotelr.rules.errors import InvalidPolicy
from remotelr.rules.schedules.base import Binding, Point, Schedule, State
from remotelr.rules.values.fields import LengthOrZero, Offset, Range, check_fields
from remotelr.rules.values.floats import LAST_POSITION, MAX_FACTOR

Speed = Annotated[float, Range(least=0, most=1e12)]
Gain = Annotated[float, Range(least=0, most=1e6)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Extended:
    """A schedule that from one position on is gone through at another speed.

        lr(t) = schedule(t)                                    before at
        lr(t) = gain * schedule(position + (t - at) * speed)         from at on

    The command `extend` makes it, of a curve of length T that has come to `at` and is to end at T' instead:
        keep_fraction   position = at, speed = (T - at) / (T' - at)
        keep_lr         position = at * T / T', speed = T / T', gain = the rate at `at` / schedule(position)
        restart         position = 0, speed = T / (T' - at)

    Reports change its schedule as they do without it; its state is that schedule's.
    """

    type: ClassVar[str] = "extended"

    schedule: Schedule
    at: Offset
    position: LengthOrZero = 0.0
    speed: Speed = 1.0
    gain: Gain = 1.0

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def remembers(self) -> bool:
        return remembers(self.schedule)

    @property
    def initial_learning_rate(self) -> float | None:
        return getattr(self.schedule, "initial_learning_rate", None)

    def bind(self, binding: Binding) -> Self:
        total = binding.total
        if total is not None:
            # What the whole takes is not what its schedule is gone through.
            total = max(round(self._inner(float(total))), 1)
        try:
            return replace(self, schedule=self.schedule.bind(replace(binding, total=total)))
        except InvalidPolicy as error:
            raise error.under("schedule") from None

    def start(self, learning_rate: float) -> State:
        return self.schedule.start(learning_rate)

    def observe(self, state: State, point: Point) -> State:
        return self.schedule.observe(state, replace(point, position=self._inner(point.position)))

    def learning_rate(self, state: State, position: float) -> float:
        rate = self.schedule.learning_rate(state, self._inner(position))
        return rate if position < self.at else min(self.gain * rate, MAX_FACTOR)

    def momentum(self, state: State, position: float) -> float | None:
        return self.schedule.momentum(state, self._inner(position))

    def plateau(self, state: State) -> Mapping[str, Any] | None:
        return self.schedule.plateau(state)

    def _inner(self, position: float) -> float:
        """Where in the curve it is at `position`."""
        if position < self.at:
            return position
        return min(self.position + (position - self.at) * self.speed, LAST_POSITION)
