"""What can be ordered, of one run or of many: each function gives the command's JSON, as the service takes it.

The functions' arguments are those of the command line: `runs` and `bulk` both make their commands of them.
"""

from collections.abc import Callable
from enum import StrEnum
from typing import Annotated, Any

import typer

from remotelr_service.cli.support.json_input import read_object
from remotelr_service.errors import UserError

Order = dict[str, Any]

# No member of the service's: who orders one run makes a policy of it that begins where the run is.
KEEP_RATE = "keep_rate"


class Mode(StrEnum):
    """How a rate is set."""

    PIN = "pin"
    REBASE = "rebase"
    ONE_SHOT = "one_shot"


class State(StrEnum):
    """What a plateau remembers when the policy is replaced."""

    KEEP = "keep"
    RESET = "reset"


class Continuity(StrEnum):
    """Where on the longer curve the run goes on."""

    KEEP_LR = "keep_lr"
    KEEP_FRACTION = "keep_fraction"
    RESTART = "restart"


def set_lr(
    rate: Annotated[float, typer.Argument(metavar="RATE", help="The learning rate.")],
    mode: Annotated[
        Mode,
        typer.Option(
            help="pin: hold it. rebase: go on from it as the schedule goes on. one_shot: one epoch, then the schedule."
        ),
    ] = Mode.PIN,
    until_epoch: Annotated[
        int | None, typer.Option("--until-epoch", metavar="EPOCH", help="Hold it before this epoch only.")
    ] = None,
    until_time: Annotated[
        str | None, typer.Option("--until-time", metavar="ISO", help="Hold it until then: 2026-12-24T18:00:00Z.")
    ] = None,
) -> Order:
    """Set the learning rate.

    It holds from the first epoch that has no rate yet: what a trainer was told is never changed.
    """
    if until_epoch is not None and until_time is not None:
        raise UserError("a rate is held until an epoch or until a time: give one of --until-epoch, --until-time")
    order: Order = {"type": "set_learning_rate", "value": rate}
    if mode is not Mode.PIN:
        order["mode"] = mode.value
    if until_epoch is not None:
        order["until"] = {"epoch": until_epoch}
    if until_time is not None:
        order["until"] = {"time": until_time}
    return order


def scale(factor: Annotated[float, typer.Argument(metavar="FACTOR", help="0.5 halves it.")]) -> Order:
    """Multiply the rate; the schedule goes on."""
    return {"type": "scale", "factor": factor}


def release() -> Order:
    """Go back to the policy's own curve.

    No pin, no factor, no stop.
    """
    return {"type": "release"}


def pause() -> Order:
    """Hold the rate in force, until `resume`."""
    return {"type": "pause"}


def resume() -> Order:
    """Let the schedule go on that `pause` held."""
    return {"type": "resume_schedule"}


def stop() -> Order:
    """Tell the trainer to end with its epoch."""
    return {"type": "stop"}


def extend(
    total: Annotated[int, typer.Argument(metavar="TOTAL", help="The new length, in the policy's unit.")],
    continuity: Annotated[
        Continuity,
        typer.Option(
            help="keep_lr: go on from the rate in force. keep_fraction: from the same part of the curve. "
            "restart: from its beginning."
        ),
    ] = Continuity.KEEP_LR,
) -> Order:
    """Make it longer than it was planned."""
    return {"type": "extend", "total": total, "continuity": continuity.value}


def replace_policy(
    policy: Annotated[str, typer.Argument(metavar="POLICY", help="A file of JSON, JSON itself, or - for stdin.")],
    state: Annotated[State, typer.Option(help="What a plateau remembers of the run so far.")] = State.KEEP,
    keep_rate: Annotated[
        bool, typer.Option("--keep-rate", help="The new curve begins here, at the rate in force.")
    ] = False,
) -> Order:
    """Give another policy from here on."""
    order: Order = {"type": "replace_policy", "policy": read_object(policy), "state": state.value}
    return order | {KEEP_RATE: True} if keep_rate else order


def note(text: Annotated[str, typer.Argument(metavar="TEXT", help="What to remember.")]) -> Order:
    """Write a line into the log."""
    return {"type": "note", "text": text}


def cancel(seq: Annotated[int, typer.Argument(metavar="SEQ", help="The number of the command in the log.")]) -> Order:
    """Take back a command not yet delivered."""
    return {"type": "cancel", "seq": seq}


# What the terminal calls them. `cancel` names a command of one run, so it is no order for many.
FOR_MANY: dict[str, Callable[..., Order]] = {
    "set-lr": set_lr,
    "scale": scale,
    "release": release,
    "pause": pause,
    "resume": resume,
    "extend": extend,
    "replace-policy": replace_policy,
    "stop": stop,
    "note": note,
}
FOR_ONE: dict[str, Callable[..., Order]] = {**FOR_MANY, "cancel": cancel}


def in_words(order: Order) -> str:
    """A command as a person would say it."""
    value = order.get("value", order.get("factor"))
    words = {
        "set_learning_rate": f"set the rate to {value}",
        "scale": f"multiply the rate by {value}",
        "release": "go back to the schedule",
        "pause": "hold the rate",
        "resume_schedule": "let the schedule go on",
        "replace_policy": f"replace the policy ({order.get('state', 'keep')} state)",
        "extend": f"extend to {order.get('total')} ({order.get('continuity')})",
        "stop": "stop",
        "note": f"note: {order.get('text')}",
        "cancel": f"cancel command {order.get('seq')}",
        "limits": "take the experiment's limits",
    }
    said = words.get(str(order.get("type")), str(order.get("type")))
    mode, until = order.get("mode"), order.get("until") or {}
    said += "" if mode in (None, "pin") else f" ({mode})"
    said += f" until epoch {until['epoch']}" if "epoch" in until else ""
    return said + (f" until {until['time']}" if "time" in until else "")
