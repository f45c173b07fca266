"""Which commands a run takes: what each needs, and what bounds and limits forbid."""

from collections.abc import Mapping
from dataclasses import fields

from remotelr.rules.commands.expiry import parse_timestamp
from remotelr.rules.errors import InvalidCommand
from remotelr.rules.run.command import Command
from remotelr.rules.run.model import Run
from remotelr.rules.run.state import Rate

# What a command takes, beside what all of them do; what it must have first.
_TAKES: Mapping[str, tuple[str, ...]] = {
    "set_learning_rate": ("value", "mode", "until"),
    "scale": ("factor", "value"),
    "release": ("only",),
    "pause": (),
    "resume_schedule": (),
    "replace_policy": ("policy", "state"),
    "extend": ("total", "continuity"),
    "stop": (),
    "note": ("text",),
    "cancel": ("seq",),
    "limits": ("limits",),
}
_NEEDS = ("replace_policy", "extend", "note", "cancel")

_OF_ALL = ("type", "key", "expected_seq", "actor", "reason")
_DEFAULTS = {field.name: field.default for field in fields(Command) if field.name not in _OF_ALL}

# The factors a scale takes.
MIN_FACTOR, MAX_FACTOR = 1e-12, 1e12

# What may change the rate by more than the limits say: it goes back to the policy's curve, or changes no rate.
EXEMPT_FROM_LIMITS = ("release", "pause", "resume_schedule", "stop", "cancel", "limits")


def check_members(run: Run, order: Command, effective_from: int) -> None:
    """Raises InvalidCommand for a command that lacks something, has too much, or makes no sense."""
    takes = _TAKES.get(order.type)
    if takes is None:
        raise InvalidCommand(f"there is no command {order.type!r}", field="type")
    for name, default in _DEFAULTS.items():
        if name not in takes and getattr(order, name) != default:
            raise InvalidCommand(f"{order.type} takes no {name}, not {getattr(order, name)!r}", field=name)
    if order.type in _NEEDS and getattr(order, takes[0]) in (None, ""):
        raise InvalidCommand(f"{order.type} needs a {takes[0]}", field=takes[0])
    if order.type == "set_learning_rate":
        _check_rate(run, order, effective_from)
    if order.type == "scale":
        _check_factor("value" if order.factor is None else "factor", order.multiplier)


def offending_field(order: Command) -> str:
    """The member to name where the limits refuse what a command does to the rate."""
    return {"set_learning_rate": "value", "scale": "factor"}.get(order.type, "type")


def check_limits(run: Run, order: Command, old: Rate, new: Rate) -> None:
    """Raises InvalidCommand where a command leads out of the bounds of the run's experiment."""
    limits = run.state.limits
    if limits is None or order.type not in ("set_learning_rate", "scale"):
        return
    leaves = new.wanted < old.wanted if limits.bounded(new.wanted) > new.wanted else new.wanted > old.wanted
    if limits.bounded(new.wanted) != new.wanted and (leaves or order.type == "set_learning_rate"):
        raise InvalidCommand(
            f"{new.wanted!r} is outside the limits of the experiment: the nearest they allow is "
            f"{limits.bounded(new.wanted)!r}",
            field=offending_field(order),
        )


def _check_rate(run: Run, order: Command, effective_from: int) -> None:
    if order.value is None or not order.value > 0:
        raise InvalidCommand(f"{order.type} needs a value > 0, not {order.value!r}", field="value")
    if run.policy.bounded(order.value) != order.value:
        raise InvalidCommand(
            f"{order.value!r} is outside the policy's bounds: the nearest it allows is "
            f"{run.policy.bounded(order.value)!r}",
            field="value",
        )
    if order.mode not in ("pin", "rebase", "one_shot"):
        raise InvalidCommand(f"there is no mode {order.mode!r}", field="mode")
    if order.until is None:
        return
    if order.mode == "rebase":
        raise InvalidCommand("a rebase has no end: until belongs to pin and one_shot", field="until")
    epoch, time = order.until.epoch, order.until.time
    if (epoch is None) == (time is None):
        raise InvalidCommand("until is an epoch or a time, one of the two", field="until")
    if epoch is not None and epoch <= effective_from:
        raise InvalidCommand(
            f"until epoch {epoch} is over already: the first epoch this command can bear on is {effective_from}",
            field="until",
        )
    if time is not None:
        try:
            parse_timestamp(time)
        except ValueError as error:
            raise InvalidCommand(f"{error}, not {time!r}", field="until") from None


def _check_factor(name: str, factor: float | None) -> None:
    if factor is None or not MIN_FACTOR <= factor <= MAX_FACTOR:
        raise InvalidCommand(f"scale needs a {name} from {MIN_FACTOR:g} to {MAX_FACTOR:g}, not {factor!r}", field=name)
