"""Cycles that drive the rate and the momentum against each other: one_cycle, cyclic."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import cos, floor, pi
from typing import Annotated, ClassVar, Literal, Self

from remotelr.rules.errors import InvalidPolicy
from remotelr.rules.schedules.base import Binding, OpenLoop, State
from remotelr.rules.values.fields import Fraction, Length, Range, Rate, RateOrZero
from remotelr.rules.values.floats import bounded_power


@dataclass(frozen=True, slots=True)
class _Phase:
    """From one rate to another, and the momentum with it, until `end`."""

    end: float
    rates: tuple[float, float]
    momenta: tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class OneCycle(OpenLoop):
    """Up to `max_lr`, and down to far below where it began: super-convergence.

        initial = max_lr / div_factor,  final = initial / final_div_factor
        two phases:    initial -> max_lr until pct_start * total_steps - 1, -> final until total_steps - 1
        three phases:  initial -> max_lr until pct_start * total_steps - 1,
                       -> initial until 2 * pct_start * total_steps - 2, -> final until total_steps - 1

    `anneal_strategy` is the shape of every phase. The momentum goes from `max_momentum` to `base_momentum` and back
    (in three phases it then stays); none is given with cycle_momentum false.

    torch `OneCycleLR`, which is defined up to t = total_steps, one position past the end, where a linear curve is
    already below its final rate (a policy never gives a rate below 0). After that we hold the final rate.
    """

    type: ClassVar[str] = "one_cycle"

    max_lr: Rate
    total_steps: Annotated[float, Range(least=2, most=1e12)]
    pct_start: Fraction = 0.3
    anneal_strategy: Literal["cos", "linear"] = "cos"
    div_factor: Annotated[float, Range(least=1, most=1e12)] = 25.0
    final_div_factor: Annotated[float, Range(least=1, most=1e12)] = 1e4
    three_phase: bool = False
    cycle_momentum: bool = True
    base_momentum: Fraction = 0.85
    max_momentum: Fraction = 0.95

    def _check_consistency(self) -> None:
        if self.three_phase and self.pct_start > 0.5:
            raise InvalidPolicy(f"must be at most 0.5 with three phases, is {self.pct_start!r}", "pct_start")

    @property
    def initial_learning_rate(self) -> float | None:
        return self.max_lr / self.div_factor

    def bind(self, binding: Binding) -> Self:
        return self

    @property
    def span(self) -> float:
        return self.total_steps

    def learning_rate(self, state: State, position: float) -> float:
        phase, progress = self._phase_at(position)
        return self._anneal(phase.rates, progress)

    def momentum(self, state: State, position: float) -> float | None:
        if not self.cycle_momentum:
            return None
        phase, progress = self._phase_at(position)
        return min(max(self._anneal(phase.momenta, progress), 0.0), 1.0)

    def _phases(self) -> Iterator[_Phase]:
        initial = self.max_lr / self.div_factor
        final = initial / self.final_div_factor
        low, high = self.base_momentum, self.max_momentum
        yield _Phase(self.pct_start * self.total_steps - 1, (initial, self.max_lr), (high, low))
        if self.three_phase:
            yield _Phase(2 * self.pct_start * self.total_steps - 2, (self.max_lr, initial), (low, high))
            yield _Phase(self.total_steps - 1, (initial, final), (high, high))
        else:
            yield _Phase(self.total_steps - 1, (self.max_lr, final), (low, high))

    def _phase_at(self, position: float) -> tuple[_Phase, float]:
        """The phase in force, and how much of it is over; a little more than 1 in the last position torch defines."""
        t = position if position <= self.total_steps else self.total_steps - 1
        begin = 0.0
        phases = list(self._phases())
        for phase in phases:
            if t <= phase.end and phase.end > begin:
                return phase, (t - begin) / (phase.end - begin)
            if phase is not phases[-1]:
                begin = phase.end
        # torch divides by zero when the last phase has no length (pct_start 1).
        length = phases[-1].end - begin
        return phases[-1], (t - begin) / length if length > 0 else 1.0

    def _anneal(self, ends: tuple[float, float], progress: float) -> float:
        start, end = ends
        if self.anneal_strategy == "linear":
            return start + (end - start) * progress
        return end + (start - end) / 2 * (1 + cos(pi * progress))


@dataclass(frozen=True, slots=True, kw_only=True)
class Cyclic(OpenLoop):
    """A triangle between `base_lr` and `max_lr`, again and again.

        cycle = floor(1 + t / (up + down)); height = share of the way up, or of the way down that is left
        lr(t) = base_lr + (max_lr - base_lr) * height * scale

    scale: 1 (triangular), 2 ** -(cycle - 1) (triangular2), gamma ** t (exp_range). `step_size_down` is
    `step_size_up` where it is not given. The momentum moves the other way; none with cycle_momentum false.

    torch `CyclicLR`, the cyclical rates of TensorFlow Addons.
    """

    type: ClassVar[str] = "cyclic"

    base_lr: RateOrZero
    max_lr: Rate
    step_size_up: Length = 2000.0
    step_size_down: Length | None = None
    mode: Literal["triangular", "triangular2", "exp_range"] = "triangular"
    gamma: Annotated[float, Range(above=0, most=1)] = 1.0
    cycle_momentum: bool = True
    base_momentum: Fraction = 0.8
    max_momentum: Fraction = 0.9

    def _check_consistency(self) -> None:
        if self.base_lr > self.max_lr:
            raise InvalidPolicy(f"must be at least base_lr ({self.base_lr:g}), is {self.max_lr:g}", "max_lr")

    @property
    def initial_learning_rate(self) -> float | None:
        return self.base_lr

    def bind(self, binding: Binding) -> Self:
        return self

    def learning_rate(self, state: State, position: float) -> float:
        return self.base_lr + (self.max_lr - self.base_lr) * self._height(position)

    def momentum(self, state: State, position: float) -> float | None:
        if not self.cycle_momentum:
            return None
        return self.max_momentum - (self.max_momentum - self.base_momentum) * self._height(position)

    def _height(self, t: float) -> float:
        down = self.step_size_up if self.step_size_down is None else self.step_size_down
        total = self.step_size_up + down
        cycle = floor(1 + t / total)
        x = 1 + t / total - cycle
        turn = self.step_size_up / total
        height = x / turn if x <= turn else (x - 1) / (turn - 1)
        return height * self._scale(t, cycle)

    def _scale(self, t: float, cycle: int) -> float:
        if self.mode == "triangular2":
            return bounded_power(0.5, cycle - 1)
        return bounded_power(self.gamma, t) if self.mode == "exp_range" else 1.0
