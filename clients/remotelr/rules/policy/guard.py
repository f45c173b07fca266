"""What a policy does by itself when a loss is no number any more, or explodes."""

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

Act = Literal["hold", "scale", "rollback", "stop"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Guard:
    """What is done about a loss that is not finite, or that explodes.

    monitor: the metric it looks at; lower is better. A report without it is not judged.
    non_finite: NaN and the infinities are trouble. exploding: so is a value above `exploding` times the running
        mean of the values before; null (the default) looks at no mean. A mean that is not above 0 judges nothing.
    window: the mean is that of all values while there are fewer than these, and from then on follows the newer
        ones: mean += (value - mean) / window. after: how many values it needs to be believed. Values that are trouble
        do not enter it.
    action: hold: the next epoch trains with the rate of this one. scale: the rate is multiplied by `factor` from
        now on. rollback: the same, and the trainer is to load the checkpoint of epoch `to`. stop: end.
    factor: of scale and rollback; 1 changes nothing.
    to: `best`, the epoch with the best value so far; `last`, the newest one without trouble; or an epoch's number.
        While there is none, a rollback only scales.
    cooldown: so many reports after it has acted are not judged.
    limit: how often it acts in a run, at most; then: what it does in place of acting once more.

    The schedule does not see a point the guard has acted on. What the guard has multiplied stays, and belongs to the
    policy's curve: a release does not take it back.
    """

    monitor: str = "val_loss"
    non_finite: bool = True
    exploding: Times | None = None
    window: Count = 10
    after: Count = 1
    action: Act = "hold"
    factor: Reduction = 0.5
    to: Literal["best", "last"] | Epoch = "best"
    cooldown: Reports = 0
    limit: Count = 3
    then: Literal["stop", "ignore"] = "stop"

    def __post_init__(self) -> None:
        check_fields(self)
        if not self.non_finite and self.exploding is None:
            raise InvalidPolicy("looks at nothing: let it look at non_finite values or give exploding", "non_finite")


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
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
    def from_json(cls, document: Mapping[str, Any] | None) -> "Memory":
        return AT_REST if document is None else cls(**document)

    def to_json(self) -> Mapping[str, Any] | None:
        """What is not at rest; None for nothing."""
        members = {name: getattr(self, name) for name in Memory.__slots__}
        return {name: value for name, value in members.items() if value != getattr(AT_REST, name)} or None


AT_REST = Memory()


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What a guard made of a point. act: what it does; None when nothing. mean: what the value was compared with."""

    memory: Memory
    act: Act | None = None
    mean: float | None = None


def judge(guard: Guard, memory: Memory, value: float | None, epoch: int, learning_rate: float) -> Finding:
    """What the guard makes of `value` at the end of `epoch`, which was decided to train with `learning_rate`."""
    memory = done(memory)
    if value is None:
        return Finding(memory=memory)
    compared = _compared_with(guard, memory, value)
    exploding = compared is not None and value > compared
    if memory.cooldown:
        memory = replace(memory, cooldown=memory.cooldown - 1)
        return Finding(memory=_learned(guard, memory, value, epoch, exploding))
    if not exploding and (isfinite(value) or not guard.non_finite):
        return Finding(memory=_learned(guard, memory, value, epoch, exploding))
    mean = memory.mean if isfinite(value) else None
    if memory.acts >= guard.limit:
        return Finding(memory=memory, act="stop" if guard.then == "stop" else None, mean=mean)
    act, memory = _acted(guard, memory, epoch, learning_rate)
    return Finding(memory=memory, act=act, mean=mean)


def done(memory: Memory) -> Memory:
    """The memory at the next point: what was for one epoch only is over."""
    if memory.held is None and memory.back_to is None:
        return memory
    return replace(memory, held=None, back_to=None)


def _compared_with(guard: Guard, memory: Memory, value: float) -> float | None:
    """What a value must not exceed; None where nothing can be said."""
    if guard.exploding is None or not isfinite(value) or memory.seen < guard.after or memory.mean <= 0:
        return None
    return guard.exploding * memory.mean


def _learned(guard: Guard, memory: Memory, value: float, epoch: int, exploding: bool) -> Memory:
    if exploding or not isfinite(value):
        return memory
    seen = memory.seen + 1
    # A difference of two finite numbers need not be one.
    mean = memory.mean + (value / min(seen, guard.window) - memory.mean / min(seen, guard.window))
    memory = replace(memory, seen=seen, mean=mean, last=epoch)
    if memory.best is None or value < memory.best:
        return replace(memory, best=value, best_epoch=epoch)
    return memory


def _acted(guard: Guard, memory: Memory, epoch: int, learning_rate: float) -> tuple[Act, Memory]:
    memory = replace(memory, acts=memory.acts + 1, cooldown=guard.cooldown)
    match guard.action:
        case "hold":
            return "hold", replace(memory, held=learning_rate)
        case "stop":
            return "stop", memory
        case "scale":
            return "scale", replace(memory, scale=memory.scale * guard.factor)
        case "rollback":
            back_to = _checkpoint(guard, memory, epoch)
            act: Act = "scale" if back_to is None else "rollback"
            return act, replace(memory, scale=memory.scale * guard.factor, back_to=back_to)


def _checkpoint(guard: Guard, memory: Memory, epoch: int) -> int | None:
    if guard.to == "best":
        return memory.best_epoch
    if guard.to == "last":
        return memory.last
    return guard.to if guard.to < epoch else None
