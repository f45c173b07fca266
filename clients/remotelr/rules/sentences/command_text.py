"""What an operator ordered, in words."""

from collections.abc import Mapping
from typing import Any

from remotelr.rules.run.command import Command, command_from_payload
from remotelr.rules.run.events import Event
from remotelr.rules.sentences.wording import format_factor, format_number

_CONTINUITIES = {
    "keep_lr": "keeping the rate at the joint",
    "keep_fraction": "keeping how much of the curve is done",
    "restart": "beginning its curve again",
}


def describe_command(event: Event) -> str:
    """Who ordered what, from which epoch on, what it does to the rate, and why; without a full stop."""
    order = command_from_payload(event)
    effect = ""
    if event.notes and event.notes["before"] != event.notes["after"]:
        effect = f" ({format_number(event.notes['before'])} becomes {format_number(event.notes['after'])})"
    reason = f': "{order.reason}"' if order.reason else ""
    return f"{order.actor or 'An operator'} {_command_text(order, event)}{effect}{reason}"


def _command_text(order: Command, event: Event) -> str:
    since = f"from epoch {event.effective_from} on"
    match order.type:
        case "set_learning_rate":
            return _set(order, event.effective_from, since)
        case "scale":
            assert order.multiplier is not None
            return f"has the rate {format_factor(order.multiplier)} {since}"
        case "release" if order.only is not None:
            return f"ends the {order.only.replace('_', '-')} {since}"
        case "release":
            return f"gives the rate back to the policy {since}"
        case "pause":
            return f"pauses the schedule {since}"
        case "resume_schedule":
            return f"lets the schedule go on {since}"
        case "replace_policy":
            memory = "fresh" if order.state == "reset" else "what it remembers kept where it fits"
            return f"replaces the policy by {_type_of(event.payload['policy'])}, {memory}"
        case "extend":
            return f"has the run end after {order.total} epochs, {_CONTINUITIES[order.continuity]}"
        case "stop":
            return "stops the run"
        case "note":
            return f'notes "{order.text}"'
        case "cancel":
            return f"cancels command {order.seq}"
        case "limits":
            return _limits_text(order)


def _set(order: Command, effective_from: int, since: str) -> str:
    value, until = format_number(order.value or 0.0), order.until
    if order.mode == "rebase":
        return f"lets the schedule go on from {value} {since}"
    if until is not None:
        end = f"until epoch {until.epoch}" if until.time is None else f"until {until.time}"
        return f"{'sets' if order.mode == 'one_shot' else 'holds'} {value} {since}, {end}"
    return f"sets {value} for epoch {effective_from}" if order.mode == "one_shot" else f"holds {value} {since}"


def _limits_text(order: Command) -> str:
    limits: Mapping[str, Any] = {} if order.limits is None else order.limits.to_json()
    if not limits:
        return "takes the limits away"
    return f"sets the limits {', '.join(f'{name} {format_number(value)}' for name, value in limits.items())}"


def _type_of(policy: Mapping[str, Any]) -> str:
    kind: str = policy["schedule"]["type"]
    return kind
