"""Cosine curves and their like: cosine, cosine_restarts, tanh."""

from dataclasses import dataclass
from math import cos, pi, tanh
from typing import Annotated, ClassVar, Literal

from remotelr.rules.errors import InvalidPolicy
from remotelr.rules.schedules.base import FromInitialRate, State
from remotelr.rules.schedules.restarts import cycle_at
from remotelr.rules.values.fields import Count, Exponent, Factor, Fraction, Length, Range, RateOrZero
from remotelr.rules.values.floats import bounded_power


@dataclass(frozen=True, slots=True, kw_only=True)
class Cosine(FromInitialRate):
    """Half a cosine from the initial rate down to the end.

        p = (t / decay_steps) ** k_decay
        lr(t) = end + (initial - end) * ((1 + cos(2 * pi * num_cycles * p)) / 2) ** exponent

    The end is `end_learning_rate`, or `alpha` as a fraction of the initial rate; 0 when neither is given.
    `beyond_end`: `hold` stays at the end; `periodic` goes on and rises again (torch, HF). `decay_steps` never
    includes a warm-up.

    Keras `CosineDecay`, torch `CosineAnnealingLR` (periodic), optax `cosine_decay_schedule`, HF `cosine` and
    `cosine_with_min_lr` (periodic).
    """

    type: ClassVar[str] = "cosine"

    decay_steps: Length
    alpha: Fraction | None = None
    end_learning_rate: RateOrZero | None = None
    exponent: Exponent = 1.0
    num_cycles: Factor = 0.5
    k_decay: Exponent = 1.0
    beyond_end: Literal["hold", "periodic"] = "hold"

    def _check_consistency(self) -> None:
        refuse_two_ends(self.alpha, self.end_learning_rate)

    @property
    def span(self) -> float | None:
        return self.decay_steps if self.beyond_end == "hold" else None

    def learning_rate(self, state: State, position: float) -> float:
        progress = position / self.decay_steps
        if self.beyond_end == "hold":
            progress = min(progress, 1.0)
        turned = cos(2 * pi * self.num_cycles * bounded_power(progress, self.k_decay))
        end = end_of(self._initial, self.alpha, self.end_learning_rate)
        return end + (self._initial - end) * bounded_power((1 + turned) / 2, self.exponent)


@dataclass(frozen=True, slots=True, kw_only=True)
class CosineRestarts(FromInitialRate):
    """Half a cosine, again and again: SGDR.

        cycle i lasts first_decay_steps * t_mul ** i and begins at a peak scaled by m_mul ** i
        lr = end + (peak_i - end) * (1 + cos(pi * p ** k_decay)) / 2,  p = share of the cycle that is over

    `m_mul_on` says what m_mul scales: the `range` above the end (Keras) or the `peak` itself (timm). The end is
    `end_learning_rate`, or `alpha` as a fraction of the initial rate, or 0; after `cycle_limit` cycles it is held.

    Keras `CosineDecayRestarts` (its own default is t_mul 2), torch `CosineAnnealingWarmRestarts`, timm
    `CosineLRScheduler`, HF `cosine_with_restarts`.
    """

    type: ClassVar[str] = "cosine_restarts"

    first_decay_steps: Length
    t_mul: Factor = 1.0
    m_mul: Factor = 1.0
    m_mul_on: Literal["range", "peak"] = "range"
    alpha: Fraction | None = None
    end_learning_rate: RateOrZero | None = None
    k_decay: Exponent = 1.0
    cycle_limit: Count | None = None

    def _check_consistency(self) -> None:
        refuse_two_ends(self.alpha, self.end_learning_rate)

    def learning_rate(self, state: State, position: float) -> float:
        end = end_of(self._initial, self.alpha, self.end_learning_rate)
        cycle = cycle_at(position, first=self.first_decay_steps, t_mul=self.t_mul, limit=self.cycle_limit)
        peak = cycle.peak(self._initial, end, self.m_mul, self.m_mul_on)
        return end + (peak - end) * (1 + cos(pi * bounded_power(cycle.progress, self.k_decay))) / 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Tanh(FromInitialRate):
    """The falling flank of a hyperbolic tangent, in one cycle or several.

        lr = end + (peak_i - end) / 2 * (1 - tanh(lower * (1 - p) + upper * p)),  p = share of the cycle that is over

    The cycles are those of `cosine_restarts`; after `cycle_limit` of them the end is held. timm `TanhLRScheduler`.
    """

    type: ClassVar[str] = "tanh"

    first_decay_steps: Length
    lower: Annotated[float, Range(least=-100, most=100)] = -7.0
    upper: Annotated[float, Range(least=-100, most=100)] = 3.0
    end_learning_rate: RateOrZero = 0.0
    t_mul: Factor = 1.0
    m_mul: Factor = 1.0
    m_mul_on: Literal["range", "peak"] = "peak"
    cycle_limit: Count = 1

    def _check_consistency(self) -> None:
        if self.lower >= self.upper:
            raise InvalidPolicy(f"must be below upper ({self.upper:g}), is {self.lower:g}", "lower")

    @property
    def span(self) -> float | None:
        return self.first_decay_steps if self.cycle_limit == 1 else None

    def learning_rate(self, state: State, position: float) -> float:
        end = self.end_learning_rate
        cycle = cycle_at(position, first=self.first_decay_steps, t_mul=self.t_mul, limit=self.cycle_limit)
        if cycle.index == self.cycle_limit - 1 and cycle.progress == 1:
            return end
        peak = cycle.peak(self._initial, end, self.m_mul, self.m_mul_on)
        bend = tanh(self.lower * (1 - cycle.progress) + self.upper * cycle.progress)
        return end + (peak - end) / 2 * (1 - bend)


def refuse_two_ends(alpha: float | None, end_learning_rate: float | None) -> None:
    """Raises InvalidPolicy when the end is given both as a fraction and as a rate."""
    if alpha is not None and end_learning_rate is not None:
        raise InvalidPolicy("cannot be combined with end_learning_rate: both name the end", "alpha")


def end_of(initial: float, alpha: float | None, end_learning_rate: float | None) -> float:
    """The rate a curve ends at, whichever way it was named."""
    if end_learning_rate is not None:
        return end_learning_rate
    return initial * (alpha or 0.0)
