"""The guard of a policy: reacts when a loss is not finite or explodes."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import isfinite
from typing import Annotated, Any, Literal

from remotelr.rules.errors import InvalidPolicy
from remotelr.rules.plateau.monitor import Reports
from remotelr.rules.values.fields import Count, Range, check_fields

Times = Annotated[float, Range(above=1, most=1e9)]
Reduction = Annotated[float, Range(above=0, most=1)]
Epoch = Annotated[int, Range(least=0, most=10**9)]

GuardAction = Literal["hold", "scale", "rollback", "stop"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Guard:
    """Reacts to a loss that is not finite or explodes.

    monitor: the metric the guard evaluates; lower is better. A report without it is not evaluated.
    non_finite: NaN and the infinities trigger the guard.
    explosion_factor: a value above this many times the running mean of the earlier values triggers the guard; null
        (the default) disables the comparison. A mean at or below 0 triggers nothing.
    window: number of values in the running mean: mean += (value - mean) / min(count, window). Values that trigger
        the guard do not enter it.
    min_samples: number of values the running mean needs before it is compared.
    action: hold: the next epoch keeps the rate of this one. scale: the rate is multiplied by `factor` from now on.
        rollback: the same, and the trainer loads the checkpoint of epoch `rollback_to`. stop: the run ends.
    factor: multiplier of scale and rollback, in (0, 1].
    rollback_to: `best`: the epoch with the best value; `last`: the newest epoch that did not trigger the guard; or an
        epoch number. If there is no such epoch, a rollback only scales.
    cooldown: number of reports that are not evaluated after an action.
    max_actions: most actions in one run. on_max_actions: what happens instead of one more action.

    The schedule does not observe a point on which the guard acts. The factors of a guard belong to the policy's
    curve: a release does not remove them.
    """

    monitor: str = "val_loss"
    non_finite: bool = True
    explosion_factor: Times | None = None
    window: Count = 10
    min_samples: Count = 1
    action: GuardAction = "hold"
    factor: Reduction = 0.5
    rollback_to: Literal["best", "last"] | Epoch = "best"
    cooldown: Reports = 0
    max_actions: Count = 3
    on_max_actions: Literal["stop", "ignore"] = "stop"

    def __post_init__(self) -> None:
        check_fields(self)
        if not self.non_finite and self.explosion_factor is None:
            raise InvalidPolicy("must be true when explosion_factor is not set", "non_finite")


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardState:
    """What a guard remembers.

    seen, mean: values in the running mean. best, best_epoch, last: of the points without trouble.
    acts: how often it acted. cooldown: reports not to judge. scale: what it has multiplied the rate with.
    held: the rate of the epoch decided last, where it holds one. back_to: where it has just sent the trainer back to.
    """

    seen: int = 0
    mean: float = 0.0
    best: float | None = None
    best_epoch: int | None = None
    last: int | None = None
    acts: int = 0
    cooldown: int = 0
    scale: float = 1.0
    held: float | None = None
    back_to: int | None = None

    @classmethod
    def from_json(cls, document: Mapping[str, Any] | None) -> "GuardState":
        return AT_REST if document is None else cls(**document)

    def to_json(self) -> Mapping[str, Any] | None:
        """What is not at rest; None for nothing."""
        members = {name: getattr(self, name) for name in GuardState.__slots__}
        return {name: value for name, value in members.items() if value != getattr(AT_REST, name)} or None


AT_REST = GuardState()


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardResult:
    """What a guard made of a point. act: what it does; None when nothing. mean: what the value was compared with."""

    memory: GuardState
    act: GuardAction | None = None
    mean: float | None = None


def evaluate(guard: Guard, memory: GuardState, value: float | None, epoch: int, learning_rate: float) -> GuardResult:
    """What the guard makes of `value` at the end of `epoch`, which was decided to train with `learning_rate`."""
    memory = clear_per_epoch(memory)
    if value is None:
        return GuardResult(memory=memory)
    compared = _threshold(guard, memory, value)
    exploding = compared is not None and value > compared
    if memory.cooldown:
        memory = replace(memory, cooldown=memory.cooldown - 1)
        return GuardResult(memory=_with_value(guard, memory, value, epoch, exploding))
    if not exploding and (isfinite(value) or not guard.non_finite):
        return GuardResult(memory=_with_value(guard, memory, value, epoch, exploding))
    mean = memory.mean if isfinite(value) else None
    if memory.acts >= guard.max_actions:
        return GuardResult(memory=memory, act="stop" if guard.on_max_actions == "stop" else None, mean=mean)
    act, memory = _apply_action(guard, memory, epoch, learning_rate)
    return GuardResult(memory=memory, act=act, mean=mean)


def clear_per_epoch(memory: GuardState) -> GuardState:
    """The memory at the next point: what was for one epoch only is over."""
    if memory.held is None and memory.back_to is None:
        return memory
    return replace(memory, held=None, back_to=None)


def _threshold(guard: Guard, memory: GuardState, value: float) -> float | None:
    """What a value must not exceed; None where nothing can be said."""
    if guard.explosion_factor is None or not isfinite(value) or memory.seen < guard.min_samples or memory.mean <= 0:
        return None
    return guard.explosion_factor * memory.mean


def _with_value(guard: Guard, memory: GuardState, value: float, epoch: int, exploding: bool) -> GuardState:
    if exploding or not isfinite(value):
        return memory
    seen = memory.seen + 1
    # A difference of two finite numbers need not be one.
    mean = memory.mean + (value / min(seen, guard.window) - memory.mean / min(seen, guard.window))
    memory = replace(memory, seen=seen, mean=mean, last=epoch)
    if memory.best is None or value < memory.best:
        return replace(memory, best=value, best_epoch=epoch)
    return memory


def _apply_action(guard: Guard, memory: GuardState, epoch: int, learning_rate: float) -> tuple[GuardAction, GuardState]:
    memory = replace(memory, acts=memory.acts + 1, cooldown=guard.cooldown)
    match guard.action:
        case "hold":
            return "hold", replace(memory, held=learning_rate)
        case "stop":
            return "stop", memory
        case "scale":
            return "scale", replace(memory, scale=memory.scale * guard.factor)
        case "rollback":
            back_to = _rollback_epoch(guard, memory, epoch)
            act: GuardAction = "scale" if back_to is None else "rollback"
            return act, replace(memory, scale=memory.scale * guard.factor, back_to=back_to)


def _rollback_epoch(guard: Guard, memory: GuardState, epoch: int) -> int | None:
    if guard.rollback_to == "best":
        return memory.best_epoch
    if guard.rollback_to == "last":
        return memory.last
    return guard.rollback_to if guard.rollback_to < epoch else None
