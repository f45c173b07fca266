"""`remotelr bulk`: one command to many runs, after a dry run and a confirmation."""

import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from remotelr_service.cli import command_args
from remotelr_service.cli.support import output
from remotelr_service.cli.support.exit_codes import CommandRejected, TimedOut
from remotelr_service.cli.support.http_client import PAGE, Json, ServiceClient, connect, without_none
from remotelr_service.cli.support.options import (
    Actor,
    AsJson,
    InExperiment,
    Key,
    Reason,
    Url,
    WithStatus,
    WithTag,
    actor_of,
    complete_run,
    tag_pair,
)
from remotelr_service.errors import UserError

app = typer.Typer(help="Send one command to many runs.", no_args_is_help=True, rich_markup_mode=None)

# Rows of a table; the rest is available as JSON.
_SHOWN = 40

# Selecting among many runs takes the service longer than a usual request.
_TIMEOUT_S = 60.0

_POLL_S = 0.2

_COMPARISONS = {">=": "ge", "<=": "le", ">": "gt", "<": "lt"}


def _send_to_selected(
    *,
    command: Json,
    experiment: InExperiment = None,
    tag: WithTag = None,
    status: WithStatus = None,
    run: Annotated[
        list[str] | None,
        typer.Option("--run", "-r", metavar="RUN", help="Only this run; repeatable.", autocompletion=complete_run),
    ] = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(metavar="'NAME>VALUE'", help="Only runs whose last value matches; NAME=nan: not finite."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the effect and store nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Skip the confirmation.")] = False,
    reason: Reason = None,
    actor: Actor = None,
    key: Key = None,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    if command_args.KEEP_RATE in command:
        raise UserError("--keep-rate needs one run's rate; use `remotelr runs replace-policy` for each run")
    body = {
        "selector": _selector(experiment=experiment, tag=tag, status=status, run=run, metric=metric),
        "command": command,
        **without_none(reason=reason, actor=actor_of(actor)),
    }
    with connect(url, timeout_s=_TIMEOUT_S) as service:
        if dry_run:
            preview = _dry_run(service, body, whole=as_json)
            output.show(preview, as_json, lambda: _dry_run_page(preview))
            return
        if not yes:
            _confirm(_dry_run(service, body, whole=False))
        done = _finished(service, service.send_command("/v1/commands", body, key), whole=as_json)
    output.show(done, as_json, lambda: _result_page(done, note=_ended(done["runs"])))
    if done["failed"]:
        raise CommandRejected(f"{done['failed']} of {done['count']} runs rejected the command")


for _name, _function in command_args.FOR_MANY.items():
    app.command(_name)(command_args.combine_arguments(_function, _send_to_selected))


@app.command("show")
def show(
    number: Annotated[int, typer.Argument(metavar="ID", help="The number of the bulk command.")],
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Show the progress of a bulk command."""
    with connect(url) as service:
        found = _results_of(service, number, whole=as_json)
    output.show(found, as_json, lambda: _result_page(found))


def _selector(
    *,
    experiment: str | None,
    tag: list[str] | None,
    status: str | None,
    run: list[str] | None,
    metric: list[str] | None,
) -> Json:
    """The selector. Raises UserError for an empty one: a command to all runs needs an explicit condition."""
    tags = dict(map(tag_pair, tag or ()))
    metrics: dict[str, dict[str, float | bool]] = {}
    for each in metric or ():
        name, bound = _bound(each)
        metrics.setdefault(name, {}).update(bound)
    found = without_none(
        experiment=experiment, status=status, runs=run or None, tags=tags or None, metrics=metrics or None
    )
    if not found:
        raise UserError(
            "no condition selects the runs; use --experiment, --tag, --run or --metric, or --status running for all "
            "running ones"
        )
    return found


def _bound(text: str) -> tuple[str, dict[str, float | bool]]:
    match = re.fullmatch(r"\s*([A-Za-z][\w./-]*?)\s*(>=|<=|>|<|=)\s*(\S+)\s*", text)
    if match is not None:
        name, comparison, value = match.groups()
        if comparison == "=" and value == "nan":
            return name, {"finite": False}
        try:
            return name, {_COMPARISONS[comparison]: float(value)}
        except (KeyError, ValueError):
            pass
    raise UserError(f"--metric must be like 'val_loss>1.5' (>, >=, < or <=) or 'val_loss=nan', got {text!r}")


def _dry_run(service: ServiceClient, body: Json, *, whole: bool) -> Json:
    """The effect of the command on each run; only the first page if not `whole`."""
    dry = {**body, "dry_run": True}
    found = part = service.request("POST", "/v1/commands", params={"limit": PAGE}, body=dry)
    while whole and part["next"] is not None:
        part = service.request("POST", "/v1/commands", params={"limit": PAGE, "after": part["next"]}, body=dry)
        found["runs"] += part["runs"]
        found["failed"] += part["failed"]
        found["next"] = part["next"]
    return found


def _confirm(preview: Json) -> None:
    """Show the dry run and ask for confirmation. Raises UserError without a terminal, and Abort."""
    if not sys.stdin.isatty():
        raise UserError("stdin is not a terminal, so nothing can confirm; use --yes, or --dry-run to see the effect")
    output.console(errors=True).print(_dry_run_page(preview))
    if not preview["count"]:
        raise UserError("the selector matches no run")
    typer.confirm(f"Send this command to {_many(preview['count'])}?", abort=True, err=True)


def _finished(service: ServiceClient, command: Json, *, whole: bool) -> Json:
    """The command after all its runs. Raises TimedOut if no run finishes within `_TIMEOUT_S`."""
    number, done, since = command["id"], -1, time.monotonic()
    with _progress_bar(command["count"]) as show_done:
        while command["status"] != "finished":
            if command["done"] != done:
                done, since = command["done"], time.monotonic()
                show_done(done)
            elif time.monotonic() - since > _TIMEOUT_S:
                raise TimedOut(f"{done} of {command['count']} runs are done; see `remotelr bulk show {number}`")
            time.sleep(_POLL_S)
            command = service.get(f"/v1/commands/{number}", limit=1)
    return _results_of(service, number, whole=whole)


@contextmanager
def _progress_bar(count: int) -> Iterator[Callable[[int], None]]:
    """A function that shows the number of finished runs; without a terminal it does nothing."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress

    console = output.console(errors=True)
    if not console.is_terminal:
        yield lambda _: None
        return
    with Progress(BarColumn(), MofNCompleteColumn(), console=console, transient=True) as progress:
        task = progress.add_task("", total=count)
        yield lambda done: progress.update(task, completed=done)


def _results_of(service: ServiceClient, number: int, *, whole: bool) -> Json:
    """The command with its results; if not `whole`, with one page of them, the failed ones if there are any."""
    path = f"/v1/commands/{number}"
    found = part = service.get(path, limit=PAGE)
    if not whole and found["failed"]:
        return service.get(path, limit=PAGE, failed=True)
    while whole and part["next"] is not None:
        part = service.get(path, limit=PAGE, after=part["next"])
        found["runs"] += part["runs"]
        found["next"] = part["next"]
    return found


def _dry_run_page(preview: Json) -> Any:
    title = f"{command_args.summary(preview['command'])}: {_many(preview['count'])}"
    least = "" if preview["next"] is None else "at least "
    title += f", {least}{preview['failed']} would reject it" if preview["failed"] else ""
    hidden = preview["count"] - _SHOWN
    title += _ended(preview["runs"])
    return _page(title, preview["runs"], f"and {hidden} more: --dry-run --json lists all" if hidden > 0 else None)


def _result_page(done: Json, note: str = "") -> Any:
    accepted = done["done"] - done["failed"]
    title = f"command {done['id']} {command_args.summary(done['command'])}: {accepted} of {_many(done['count'])}"
    title += "" if done["status"] == "finished" else f", {done['count'] - done['done']} pending"
    title += note
    shown = [each for each in done["runs"] if each["code"] is not None] or done["runs"]
    hidden = done["done"] > len(shown[:_SHOWN])
    return _page(title, shown, f"remotelr bulk show {done['id']} --json lists all" if hidden else None)


def _ended(runs: list[Json]) -> str:
    """The listed runs that accept the command although they are over."""
    count = sum(each["code"] is None and each.get("status") not in (None, "running") for each in runs)
    if not count:
        return ""
    verb, subject = ("is", "it begins") if count == 1 else ("are", "they begin")
    return f"; {_many(count)} {verb} not running: this holds if {subject} again"


def _page(title: str, runs: list[Json], more: str | None) -> Any:
    from rich.console import Group
    from rich.text import Text

    parts: list[Any] = [Text(output.safe(title), "bold")]
    if runs:
        parts.append(_results(runs[:_SHOWN]))
    if more is not None:
        parts.append(Text(more, "dim"))
    return Group(*parts)


def _results(runs: list[Json]) -> Any:
    table = output.table("run", "from epoch", "rate", "then", "rejected", right=("from epoch", "rate", "then"))
    for each in runs:
        table.add_row(
            each["run"],
            "" if each["effective_from"] is None else str(each["effective_from"]),
            output.rate(each["before"]),
            output.rate(each["after"]),
            "" if each["code"] is None else output.safe(f"{each['detail']} ({each['code']})"),
            style=None if each["code"] is None else "red",
        )
    return table


def _many(count: int) -> str:
    return "1 run" if count == 1 else f"{count} runs"
