"""Decays: step, multi_step, exponential, inverse_time, polynomial."""

from bisect import bisect_right
from dataclasses import dataclass
from math import ceil, floor
from typing import ClassVar, Literal

from remotelr.rules.errors import InvalidPolicy
from remotelr.rules.schedules.base import FromInitialRate, State
from remotelr.rules.schedules.restarts import cycle_at
from remotelr.rules.values.fields import Count, Exponent, Factor, Length, Offset, RateOrZero
from remotelr.rules.values.floats import bounded_power


@dataclass(frozen=True, slots=True, kw_only=True)
class Step(FromInitialRate):
    """A drop by `gamma` every `step_size`, which may be fractional.

        lr(t) = initial * gamma ** floor(t / step_size)

    Keras `ExponentialDecay(staircase=True)`, torch `StepLR`, timm `StepLRScheduler`, the step decay of the blogs.
    """

    type: ClassVar[str] = "step"

    step_size: Length
    gamma: Factor = 0.1

    @property
    def span(self) -> float:
        return self.step_size

    def learning_rate(self, state: State, position: float) -> float:
        return self._initial * bounded_power(self.gamma, floor(position / self.step_size))


@dataclass(frozen=True, slots=True, kw_only=True)
class MultiStep(FromInitialRate):
    """A drop by `gamma` at each milestone; one that is named twice counts twice.

        lr(t) = initial * gamma ** (number of milestones <= t)

    torch `MultiStepLR`; timm `MultiStepLRScheduler` drops one epoch earlier (`offset` 1). The order of the milestones
    does not matter; they are kept sorted.
    """

    type: ClassVar[str] = "multi_step"

    milestones: tuple[Offset, ...]
    gamma: Factor = 0.1

    def _check_consistency(self) -> None:
        object.__setattr__(self, "milestones", tuple(sorted(self.milestones)))

    @property
    def span(self) -> float | None:
        return max(self.milestones, default=None)

    def learning_rate(self, state: State, position: float) -> float:
        return self._initial * bounded_power(self.gamma, bisect_right(self.milestones, position))


@dataclass(frozen=True, slots=True, kw_only=True)
class Exponential(FromInitialRate):
    """A fall by `decay_rate` over every `decay_steps`, smooth or in stairs.

        t' = max(t - transition_begin, 0)
        lr(t) = initial * decay_rate ** (t' / decay_steps)      floor of the exponent with staircase

    `end_learning_rate` bounds it from below, or from above when decay_rate > 1. Keras `ExponentialDecay`, torch
    `ExponentialLR`, optax `exponential_decay`.
    """

    type: ClassVar[str] = "exponential"

    decay_rate: Factor
    decay_steps: Length = 1.0
    staircase: bool = False
    transition_begin: Offset = 0.0
    end_learning_rate: RateOrZero | None = None

    @property
    def span(self) -> float:
        return self.transition_begin + self.decay_steps

    def learning_rate(self, state: State, position: float) -> float:
        exponent = max(position - self.transition_begin, 0.0) / self.decay_steps
        rate = self._initial * bounded_power(self.decay_rate, floor(exponent) if self.staircase else exponent)
        if self.end_learning_rate is None:
            return rate
        return max(rate, self.end_learning_rate) if self.decay_rate < 1 else min(rate, self.end_learning_rate)


@dataclass(frozen=True, slots=True, kw_only=True)
class InverseTime(FromInitialRate):
    """A fall like 1/t, or like a power of it.

        lr(t) = initial / (1 + decay_rate * t / decay_steps) ** power      floor(t / decay_steps) with staircase

    Keras `InverseTimeDecay`, the `decay` argument of Keras 2 optimizers (per step), "time-based decay"; with a power
    other than 1 the power scheduling of Hands-On Machine Learning.
    """

    type: ClassVar[str] = "inverse_time"

    decay_rate: Factor
    decay_steps: Length = 1.0
    staircase: bool = False
    power: Exponent = 1.0

    @property
    def span(self) -> float:
        return self.decay_steps

    def learning_rate(self, state: State, position: float) -> float:
        progress = position / self.decay_steps
        if self.staircase:
            progress = floor(progress)
        return self._initial / bounded_power(1 + self.decay_rate * progress, self.power)


@dataclass(frozen=True, slots=True, kw_only=True)
class Polynomial(FromInitialRate):
    """A fall to `end_learning_rate` along a power of what is left, once, in cycles, or stretched.

        t' = min(max(t - transition_begin, 0), decay_steps)
        lr(t) = end + (initial - end) * (1 - (t' / decay_steps) ** k_decay) ** power

    `cycle`: at the end the length is stretched to the next multiple of decay_steps, so the rate jumps up, to below
    where it began (Keras `PolynomialDecay(cycle=True)`).
    `cycle_limit` > 1: whole restarts, each `t_mul` longer than the one before, from a peak (`m_mul_on` peak) or a
    range above the end (range) `m_mul` times as high (timm `PolyLRScheduler`); after the last the end is held.

    Keras `PolynomialDecay` (its own default end is 1e-4), torch `PolynomialLR`, optax `polynomial_schedule`,
    HF `polynomial`.
    """

    type: ClassVar[str] = "polynomial"

    decay_steps: Length
    end_learning_rate: RateOrZero = 0.0
    power: Exponent = 1.0
    cycle: bool = False
    transition_begin: Offset = 0.0
    k_decay: Exponent = 1.0
    t_mul: Factor = 1.0
    m_mul: Factor = 1.0
    m_mul_on: Literal["range", "peak"] = "peak"
    cycle_limit: Count = 1

    def _check_consistency(self) -> None:
        if self.cycle and self.cycle_limit > 1:
            raise InvalidPolicy("cannot be combined with cycle_limit, which restarts in another way", "cycle")

    @property
    def span(self) -> float | None:
        return None if self.cycle or self.cycle_limit > 1 else self.transition_begin + self.decay_steps

    def learning_rate(self, state: State, position: float) -> float:
        t = max(position - self.transition_begin, 0.0)
        if self.cycle:
            length = self.decay_steps * max(ceil(t / self.decay_steps), 1)
            return self._descent(self._initial, min(t / length, 1.0))
        cycle = cycle_at(t, first=self.decay_steps, t_mul=self.t_mul, limit=self.cycle_limit)
        return self._descent(
            cycle.peak(self._initial, self.end_learning_rate, self.m_mul, self.m_mul_on), cycle.progress
        )

    def _descent(self, peak: float, progress: float) -> float:
        remaining = bounded_power(1 - bounded_power(progress, self.k_decay), self.power)
        return self.end_learning_rate + (peak - self.end_learning_rate) * remaining
