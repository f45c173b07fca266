"""The state machine of `reduce_on_plateau`. The differences of Keras, torch and optax are settings.

value ──▶ average (optax) ──▶ better than best? ──yes──▶ best = value, wait = 0
                                   │ no
                                   ├─ ignored by the cooldown ──▶ wait = 0
                                   └─ otherwise ────────────────▶ wait + 1
                                                                    │ due at reduce_after
                                                                    ▼
                                                  reduce, wait = 0, cooldown begins
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import copysign, inf, isfinite
from struct import pack, unpack
from typing import Any, Self

from remotelr.rules.values.metrics import number_from_json, number_to_json
from remotelr.rules.values.records import record, replace


def float32(value: float) -> float:
    """The float32 nearest to `value`, as Keras and its backends would hold it."""
    try:
        (held,) = unpack("<f", pack("<f", value))
    except OverflowError:
        return copysign(inf, value)
    return float(held)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlateauSettings:
    """Settings of the state machine.

    relative, absolute: how much better counts: a value beats best * (1 - relative) - absolute (min).
    margin_on_value: Keras 3 adds the margin to the value instead of taking it from best.
    compared: the precision of the comparison. held: the precision in which the rate is held.
    takes_first: the first value is best whatever it is; otherwise it has to beat infinity.
    takes_non_finite: NaN and the infinities may become best, if the comparison says so.
    reduce_after: reports without improvement that lead to a reduction. Optax allows 0, which
        reduces at every improvement and never otherwise.
    counts_last: the report that ends a cooldown already counts (Keras).
    floor: nothing reduces below it. eps: the least change that is applied, None for any.
    pauses_at_floor: a reduction that changes nothing starts the cooldown all the same.
    """

    lower_is_better: bool
    relative: float = 0.0
    absolute: float = 0.0
    margin_on_value: bool = False
    compared: Callable[[float], float] = float
    held: Callable[[float], float] = float
    takes_first: bool = False
    takes_non_finite: bool = False
    reduce_after: int
    cooldown: int
    counts_last: bool = False
    factor: float
    floor: float
    eps: float | None = None
    pauses_at_floor: bool = True
    accumulation_size: int = 1

    def improves(self, value: float, best: float | None) -> bool:
        """Whether `value` is better than `best` by the margin."""
        if not (self.takes_non_finite or isfinite(value)):
            return False
        if best is None and self.takes_first:
            return True
        sign = 1 if self.lower_is_better else -1
        if best is None:
            best = sign * inf
        if self.margin_on_value:
            value = value + sign * self.absolute
        else:
            best = best * (1.0 - sign * self.relative) - sign * self.absolute
        value, best = self.compared(value), self.compared(best)
        return value < best if self.lower_is_better else value > best

    def due(self, wait: int) -> bool:
        """Whether a reduction is due after `wait` reports without improvement."""
        return wait >= self.reduce_after if self.reduce_after else wait == 0

    def reduced(self, current: float) -> float | None:
        """`current` after a reduction; None if it does not change."""
        lower = self.held(max(current * self.factor, self.floor))
        if current <= self.held(self.floor):
            return None
        return None if self.eps is not None and current - lower <= self.eps else lower


@record
class PlateauState:
    """best: None before the first value. average, count: of the values that are being averaged."""

    best: float | None = None
    wait: int = 0
    cooldown: int = 0
    average: float = 0.0
    count: int = 0

    @classmethod
    def from_json(cls, state: Mapping[str, Any]) -> Self:
        best = state["best"]
        return cls(
            best=None if best is None else number_from_json(best),
            wait=state["wait"],
            cooldown=state["cooldown"],
            average=number_from_json(state.get("average", 0.0)),
            count=state.get("count", 0),
        )

    def to_json(self) -> dict[str, Any]:
        best = None if self.best is None else number_to_json(self.best)
        document: dict[str, Any] = {"best": best, "wait": self.wait, "cooldown": self.cooldown}
        if self.count:
            document |= {"average": number_to_json(self.average), "count": self.count}
        return document


def observe(rule: PlateauSettings, memory: PlateauState, value: float) -> tuple[PlateauState, bool]:
    """The state after one more value, and whether a reduction is due."""
    average = (memory.count * memory.average + value) / (memory.count + 1)
    if memory.count + 1 < rule.accumulation_size:
        return replace(memory, average=average, count=memory.count + 1), False

    cooling = memory.cooldown > 0
    cooldown = max(memory.cooldown - 1, 0)
    ignored = cooling and (cooldown > 0 or not rule.counts_last)
    if rule.improves(average, memory.best):
        after = PlateauState(best=average, wait=0, cooldown=cooldown)
    else:
        after = PlateauState(best=memory.best, wait=0 if ignored else memory.wait + 1, cooldown=cooldown)
    return after, not ignored and rule.due(after.wait)
