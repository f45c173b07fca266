"""One command to one run: send it, and wait until it is applied."""

import time
from typing import Annotated

import typer

from remotelr_service.cli import command_args
from remotelr_service.cli.runs.policy_splice import start_at_run
from remotelr_service.cli.support import output
from remotelr_service.cli.support.exit_codes import CommandRejected, TimedOut
from remotelr_service.cli.support.http_client import Json, ServiceClient, connect, run_path, without_none
from remotelr_service.cli.support.options import Actor, AsJson, Key, Reason, RunKey, Url, actor_of

_FINAL_STATES = ("applied", "rejected", "expired", "superseded", "cancelled")

_POLL_S = 0.3

# What the sender of a noticed command can do here.
_OPTIONS = {"schedule_observes": " (--mode rebase)"}


def send_to_run(
    *,
    run: RunKey,
    command: Json,
    reason: Reason = None,
    actor: Actor = None,
    expected_seq: Annotated[
        int | None, typer.Option("--expected-seq", help="Reject the command if the run has a newer event than this.")
    ] = None,
    key: Key = None,
    wait_s: Annotated[
        float | None,
        typer.Option("--wait", metavar="SECONDS", help="Wait until the command is applied; exit code 4 on timeout."),
    ] = None,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Send the command to one run and print its state."""
    with connect(url) as service:
        if command.pop(command_args.KEEP_RATE, False):
            command["policy"] = start_at_run(command["policy"], service.get(run_path(run)))
        body = command | without_none(reason=reason, actor=actor_of(actor), expected_seq=expected_seq)
        accepted = service.send_command(run_path(run, "commands"), body, key)
        status = None if wait_s is None else _wait(service, run, accepted["seq"], wait_s)
    if as_json:
        output.print_json(status or accepted)
    else:
        line = f"{run}: command {accepted['seq']} {command_args.summary(command, accepted['effective_from'])}"
        line += command_args.effect(accepted)
        output.print_drawn(output.safe(line if status is None else f"{line}: {_status_line(status)}"))
        for notice in accepted.get("notices", ()):
            output.say(f"note: {notice['detail']}{_OPTIONS.get(notice['code'], '')}")
    if status is not None and status["state"] not in _FINAL_STATES:
        raise TimedOut(
            f"command {accepted['seq']} is {status['state']} after {wait_s:g} s; see `remotelr runs commands {run}`"
        )
    if status is not None and status["state"] != "applied":
        raise CommandRejected(f"command {accepted['seq']} was {_status_line(status)}")


def _wait(service: ServiceClient, run: str, seq: int, wait_s: float) -> Json:
    deadline = time.monotonic() + wait_s
    while True:
        status = service.get(run_path(run, "commands", str(seq)))
        if status["state"] in _FINAL_STATES or time.monotonic() >= deadline:
            return status
        time.sleep(min(_POLL_S, max(deadline - time.monotonic(), 0.01)))


def _status_line(status: Json) -> str:
    line = str(status["state"])
    line += "" if status.get("at_epoch") is None else f" in epoch {status['at_epoch']}"
    line += "" if status.get("rate") is None else f" at rate {output.rate(status['rate'])}"
    return line if not status.get("reason") else f"{line} ({status['reason']})"
