"""An order to one run: given, and waited for until the trainer has done it."""

import time
from typing import Annotated

import typer

from remotelr_service.cli import command_args
from remotelr_service.cli.runs.policy_splice import beginning_here
from remotelr_service.cli.support import output
from remotelr_service.cli.support.exit_codes import CommandRejected, TimedOut
from remotelr_service.cli.support.http_client import Json, ServiceClient, connect, run_path
from remotelr_service.cli.support.options import Actor, AsJson, Key, Reason, RunKey, Url, actor_of, given

# The lives of a command that change no more.
_OVER = ("applied", "rejected", "expired", "superseded", "cancelled")

_POLL_S = 0.3


def order_one(
    *,
    run: RunKey,
    order: command_args.Order,
    reason: Reason = None,
    actor: Actor = None,
    expected_seq: Annotated[
        int | None, typer.Option("--expected-seq", help="Refuse if anything has happened to the run since this seq.")
    ] = None,
    key: Key = None,
    wait_s: Annotated[
        float | None,
        typer.Option(
            "--wait", metavar="SECONDS", help="Wait until the trainer has done it; exit code 4 if it has not."
        ),
    ] = None,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Give the order to one run, and say what came of it."""
    with connect(url) as desk:
        if order.pop(command_args.KEEP_RATE, False):
            seen = desk.get(run_path(run))
            order["policy"] = beginning_here(order["policy"], seen)
        body = order | given(reason=reason, actor=actor_of(actor), expected_seq=expected_seq)
        noted = desk.order(run_path(run, "commands"), body, key)
        life = None if wait_s is None else _wait(desk, run, noted["seq"], wait_s)
    if as_json:
        output.print_json(life or noted)
    else:
        said = f"{run}: {command_args.in_words(order)}: command {noted['seq']}, from epoch {noted['effective_from']} on"
        output.print_drawn(output.safe(said if life is None else f"{said}: {_life_in_words(life)}"))
    if life is not None and life["state"] not in _OVER:
        raise TimedOut(
            f"after {wait_s:g} s command {noted['seq']} is {life['state']}: see remotelr runs commands {run}"
        )
    if life is not None and life["state"] != "applied":
        raise CommandRejected(f"command {noted['seq']} was {_life_in_words(life)}")


def _wait(desk: ServiceClient, run: str, seq: int, wait_s: float) -> Json:
    deadline = time.monotonic() + wait_s
    while True:
        life = desk.get(run_path(run, "commands", str(seq)))
        if life["state"] in _OVER or time.monotonic() >= deadline:
            return life
        time.sleep(min(_POLL_S, max(deadline - time.monotonic(), 0.01)))


def _life_in_words(life: Json) -> str:
    said = str(life["state"])
    said += "" if life.get("at_epoch") is None else f" in epoch {life['at_epoch']}"
    said += "" if life.get("rate") is None else f" at rate {output.rate(life['rate'])}"
    return said if not life.get("reason") else f"{said} ({life['reason']})"
