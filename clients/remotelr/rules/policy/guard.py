"""The guard of a policy: reacts when a loss is not finite or explodes."""

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
    """The state of a guard between reports.

    seen, mean: values in the running mean. best, best_epoch, last: of the points that did not trigger the guard.
    acts: number of actions. cooldown: reports that are not evaluated. scale: the product of its factors.
    held, back_to: of the newest decision the rate that it holds, and the epoch of its rollback.
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

    def to_json(self) -> dict[str, Any]:
        """The members that differ from their defaults."""
        members = {name: getattr(self, name) for name in GuardState.__slots__}
        return {name: value for name, value in members.items() if value != getattr(NO_GUARD_STATE, name)}


NO_GUARD_STATE = GuardState()


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardResult:
    """The evaluation of one point. action: None if the guard does not act. mean: the value is compared with it."""

    state: GuardState
    action: GuardAction | None = None
    mean: float | None = None


def evaluate(guard: Guard, state: GuardState, value: float | None, epoch: int, learning_rate: float) -> GuardResult:
    """Evaluate `value` at the end of `epoch`, which was trained with `learning_rate`."""
    state = clear_per_epoch(state)
    if value is None:
        return GuardResult(state=state)
    compared = _threshold(guard, state, value)
    exploding = compared is not None and value > compared
    if state.cooldown:
        state = replace(state, cooldown=state.cooldown - 1)
        return GuardResult(state=_with_value(guard, state, value, epoch, exploding))
    if not exploding and (isfinite(value) or not guard.non_finite):
        return GuardResult(state=_with_value(guard, state, value, epoch, exploding))
    mean = state.mean if isfinite(value) else None
    if state.acts >= guard.max_actions:
        return GuardResult(state=state, action="stop" if guard.on_max_actions == "stop" else None, mean=mean)
    action, state = _apply_action(guard, state, epoch, learning_rate)
    return GuardResult(state=state, action=action, mean=mean)


def clear_per_epoch(state: GuardState) -> GuardState:
    """The state at the next point, without what was for one epoch only."""
    if state.held is None and state.back_to is None:
        return state
    return replace(state, held=None, back_to=None)


def _threshold(guard: Guard, state: GuardState, value: float) -> float | None:
    """The largest value that does not trigger the guard; None if there is no comparison."""
    if guard.explosion_factor is None or not isfinite(value) or state.seen < guard.min_samples or state.mean <= 0:
        return None
    return guard.explosion_factor * state.mean


def _with_value(guard: Guard, state: GuardState, value: float, epoch: int, exploding: bool) -> GuardState:
    if exploding or not isfinite(value):
        return state
    seen = state.seen + 1
    # Divided first: the difference of two finite numbers may overflow.
    mean = state.mean + (value / min(seen, guard.window) - state.mean / min(seen, guard.window))
    state = replace(state, seen=seen, mean=mean, last=epoch)
    if state.best is None or value < state.best:
        return replace(state, best=value, best_epoch=epoch)
    return state


def _apply_action(guard: Guard, state: GuardState, epoch: int, learning_rate: float) -> tuple[GuardAction, GuardState]:
    state = replace(state, acts=state.acts + 1, cooldown=guard.cooldown)
    match guard.action:
        case "hold":
            return "hold", replace(state, held=learning_rate)
        case "stop":
            return "stop", state
        case "scale":
            return "scale", replace(state, scale=state.scale * guard.factor)
        case "rollback":
            back_to = _rollback_epoch(guard, state, epoch)
            action: GuardAction = "scale" if back_to is None else "rollback"
            return action, replace(state, scale=state.scale * guard.factor, back_to=back_to)


def _rollback_epoch(guard: Guard, state: GuardState, epoch: int) -> int | None:
    if guard.rollback_to == "best":
        return state.best_epoch
    if guard.rollback_to == "last":
        return state.last
    return guard.rollback_to if guard.rollback_to < epoch else None
