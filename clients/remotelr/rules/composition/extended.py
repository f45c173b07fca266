"""`extended`: a curve whose rest was made longer or shorter while it ran, by the command `extend`."""

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Self

from remotelr.rules.schedules.base import Binding, Schedule, State, Wrapper, bind_schedule, span_of
from remotelr.rules.values.fields import LengthOrZero, Offset, Range, check_fields
from remotelr.rules.values.floats import LAST_POSITION, MAX_FACTOR

Speed = Annotated[float, Range(least=0, most=1e12)]
Gain = Annotated[float, Range(least=0, most=1e6)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Extended(Wrapper):
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

    def bind(self, binding: Binding) -> Self:
        total = binding.total
        if total is not None:
            # What the whole takes is not what its schedule is gone through.
            total = max(round(self._inner(float(total))), 1)
        return replace(self, schedule=bind_schedule(self.schedule, replace(binding, total=total)))

    @property
    def span(self) -> float | None:
        span = span_of(self.schedule)
        if span is None or span <= self.at:
            return span
        # The reverse of `_inner`.
        return self.at + max(span - self.position, 0.0) / self.speed if self.speed else None

    def learning_rate(self, state: State, position: float) -> float:
        rate = self.schedule.learning_rate(state, self._inner(position))
        return rate if position < self.at else min(self.gain * rate, MAX_FACTOR)

    def _inner(self, position: float) -> float:
        if position < self.at:
            return position
        return min(self.position + (position - self.at) * self.speed, LAST_POSITION)
