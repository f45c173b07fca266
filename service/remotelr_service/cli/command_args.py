"""The command types of the command line: each function maps arguments to the JSON that the service accepts.

`runs` and `bulk` build their subcommands from these functions and from their own options (`combine_arguments`).
A new command type is one function and its entry in `FOR_ONE`.
"""

import inspect
from collections.abc import Callable
from typing import Annotated, Any, Literal

import typer

from remotelr_service.cli.support.http_client import Json
from remotelr_service.cli.support.json_input import read_object
from remotelr_service.errors import UserError

# Not sent to the service: `runs replace-policy` rewrites the policy so that it starts at the current rate.
KEEP_RATE = "keep_rate"


# Not imported from the rules: their import would delay every command.
Mode = Literal["pin", "rebase", "one_shot"]
StateMode = Literal["keep", "reset"]
Continuity = Literal["keep_lr", "keep_fraction", "restart"]


def set_lr(
    rate: Annotated[float, typer.Argument(metavar="RATE", help="The learning rate.")],
    mode: Annotated[
        Mode,
        typer.Option(
            help="pin: hold the rate. rebase: continue the schedule from it. one_shot: hold it for one epoch."
        ),
    ] = "pin",
    until_epoch: Annotated[
        int | None, typer.Option("--until-epoch", metavar="EPOCH", help="Hold the rate up to this epoch, exclusive.")
    ] = None,
    until_time: Annotated[
        str | None,
        typer.Option("--until-time", metavar="ISO", help="Hold the rate until this time: 2026-12-24T18:00:00Z."),
    ] = None,
) -> Json:
    """Set the learning rate.

    The rate applies from the first undecided epoch on. Decisions already sent to a trainer do not change.
    """
    if until_epoch is not None and until_time is not None:
        raise UserError("--until-epoch and --until-time exclude each other; give one of them")
    command: Json = {"type": "set_learning_rate", "value": rate}
    if mode != "pin":
        command["mode"] = mode
    if until_epoch is not None:
        command["until"] = {"epoch": until_epoch}
    if until_time is not None:
        command["until"] = {"time": until_time}
    return command


def scale(factor: Annotated[float, typer.Argument(metavar="FACTOR", help="0.5 halves the rate.")]) -> Json:
    """Multiply the rate; the schedule continues."""
    return {"type": "scale", "factor": factor}


def release() -> Json:
    """Return to the policy's own curve.

    Removes the pin, the factor and the stop.
    """
    return {"type": "release"}


def pause() -> Json:
    """Hold the current rate until `resume`."""
    return {"type": "pause"}


def resume() -> Json:
    """Continue the schedule after `pause`."""
    return {"type": "resume_schedule"}


def stop() -> Json:
    """Stop the trainer at the end of its epoch."""
    return {"type": "stop"}


def extend(
    total: Annotated[int, typer.Argument(metavar="TOTAL", help="The new length, in the policy's unit.")],
    continuity: Annotated[
        Continuity,
        typer.Option(
            help="keep_lr: continue from the current rate. keep_fraction: from the same fraction of the curve. "
            "restart: from its start."
        ),
    ] = "keep_lr",
) -> Json:
    """Extend the run beyond its planned length."""
    return {"type": "extend", "total": total, "continuity": continuity}


def replace_policy(
    policy: Annotated[str, typer.Argument(metavar="POLICY", help="A JSON file, JSON itself, or - for stdin.")],
    state: Annotated[StateMode, typer.Option(help="Keep or reset the plateau's state.")] = "keep",
    keep_rate: Annotated[
        bool, typer.Option("--keep-rate", help="Start the new curve at the next epoch, at the current rate.")
    ] = False,
) -> Json:
    """Replace the policy from the next epoch on."""
    command: Json = {"type": "replace_policy", "policy": read_object(policy), "state": state}
    return command | {KEEP_RATE: True} if keep_rate else command


def note(text: Annotated[str, typer.Argument(metavar="TEXT", help="The remark.")]) -> Json:
    """Write a remark into the log."""
    return {"type": "note", "text": text}


def cancel(seq: Annotated[int, typer.Argument(metavar="SEQ", help="The command's number in the run's log.")]) -> Json:
    """Cancel a command that is not delivered yet."""
    return {"type": "cancel", "seq": seq}


# By the name of the subcommand, in the order of the help page.
FOR_ONE: dict[str, Callable[..., Json]] = {
    function.__name__.replace("_", "-"): function
    for function in (set_lr, scale, release, pause, resume, extend, replace_policy, stop, note, cancel)
}
# `cancel` takes the number of a command in one run's log, so it has no bulk form.
FOR_MANY = {name: function for name, function in FOR_ONE.items() if function is not cancel}


def summary(command: Json, effective_from: int | None = None) -> str:
    """The command as a verb phrase; of a command type that this release does not know, its name.

    effective_from: the first epoch that the command applies to.
    """
    from remotelr.rules import RulesError, command_from_json, command_text

    try:
        return command_text(command_from_json(command), effective_from)
    except (AssertionError, RulesError, TypeError):
        return str(command.get("type"))


def effect(accepted: Json) -> str:
    """What an accepted command does to the rate of its first epoch; empty if it changes nothing."""
    before, after = accepted.get("before"), accepted.get("after")
    return "" if before is None or after is None or before == after else f", {before:.6g} becomes {after:.6g}"


def combine_arguments(build: Callable[..., Json], send: Callable[..., None]) -> Callable[..., None]:
    """A function with the arguments of both: it passes the command that `build` returns to `send` as `command`.

    Name and help are those of `build`. The positional arguments of `send` come first.
    """
    building = list(inspect.signature(build).parameters.values())
    sending = [each for each in inspect.signature(send).parameters.values() if each.name != "command"]
    names = {each.name for each in building}

    def combined(**given: Any) -> None:
        command = build(**{name: value for name, value in given.items() if name in names})
        send(command=command, **{name: value for name, value in given.items() if name not in names})

    first = [each for each in sending if each.default is inspect.Parameter.empty]
    rest = [each for each in sending if each.default is not inspect.Parameter.empty]
    parameters = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in (*first, *building, *rest)]
    combined.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # typer reads it
    combined.__annotations__ = {each.name: each.annotation for each in parameters}
    combined.__doc__ = build.__doc__
    combined.__name__ = build.__name__
    return combined
