"""`reduce_on_plateau`: reduces the rate when a metric stops improving. Its state machine is in `plateau.machine`."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Annotated, Any, ClassVar, Literal, Self

from remotelr.rules.errors import InvalidPolicy
from remotelr.rules.plateau.machine import PlateauSettings, PlateauState, float32, observe
from remotelr.rules.plateau.monitor import Margin, Mode, NanPolicy, Reports, is_counted, resolve_mode
from remotelr.rules.schedules.base import Binding, Point, Schedule, State, bind_schedule
from remotelr.rules.values.fields import Count, OpenFraction, Range, Rate, RateOrZero, check_fields

Flavor = Literal["keras", "keras_legacy", "torch", "optax"]
FractionBelowOne = Annotated[float, Range(least=0, below=1)]

# The parameters of each flavour with the defaults of its library.
DEFAULTS: Mapping[Flavor, Mapping[str, Any]] = {
    "keras": {"min_delta": 1e-4, "min_lr": 0.0},
    "keras_legacy": {"min_delta": 1e-4, "min_lr": 0.0},
    "torch": {"threshold": 1e-4, "threshold_mode": "rel", "min_lr": 0.0, "eps": 1e-8},
    "optax": {"rtol": 1e-4, "atol": 0.0, "accumulation_size": 1, "min_scale": 0.0},
}

# The flavours' names of the same parameter, for the error about a foreign one.
_MARGIN = {
    "keras": "min_delta",
    "keras_legacy": "min_delta",
    "torch": "threshold and threshold_mode",
    "optax": "rtol and atol",
}
_FLOOR = {"keras": "min_lr", "keras_legacy": "min_lr", "torch": "min_lr", "optax": "min_scale, a multiple"}
_SYNONYMS: Mapping[str, Mapping[str, str]] = {
    **dict.fromkeys(("min_delta", "threshold", "threshold_mode", "rtol", "atol"), _MARGIN),
    **dict.fromkeys(("min_lr", "min_scale"), _FLOOR),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ReduceOnPlateau:
    """A rate that is multiplied by `factor` when `monitor` has not improved for a while.

    flavor: the library; patience and cooldown have different meanings in each.
        keras: `ReduceLROnPlateau` of Keras 3.15. `value + min_delta < best` improves, compared in float32; a
            reduction follows `patience` bad reports (0 is 1); `cooldown` n ignores n - 1 reports; the
            rate is held in float32; at `min_lr` nothing more happens.
        keras_legacy: tf.keras and Keras before 3.11: the same, compared in float64.
        torch: `torch.optim.lr_scheduler.ReduceLROnPlateau`. `threshold` relative or absolute; a reduction at the
            bad report after `patience`; `cooldown` n ignores n; changes up to `eps` are not made.
            Paddle, Lightning, timm and the Hugging Face trainer mean this one.
        optax: `optax.contrib.reduce_on_plateau`. `rtol` and `atol` add up; values are averaged
            `accumulation_size` at a time; what is reduced is a scale, not below `min_scale`.
    monitor: name of the metric. A report without it changes nothing, cooldown included.
    mode: "min", "max", or "auto": from the name where that is safe. Stored resolved.
    nan_policy: of NaN and the infinities. "bad": a report without improvement. "skip": not measured. "error":
        InvalidReport. "library": as the flavour's library; in Keras no value improves on a NaN that comes first.
    initial_learning_rate: the first rate; by default the trainer's, or the end of the previous part.
    schedule: the curve that the reductions multiply, instead of a constant rate.

    With `schedule` the rate is max(schedule(t) * factor^reductions, min_lr), but at most schedule(t). With `warmup` on
    this node, or in a `sequential`, it observes no earlier report and starts from the rate handed over.
    """

    type: ClassVar[str] = "reduce_on_plateau"

    flavor: Flavor = "keras"
    monitor: str = "val_loss"
    mode: Mode = "auto"
    factor: OpenFraction = 0.1
    patience: Reports = 10
    cooldown: Reports = 0
    min_delta: float | None = None
    threshold: Margin | None = None
    threshold_mode: Literal["rel", "abs"] | None = None
    rtol: FractionBelowOne | None = None
    atol: Margin | None = None
    min_lr: RateOrZero | None = None
    min_scale: FractionBelowOne | None = None
    eps: RateOrZero | None = None
    accumulation_size: Count | None = None
    nan_policy: NanPolicy = "bad"
    initial_learning_rate: Rate | None = None
    schedule: Schedule | None = None

    def __post_init__(self) -> None:
        check_fields(self)
        self._refuse_foreign_parameters()
        for name, default in DEFAULTS[self.flavor].items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, default)
        if self.flavor == "keras":
            # Keras 3.11 takes the absolute value, and a callback that has run shows it negated.
            object.__setattr__(self, "min_delta", abs(self.min_delta or 0.0))
        object.__setattr__(self, "mode", self._direction())
        self._check_consistency()

    def bind(self, binding: Binding) -> Self:
        if self.schedule is None:
            return self
        return replace(self, schedule=bind_schedule(self.schedule, binding))

    def start(self, learning_rate: float) -> State:
        state = PlateauState().to_json()
        if self.schedule is not None:
            return state | {"scale": 1.0, "schedule": self.schedule.start(learning_rate)}
        first = learning_rate if self.initial_learning_rate is None else self.initial_learning_rate
        scale = {"scale": 1.0} if self.flavor == "optax" else {}
        return state | scale | {"learning_rate": self.rule.held(first)}

    def observe(self, state: State, point: Point) -> State:
        if self.schedule is not None:
            state = {**state, "schedule": self.schedule.observe(state["schedule"], point)}
        value = point.metrics.get(self.monitor)
        if value is None or not is_counted(value, self.monitor, self.nan_policy):
            return state
        rule = self.rule
        memory, due = observe(rule, PlateauState.from_json(state), value)
        rate = {name: state[name] for name in ("scale", "learning_rate", "schedule") if name in state}
        if not due:
            return memory.to_json() | rate
        reduced = self._reduced(rule, rate, point.position)
        if reduced is None and not rule.pauses_at_floor:
            return memory.to_json() | rate
        return replace(memory, wait=0, cooldown=rule.cooldown).to_json() | (reduced or rate)

    def learning_rate(self, state: State, position: float) -> float:
        if "scale" not in state:
            return float(state["learning_rate"])
        base = self._base(state, position)
        return self.rule.held(min(base, max(base * state["scale"], self.min_lr or 0.0)))

    def momentum(self, state: State, position: float) -> float | None:
        return None if self.schedule is None else self.schedule.momentum(state["schedule"], position)

    def plateau(self, state: State) -> Mapping[str, Any] | None:
        return {"best": state["best"], "wait": state["wait"], "cooldown": state["cooldown"]}

    @property
    def rule(self) -> PlateauSettings:
        """The settings of this flavour."""
        return _rule_of(self)

    def _rule(self) -> PlateauSettings:
        match self.flavor:
            case "keras":
                return self._keras_rule(margin_on_value=True, compared=float32, takes_first=True)
            case "keras_legacy":
                return self._keras_rule()
            case "torch":
                return self._torch_rule(self.threshold or 0.0)
            case "optax":
                return self._optax_rule()

    def _keras_rule(self, **differences: Any) -> PlateauSettings:
        return PlateauSettings(
            lower_is_better=self.mode == "min",
            absolute=self.min_delta or 0.0,
            held=float32,
            reduce_after=max(self.patience, 1),
            cooldown=self.cooldown,
            counts_last=True,
            factor=self.factor,
            floor=self.min_lr or 0.0,
            pauses_at_floor=False,
            takes_non_finite=self.nan_policy == "library",
            **differences,
        )

    def _torch_rule(self, threshold: float) -> PlateauSettings:
        return PlateauSettings(
            lower_is_better=self.mode == "min",
            relative=threshold if self.threshold_mode == "rel" else 0.0,
            absolute=threshold if self.threshold_mode == "abs" else 0.0,
            reduce_after=self.patience + 1,
            cooldown=self.cooldown,
            factor=self.factor,
            floor=self.min_lr or 0.0,
            eps=self.eps,
            takes_non_finite=self.nan_policy == "library",
        )

    def _optax_rule(self) -> PlateauSettings:
        return PlateauSettings(
            lower_is_better=True,
            relative=self.rtol or 0.0,
            absolute=self.atol or 0.0,
            compared=float32,
            accumulation_size=self.accumulation_size or 1,
            reduce_after=self.patience,
            cooldown=self.cooldown,
            factor=self.factor,
            floor=self.min_scale or 0.0,
            takes_non_finite=self.nan_policy == "library",
        )

    def _base(self, state: State, position: float) -> float:
        """The rate that the scale multiplies."""
        if self.schedule is None:
            return float(state["learning_rate"])
        return self.schedule.learning_rate(state["schedule"], position)

    def _reduced(self, rule: PlateauSettings, rate: dict[str, Any], position: float) -> dict[str, Any] | None:
        """The rate members of the state after a reduction; None if they do not change."""
        if self.flavor == "optax":
            scale = rule.reduced(rate["scale"])
            return None if scale is None else {**rate, "scale": scale}
        lower = rule.reduced(self.learning_rate(rate, position))
        if lower is None:
            return None
        if self.schedule is None:
            return {**rate, "learning_rate": lower}
        return {**rate, "scale": rate["scale"] * self.factor}

    def _direction(self) -> Literal["min", "max"]:
        if self.flavor == "keras_legacy" and self.mode == "auto":
            # Old Keras: "acc" anywhere in the name means max, any other name min.
            return "max" if "acc" in self.monitor else "min"
        return resolve_mode(self.mode, self.monitor)

    def _refuse_foreign_parameters(self) -> None:
        for owner, parameters in DEFAULTS.items():
            for name in parameters.keys() - DEFAULTS[self.flavor].keys():
                if getattr(self, name) is None:
                    continue
                instead = _SYNONYMS[name][self.flavor] if name in _SYNONYMS else "nothing of the kind"
                raise InvalidPolicy(f'belongs to flavor "{owner}"; "{self.flavor}" has {instead}', name)

    def _check_consistency(self) -> None:
        if self.threshold_mode == "rel" and self.threshold is not None and self.threshold >= 1:
            raise InvalidPolicy(f'must be below 1 in threshold_mode "rel", is {self.threshold!r}', "threshold")
        if self.flavor == "optax" and self.mode == "max":
            raise InvalidPolicy('must be "min" in flavor "optax": report the negated metric', "mode")
        if self.schedule is not None and self.initial_learning_rate is not None:
            raise InvalidPolicy("belongs to the schedule inside: give it there", "initial_learning_rate")


@lru_cache(maxsize=1024)
def _rule_of(node: ReduceOnPlateau) -> PlateauSettings:
    """Cached: every report reads it several times."""
    return node._rule()  # noqa: SLF001  # its own, kept apart for the cache alone
