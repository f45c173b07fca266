"""`greedy`: the rate rises while a metric gets better and falls when it does not."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import inf, isfinite
from typing import Annotated, Any, ClassVar, Literal, Self

from remotelr.rules.errors import InvalidPolicy
from remotelr.rules.plateau.monitor import Margin, Mode, NanPolicy, Reports, is_counted, resolve_mode
from remotelr.rules.schedules.base import Binding, Point, State
from remotelr.rules.values.fields import OpenFraction, Range, Rate, RateOrZero, check_fields
from remotelr.rules.values.metrics import number_from_json, number_to_json

# The window is part of the state, which travels with every decision.
Window = Annotated[int, Range(least=1, most=500)]
Resets = Annotated[int, Range(least=1, most=10**9)]


@dataclass(frozen=True, slots=True, kw_only=True)
class GreedyState:
    """The state of the node. `window` and its running `sum` are used only if values are smoothed.

    initial_learning_rate: the rate of a restart.
    resets_in: reductions without effect at `min_lr` until the restart.
    """

    learning_rate: float
    initial_learning_rate: float
    resets_in: int
    best: float | None = None
    good: int = 0
    bad: int = 0
    cooldown: int = 0
    warmup: int = 0
    window: tuple[float, ...] = ()
    sum: float = 0.0

    @classmethod
    def from_json(cls, state: Mapping[str, Any]) -> Self:
        best = state["best"]
        read = {
            "best": None if best is None else number_from_json(best),
            "window": tuple(number_from_json(value) for value in state.get("window", ())),
            "sum": number_from_json(state.get("sum", 0.0)),
        }
        return cls(**{**state, **read})

    def to_json(self) -> dict[str, Any]:
        document = {
            "learning_rate": self.learning_rate,
            "initial_learning_rate": self.initial_learning_rate,
            "resets_in": self.resets_in,
            "best": None if self.best is None else number_to_json(self.best),
            "good": self.good,
            "bad": self.bad,
            "cooldown": self.cooldown,
            "warmup": self.warmup,
        }
        if not self.window:
            return document
        return document | {"window": [number_to_json(value) for value in self.window], "sum": number_to_json(self.sum)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Greedy:
    """A rate divided by `factor` after patience + 1 improvements in a row, multiplied by it after as many bad reports.

    Hugging Face transformers `GreedyLR` (arXiv:2512.14527), counters and quirks included.

    monitor, mode, threshold, threshold_mode: as in `reduce_on_plateau`, flavour torch.
    cooldown, warmup: reports ignored after the rate fell, after it rose; `best` does not change meanwhile.
    min_lr, max_lr: bounds. The library defaults 1e-3 and 1 are high for fine-tuning.
    eps: changes up to this are not applied.
    smooth: evaluate the mean of the last `window_size` values.
    reset_start: reductions without effect at `min_lr` after which rate and counters restart.
    nan_policy: as in `reduce_on_plateau`. "bad" leaves NaN out of the smoothed mean; "library" lets it
        spoil the running sum for good, as the library does.
    initial_learning_rate: the first rate; by default the one handed over.

    It has no schedule inside. After a warm-up or in a sequence it observes no earlier report and starts from the rate
    handed over.
    """

    type: ClassVar[str] = "greedy"

    monitor: str = "val_loss"
    mode: Mode = "auto"
    factor: OpenFraction = 0.95
    patience: Reports = 10
    threshold: Margin = 1e-6
    threshold_mode: Literal["rel", "abs"] = "abs"
    cooldown: Reports = 0
    warmup: Reports = 0
    min_lr: RateOrZero = 1e-3
    max_lr: Rate = 1.0
    eps: RateOrZero = 1e-8
    smooth: bool = False
    window_size: Window = 50
    reset_start: Resets = 500
    nan_policy: NanPolicy = "bad"
    initial_learning_rate: Rate | None = None

    def __post_init__(self) -> None:
        check_fields(self)
        object.__setattr__(self, "mode", resolve_mode(self.mode, self.monitor))
        if self.min_lr > self.max_lr:
            raise InvalidPolicy(f"must not exceed max_lr {self.max_lr!r}, is {self.min_lr!r}", "min_lr")
        if self.threshold_mode == "rel" and self.threshold >= 1:
            raise InvalidPolicy(f'must be below 1 in threshold_mode "rel", is {self.threshold!r}', "threshold")

    def bind(self, binding: Binding) -> Self:
        return self

    def start(self, learning_rate: float) -> State:
        first = learning_rate if self.initial_learning_rate is None else self.initial_learning_rate
        return self._fresh(first).to_json()

    def observe(self, state: State, point: Point) -> State:
        value = point.metrics.get(self.monitor)
        if value is None or not is_counted(value, self.monitor, self.nan_policy):
            return state
        memory, smoothed = self._smoothed(GreedyState.from_json(state), value)
        return self._after(memory, smoothed).to_json()

    def learning_rate(self, state: State, position: float) -> float:
        return float(state["learning_rate"])

    def momentum(self, state: State, position: float) -> float | None:
        return None

    def plateau(self, state: State) -> Mapping[str, Any] | None:
        return {"best": state["best"], "wait": state["bad"], "cooldown": state["cooldown"]}

    def _fresh(self, learning_rate: float) -> GreedyState:
        return GreedyState(learning_rate=learning_rate, initial_learning_rate=learning_rate, resets_in=self.reset_start)

    def _smoothed(self, memory: GreedyState, value: float) -> tuple[GreedyState, float]:
        """The state with the value in its window, and the number to evaluate."""
        if not self.smooth or not (isfinite(value) or self.nan_policy == "library"):
            return memory, value
        window, total = (*memory.window, value), memory.sum + value
        if len(window) > self.window_size:
            total -= window[0]
            window = window[1:]
        return replace(memory, window=window, sum=total), total / len(window)

    def _after(self, memory: GreedyState, value: float) -> GreedyState:
        if memory.cooldown:
            return replace(memory, cooldown=memory.cooldown - 1, good=0, bad=0)
        if memory.warmup:
            return replace(memory, warmup=memory.warmup - 1, good=0, bad=0)
        if self._improves(value, memory.best):
            if memory.good + 1 > self.patience:
                return self._risen(replace(memory, best=value))
            return replace(memory, best=value, good=memory.good + 1, bad=0)
        if memory.bad + 1 > self.patience:
            return self._fallen(memory)
        return replace(memory, good=0, bad=memory.bad + 1)

    def _improves(self, value: float, best: float | None) -> bool:
        if not (isfinite(value) or self.nan_policy == "library"):
            return False
        sign = 1 if self.mode == "min" else -1
        bar = sign * inf if best is None else best
        bar = bar * (1.0 - sign * self.threshold) if self.threshold_mode == "rel" else bar - sign * self.threshold
        return value < bar if self.mode == "min" else value > bar

    def _risen(self, memory: GreedyState) -> GreedyState:
        higher = min(memory.learning_rate / self.factor, self.max_lr)
        if higher - memory.learning_rate <= self.eps:
            higher = memory.learning_rate
        return replace(memory, learning_rate=higher, good=0, bad=0, warmup=self.warmup, resets_in=self.reset_start)

    def _fallen(self, memory: GreedyState) -> GreedyState:
        lower = max(memory.learning_rate * self.factor, self.min_lr)
        if memory.learning_rate - lower <= self.eps:
            lower = memory.learning_rate
        resets_in = memory.resets_in if lower > self.min_lr else memory.resets_in - 1
        if resets_in <= 0:
            # The library starts the cooldown after the restart as well.
            return replace(self._fresh(memory.initial_learning_rate), cooldown=self.cooldown)
        return replace(memory, learning_rate=lower, good=0, bad=0, cooldown=self.cooldown, resets_in=resets_in)
