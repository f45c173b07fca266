"""Validation of commands: their members, and the bounds and limits of the run."""

from dataclasses import fields

from remotelr.rules.commands.expiry import parse_timestamp
from remotelr.rules.errors import InvalidCommand
from remotelr.rules.run.command import COMMANDS, Command
from remotelr.rules.run.model import Run
from remotelr.rules.run.state import Rate

# The range of the factor of a scale.
MIN_FACTOR, MAX_FACTOR = 1e-12, 1e12

_OF_ALL = ("type", "key", "expected_seq", "actor", "reason")
_DEFAULTS = {field.name: field.default for field in fields(Command) if field.name not in _OF_ALL}


def check_members(run: Run, command: Command, effective_from: int) -> None:
    """Raises InvalidCommand if a member is missing, does not belong to the type or has an invalid value."""
    if command.type not in COMMANDS:
        raise InvalidCommand(f"type must be one of {', '.join(COMMANDS)}, got {command.type!r}", field="type")
    spec = command.spec
    for name, default in _DEFAULTS.items():
        if name not in spec.fields and getattr(command, name) != default:
            raise InvalidCommand(f"{command.type} takes no {name}, got {getattr(command, name)!r}", field=name)
    if spec.required is not None and getattr(command, spec.required) in (None, ""):
        raise InvalidCommand(f"{command.type} needs a {spec.required}", field=spec.required)
    if command.type == "set_learning_rate":
        _check_rate(run, command, effective_from)
    if command.type == "scale":
        _check_factor("value" if command.factor is None else "factor", command.multiplier)


def check_limits(run: Run, command: Command, old: Rate, new: Rate) -> None:
    """Raises InvalidCommand if a command moves the rate out of the experiment's bounds."""
    limits, field = run.state.limits, command.spec.rate_field
    if limits is None or field is None:
        return
    nearest = limits.bounded(new.wanted)
    leaves = new.wanted < old.wanted if nearest > new.wanted else new.wanted > old.wanted
    if nearest != new.wanted and (leaves or command.type == "set_learning_rate"):
        raise InvalidCommand(
            f"{new.wanted!r} is outside the limits of the experiment; the nearest permitted rate is {nearest!r}",
            field=field,
        )


def _check_rate(run: Run, command: Command, effective_from: int) -> None:
    if command.value is None or not command.value > 0:
        raise InvalidCommand(f"value must be > 0, got {command.value!r}", field="value")
    nearest = run.policy.bounded(command.value)
    if nearest != command.value:
        raise InvalidCommand(
            f"{command.value!r} is outside the policy's bounds; the nearest permitted rate is {nearest!r}",
            field="value",
        )
    if command.mode not in ("pin", "rebase", "one_shot"):
        raise InvalidCommand(f"mode must be pin, rebase or one_shot, got {command.mode!r}", field="mode")
    if command.until is None:
        return
    if command.mode == "rebase":
        raise InvalidCommand("a rebase takes no until; use pin or one_shot", field="until")
    epoch, time = command.until.epoch, command.until.time
    if (epoch is None) == (time is None):
        raise InvalidCommand("until must have either an epoch or a time", field="until")
    if epoch is not None and epoch <= effective_from:
        raise InvalidCommand(
            f"until epoch must be > {effective_from}, the first epoch that this command affects, got {epoch}",
            field="until",
        )
    if time is not None:
        try:
            parse_timestamp(time)
        except ValueError as error:
            raise InvalidCommand(f"{error}, got {time!r}", field="until") from None


def _check_factor(name: str, factor: float | None) -> None:
    if factor is None or not MIN_FACTOR <= factor <= MAX_FACTOR:
        raise InvalidCommand(f"{name} must be from {MIN_FACTOR:g} to {MAX_FACTOR:g}, got {factor!r}", field=name)
