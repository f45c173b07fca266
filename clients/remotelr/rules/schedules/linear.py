"""Straight lines: constant, linear, and the ramp of a learning-rate range test."""

from dataclasses import dataclass, field
from math import floor
from typing import ClassVar

from remotelr.rules.schedules.base import FromInitialRate, FromOwnRates, State
from remotelr.rules.values.fields import Factor, Length, Offset, Rate, RateOrZero
from remotelr.rules.values.floats import blend


@dataclass(frozen=True, slots=True, kw_only=True)
class Constant(FromInitialRate):
    """One rate for ever; the run's own where none is given.

    In JSON it is `learning_rate`, and `initial_learning_rate` is understood. optax `constant_schedule`, HF `constant`.
    """

    type: ClassVar[str] = "constant"

    initial_learning_rate: RateOrZero | None = field(
        default=None, metadata={"name": "learning_rate", "also": "initial_learning_rate"}
    )

    def learning_rate(self, state: State, position: float) -> float:
        return self._initial


@dataclass(frozen=True, slots=True, kw_only=True)
class Linear(FromInitialRate):
    """A straight line, up or down, that holds its end.

        t' = min(max(t - transition_begin, 0), decay_steps)
        lr(t) = initial + (end - initial) * t' / decay_steps

    Keras `PolynomialDecay(power=1)`, torch `LinearLR` (whose factors are of the optimizer's rate), optax
    `linear_schedule` and `warmup_constant_schedule`, HF `linear`.
    """

    type: ClassVar[str] = "linear"

    initial_learning_rate: RateOrZero | None = None
    decay_steps: Length
    end_learning_rate: RateOrZero = 0.0
    transition_begin: Offset = 0.0

    @property
    def span(self) -> float:
        return self.transition_begin + self.decay_steps

    def learning_rate(self, state: State, position: float) -> float:
        t = min(max(position - self.transition_begin, 0.0), self.decay_steps)
        return blend(self._initial, self.end_learning_rate, t / self.decay_steps)


@dataclass(frozen=True, slots=True, kw_only=True)
class LRRangeTest(FromOwnRates):
    """A rate that only grows, to find where a model stops learning.

        lr(t) = min_lr * (1 + step_rate * t / step_size)      floor(t / step_size) with staircase

    DeepSpeed `LRRangeTest`.
    """

    type: ClassVar[str] = "lr_range_test"

    min_lr: Rate = 1e-3
    step_size: Length = 2000.0
    step_rate: Factor = 1.0
    staircase: bool = False

    @property
    def initial_learning_rate(self) -> float | None:
        return self.min_lr

    def learning_rate(self, state: State, position: float) -> float:
        progress = position / self.step_size
        return self.min_lr * (1 + self.step_rate * (floor(progress) if self.staircase else progress))
