"""Verb phrases for commands, of the event log and of the command line."""

from collections.abc import Mapping
from typing import Any

from remotelr.rules.policy.codec import policy_to_json
from remotelr.rules.run.command import Command, command_from_payload
from remotelr.rules.run.events import Event

_CONTINUITIES = {
    "keep_lr": "keeping the rate at the joint",
    "keep_fraction": "keeping how much of the curve is done",
    "restart": "beginning its curve again",
}


def describe_command(event: Event) -> str:
    """A clause without a full stop: the actor, the command, its first epoch, its effect on the rate and the reason."""
    command = command_from_payload(event)
    effect = ""
    if event.notes and event.notes["before"] != event.notes["after"]:
        effect = f" ({format_number(event.notes['before'])} becomes {format_number(event.notes['after'])})"
    reason = f': "{command.reason}"' if command.reason else ""
    return f"{command.actor or 'An operator'} {command_text(command, event.effective_from)}{effect}{reason}"


def command_text(command: Command, effective_from: int | None = None) -> str:
    """The command as a verb phrase in the third person.

    effective_from: the first epoch that the command applies to; None leaves it out.
    """
    since = "" if effective_from is None else f" from epoch {effective_from} on"
    match command.type:
        case "set_learning_rate":
            return _set_text(command, effective_from, since)
        case "scale":
            assert command.multiplier is not None
            return f"has the rate {format_factor(command.multiplier)}{since}"
        case "release" if command.only is not None:
            return f"ends the {command.only.replace('_', '-')}{since}"
        case "release":
            return f"releases the rate to the policy{since}"
        case "pause":
            return f"pauses the schedule{since}"
        case "resume_schedule":
            return f"continues the schedule{since}"
        case "replace_policy":
            assert command.policy is not None
            memory = "fresh" if command.state == "reset" else "its state kept where it fits"
            return f"replaces the policy by {policy_to_json(command.policy)['schedule']['type']}, {memory}"
        case "extend":
            return f"has the run end after {command.total} epochs, {_CONTINUITIES[command.continuity]}"
        case "stop":
            return "stops the run"
        case "note":
            return f'notes "{command.text}"'
        case "cancel":
            return f"cancels command {command.seq}"
        case "limits":
            return _limits_text(command)


def _set_text(command: Command, effective_from: int | None, since: str) -> str:
    value, until = format_number(command.value or 0.0), command.until
    if command.mode == "rebase":
        return f"continues the schedule from {value}{since}"
    if until is not None:
        end = f"until epoch {until.epoch}" if until.time is None else f"until {until.time}"
        return f"{'sets' if command.mode == 'one_shot' else 'holds'} {value}{since}, {end}"
    if command.mode == "one_shot":
        return f"sets {value} for {'one epoch' if effective_from is None else f'epoch {effective_from}'}"
    return f"holds {value}{since}"


def _limits_text(command: Command) -> str:
    limits: Mapping[str, Any] = {} if command.limits is None else command.limits.to_json()
    if not limits:
        return "takes the limits away"
    return f"sets the limits {', '.join(f'{name} {format_number(value)}' for name, value in limits.items())}"


def format_number(value: float | str) -> str:
    """Six significant digits; a non-finite number is stored as its name."""
    return value if isinstance(value, str) else f"{value:.6g}"


def times(count: int, noun: str) -> str:
    """`1 epoch`, `2 epochs`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def format_factor(factor: float) -> str:
    """`halved`, `doubled`, `multiplied by 0.1`."""
    return {0.5: "halved", 2.0: "doubled"}.get(factor, f"multiplied by {format_number(factor)}")
