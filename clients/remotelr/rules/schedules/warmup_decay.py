"""Whole plans with a warm-up of their own: inverse_sqrt, noam, wsd."""

from dataclasses import dataclass
from math import cos, pi, sqrt
from typing import ClassVar, Literal

from remotelr.rules.errors import InvalidPolicy
from remotelr.rules.schedules.base import FromInitialRate, FromOwnRates, State
from remotelr.rules.values.fields import Exponent, Factor, Length, LengthOrZero, OpenFraction, RateOrZero
from remotelr.rules.values.floats import blend, bounded_power


@dataclass(frozen=True, slots=True, kw_only=True)
class InverseSqrt(FromInitialRate):
    """A linear warm-up from 0, then a fall like one over the square root.

        lr(t) = initial * t / warmup_steps                                  before warmup_steps
        lr(t) = initial / sqrt(1 + (t - warmup_steps) / timescale)          after

    `timescale` is `warmup_steps` where it is not given, 10,000 without a warm-up; then it is fairseq's and Megatron's
    initial * sqrt(warmup_steps / t). HF `inverse_sqrt`.
    """

    type: ClassVar[str] = "inverse_sqrt"

    warmup_steps: LengthOrZero = 0.0
    timescale: Length | None = None

    def learning_rate(self, state: State, position: float) -> float:
        if position < self.warmup_steps:
            return self._initial * position / self.warmup_steps
        timescale = self.timescale or self.warmup_steps or 10_000.0
        return self._initial / sqrt(1 + (position - self.warmup_steps) / timescale)


@dataclass(frozen=True, slots=True, kw_only=True)
class Noam(FromOwnRates):
    """The schedule of "Attention Is All You Need".

        s = max(t, 1)
        lr(t) = factor * d_model ** -0.5 * min(s ** -0.5, s * warmup_steps ** -1.5)

    The formula has no value at 0; position 0 is read as 1. Keras's transformer tutorial, Paddle `NoamDecay`.
    """

    type: ClassVar[str] = "noam"

    d_model: Length
    warmup_steps: Length
    factor: Factor = 1.0

    @property
    def initial_learning_rate(self) -> float | None:
        return self.learning_rate(None, 0)

    def learning_rate(self, state: State, position: float) -> float:
        step = max(position, 1.0)
        return self.factor / sqrt(self.d_model) * min(1 / sqrt(step), step * bounded_power(self.warmup_steps, -1.5))


@dataclass(frozen=True, slots=True, kw_only=True)
class WarmupStableDecay(FromInitialRate):
    """Up, along, and down: a warm-up, a stable stretch, a decay to the end, which is then held.

        warm-up  from start_learning_rate to initial:  linear p; cosine (1 - cos(pi p)) / 2; 1-sqrt: 1 - sqrt(1 - p)
        stable   max(initial * s, end), s = 1 (constant) or (1 + t' / stable_timescale) ** -stable_power;
                 rsqrt is power 0.5; t' = t - warmup_steps; it goes on below the decay
        decay    end + (stable - end) * d;  linear: d = 1 - p; cosine: (1 + cos(pi p)) / 2; 1-sqrt: 1 - sqrt(p);
                 power: 1 - p ** decay_power; exp: (r ** p - r) / (1 - r), r = decay_ratio
                 geometric: stable * (end / stable) ** p

    `start_learning_rate` is the end rate where it is not given (HF). `stable_timescale` is `warmup_steps` where it is
    not given. HF `warmup_stable_decay`, timm `WSDLRScheduler`, Megatron's WSD (exp with ratio 0.5), fairseq
    `tri_stage` (geometric).
    """

    type: ClassVar[str] = "wsd"

    end_learning_rate: RateOrZero = 0.0
    warmup_steps: LengthOrZero = 0.0
    start_learning_rate: RateOrZero | None = None
    warmup_shape: Literal["linear", "cosine", "1-sqrt"] = "linear"
    stable_steps: LengthOrZero
    stable_shape: Literal["constant", "rsqrt", "power"] = "constant"
    stable_timescale: Length | None = None
    stable_power: Exponent = 0.5
    decay_steps: Length
    decay_shape: Literal["linear", "cosine", "1-sqrt", "power", "exp", "geometric"] = "linear"
    decay_power: Exponent = 0.5
    decay_ratio: OpenFraction = 0.1

    def _check_consistency(self) -> None:
        if self.decay_shape == "geometric" and self.end_learning_rate == 0:
            raise InvalidPolicy("must be above 0 for a geometric decay, which cannot reach 0", "end_learning_rate")
        if self.stable_shape != "constant" and not self._timescale:
            raise InvalidPolicy(f"is missing: {self.stable_shape} without a warm-up needs it", "stable_timescale")

    @property
    def _timescale(self) -> float:
        return self.warmup_steps if self.stable_timescale is None else self.stable_timescale

    @property
    def span(self) -> float:
        return self.warmup_steps + self.stable_steps + self.decay_steps

    def learning_rate(self, state: State, position: float) -> float:
        if position < self.warmup_steps:
            return self._warming(position / self.warmup_steps)
        t = position - self.warmup_steps
        stable = max(self._initial * self._stable(t), self.end_learning_rate)
        if t <= self.stable_steps:
            return stable
        return self._decaying(stable, min((t - self.stable_steps) / self.decay_steps, 1.0))

    def _warming(self, progress: float) -> float:
        start = self.end_learning_rate if self.start_learning_rate is None else self.start_learning_rate
        if self.warmup_shape == "cosine":
            progress = (1 - cos(pi * progress)) / 2
        elif self.warmup_shape == "1-sqrt":
            progress = 1 - sqrt(1 - progress)
        return blend(start, self._initial, progress)

    def _stable(self, t: float) -> float:
        if self.stable_shape == "constant":
            return 1.0
        return bounded_power(1 + t / self._timescale, -0.5 if self.stable_shape == "rsqrt" else -self.stable_power)

    def _decaying(self, stable: float, progress: float) -> float:
        if self.decay_shape == "geometric":
            return stable * bounded_power(self.end_learning_rate / stable, progress)
        return self.end_learning_rate + (stable - self.end_learning_rate) * self._remaining(progress)

    def _remaining(self, progress: float) -> float:
        if self.decay_shape == "cosine":
            return (1 + cos(pi * progress)) / 2
        if self.decay_shape == "exp":
            return (bounded_power(self.decay_ratio, progress) - self.decay_ratio) / (1 - self.decay_ratio)
        exponent = {"linear": 1.0, "1-sqrt": 0.5}.get(self.decay_shape, self.decay_power)
        return 1 - bounded_power(progress, exponent)
