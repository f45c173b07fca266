"""Stop rules: early stopping, target and budget."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from remotelr.rules.errors import InvalidPolicy
from remotelr.rules.plateau.machine import PlateauSettings, float32
from remotelr.rules.plateau.monitor import Mode, NanPolicy, Reports, is_counted, resolve_mode
from remotelr.rules.values.fields import Count, Range, check_fields
from remotelr.rules.values.metrics import number_from_json, number_to_json

Value = Annotated[float, Range(least=-1e30, most=1e30)]
Delta = Annotated[float, Range(least=-1e12, most=1e12)]


@dataclass(frozen=True, slots=True)
class EarlyStoppingResult:
    """state: `best` and `wait` (JSON); None before the first report. stop: the run stops."""

    state: Mapping[str, Any] | None
    stop: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class EarlyStopping:
    """Stops when `monitor` has not improved for `patience` epochs: Keras's `EarlyStopping`, quirks included.

    min_delta: `value + |min_delta| < best` improves (min), compared in float32.
    patience: reports without improvement; 0 stops at the first one, as 1 does. It never stops at epoch 0.
    baseline: an improvement resets the wait only if it is also better than this value.
    start_from_epoch: reports of earlier epochs are ignored.
    nan_policy: as in `reduce_on_plateau`; "library" is Keras, where no value improves on a NaN that comes first.

    A report without the metric changes nothing.
    """

    monitor: str = "val_loss"
    min_delta: Delta = 0.0
    patience: Reports = 0
    mode: Mode = "auto"
    baseline: Value | None = None
    start_from_epoch: Reports = 0
    nan_policy: NanPolicy = "bad"

    def __post_init__(self) -> None:
        check_fields(self)
        object.__setattr__(self, "mode", resolve_mode(self.mode, self.monitor))
        object.__setattr__(self, "min_delta", abs(self.min_delta))

    def evaluate(self, state: Mapping[str, Any] | None, value: float | None, epoch: int) -> "EarlyStoppingResult":
        """Evaluate one report. Raises InvalidReport."""
        if value is None or epoch < self.start_from_epoch or not is_counted(value, self.monitor, self.nan_policy):
            return EarlyStoppingResult(state, False)
        wait = 1 if state is None else state["wait"] + 1
        best = None if state is None or state["best"] is None else number_from_json(state["best"])
        rule = self._rule
        if not rule.improves(value, best):
            after = {"best": None if best is None else number_to_json(best), "wait": wait}
            return EarlyStoppingResult(after, wait >= self.patience and epoch > 0)
        if self.baseline is None or rule.improves(value, self.baseline):
            wait = 0
        return EarlyStoppingResult({"best": number_to_json(value), "wait": wait}, False)

    @property
    def _rule(self) -> PlateauSettings:
        return PlateauSettings(
            lower_is_better=self.mode == "min",
            absolute=self.min_delta,
            margin_on_value=True,
            compared=float32,
            takes_first=True,
            takes_non_finite=self.nan_policy == "library",
            reduce_after=1,
            cooldown=0,
            factor=0.5,
            floor=0.0,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Stops when `monitor` is at most `value`, or at least `value` with mode "max"."""

    monitor: str = "val_loss"
    value: Value
    mode: Mode = "auto"

    def __post_init__(self) -> None:
        check_fields(self)
        object.__setattr__(self, "mode", resolve_mode(self.mode, self.monitor))

    def reached(self, value: float | None) -> bool:
        if value is None:
            return False
        return value <= self.value if self.mode == "min" else value >= self.value


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """Stops after a number of epochs or of optimizer steps, whichever comes first.

    Steps are known from reports or from the run's steps_per_epoch.
    """

    epochs: Count | None = None
    steps: Count | None = None

    def __post_init__(self) -> None:
        check_fields(self)
        if self.epochs is None and self.steps is None:
            raise InvalidPolicy("is empty; set epochs, steps or both", "epochs")

    def spent(self, epoch: int, step: int | None) -> bool:
        """Whether the budget is spent at the beginning of `epoch`, after `step` optimizer steps."""
        if self.epochs is not None and epoch >= self.epochs:
            return True
        return self.steps is not None and step is not None and step >= self.steps


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """Stop rules: if one applies, decisions have the action `stop`. The first rule that applies is named.

    A release continues the run and resets the wait of early stopping. A target or a budget that is still reached
    stops it again.
    """

    early_stopping: EarlyStopping | None = None
    target: Target | None = None
    budget: Budget | None = None

    def __post_init__(self) -> None:
        check_fields(self)

    def monitors(self) -> tuple[str, ...]:
        """The metrics that the rules evaluate."""
        return tuple(rule.monitor for rule in (self.early_stopping, self.target) if rule is not None)
