"""`remotelr bulk`: one command to many runs. What it would do is shown first, and asked."""

import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from remotelr_service.cli import command_args
from remotelr_service.cli.merging import combine_arguments
from remotelr_service.cli.support import output
from remotelr_service.cli.support.exit_codes import CommandRejected, TimedOut
from remotelr_service.cli.support.http_client import Json, ServiceClient, connect
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
    given,
    tag_pair,
)
from remotelr_service.errors import UserError

app = typer.Typer(help="Order many runs at once.", no_args_is_help=True, rich_markup_mode=None)

# A table that nobody reads to its end is no rehearsal.
_SHOWN = 40

# One part of the list of runs: the service gives no longer ones.
_PAGE = 200

# To look through many runs may take the service longer than one of its usual answers.
_TIMEOUT_S = 60.0

_POLL_S = 0.2

_COMPARISONS = {">=": "ge", "<=": "le", ">": "gt", "<": "lt"}


def _order(
    *,
    order: command_args.Order,
    experiment: InExperiment = None,
    tag: WithTag = None,
    status: WithStatus = None,
    run: Annotated[
        list[str] | None,
        typer.Option("--run", "-r", metavar="RUN", help="These runs alone.", autocompletion=complete_run),
    ] = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(metavar="'NAME>VALUE'", help="Only runs that last measured this; NAME=nan: no finite number."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would come of it, and change nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    reason: Reason = None,
    actor: Actor = None,
    key: Key = None,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    if command_args.KEEP_RATE in order:
        raise UserError("each run has a rate of its own to keep: order it to one run after the other")
    body = {
        "selector": _selector(experiment=experiment, tag=tag, status=status, run=run, metric=metric),
        "command": order,
        **given(reason=reason, actor=actor_of(actor)),
    }
    with connect(url, timeout_s=_TIMEOUT_S) as desk:
        if dry_run:
            rehearsed = _rehearsal(desk, body, whole=as_json)
            output.show(rehearsed, as_json, lambda: _rehearsal_page(rehearsed))
            return
        if not yes:
            _ask(_rehearsal(desk, body, whole=False))
        done = _finished(desk, desk.order("/v1/commands", body, key), whole=as_json)
    output.show(done, as_json, lambda: _result_page(done))
    if done["failed"]:
        raise CommandRejected(f"{done['failed']} of {done['count']} runs refused it")


for _name, _function in command_args.FOR_MANY.items():
    app.command(_name)(combine_arguments(_function, _order))


@app.command("show")
def show(
    number: Annotated[int, typer.Argument(metavar="ID", help="The number of the command to many runs.")],
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Show how far a command to many runs is."""
    with connect(url) as desk:
        found = _results_of(desk, number, whole=as_json)
    output.show(found, as_json, lambda: _result_page(found))


def _selector(
    *,
    experiment: str | None,
    tag: list[str] | None,
    status: str | None,
    run: list[str] | None,
    metric: list[str] | None,
) -> Json:
    """What is selected. Raises Mistake for nothing at all: an order to every run is said in so many words."""
    tags = dict(map(tag_pair, tag or ()))
    metrics: dict[str, dict[str, float | bool]] = {}
    for each in metric or ():
        name, bound = _bound(each)
        metrics.setdefault(name, {}).update(bound)
    found = given(experiment=experiment, status=status, runs=run or None, tags=tags or None, metrics=metrics or None)
    if not found:
        raise UserError("say which runs: --experiment, --tag, --run, --metric; --status running is every running run")
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
    raise UserError(
        f"a metric is selected as in 'val_loss>1.5', with one of > >= < <=, or 'val_loss=nan'; not {text!r}"
    )


def _rehearsal(desk: ServiceClient, body: Json, *, whole: bool) -> Json:
    """What would come of it for each run; unless the `whole` is wanted, for as many as anybody reads."""
    found = part = desk.ask("POST", "/v1/commands", params={"limit": _PAGE}, body={**body, "dry_run": True})
    while whole and part["next"] is not None:
        params = {"limit": _PAGE, "after": part["next"]}
        part = desk.ask("POST", "/v1/commands", params=params, body={**body, "dry_run": True})
        found["runs"] += part["runs"]
        found["failed"] += part["failed"]
        found["next"] = part["next"]
    return found


def _ask(rehearsed: Json) -> None:
    """Show what would come of it, and go on only if that is wanted. Raises Mistake, and Abort."""
    if not sys.stdin.isatty():
        raise UserError("nobody is here to be asked: say --yes, or --dry-run to see what would come of it")
    output.console(errors=True).print(_rehearsal_page(rehearsed))
    if not rehearsed["count"]:
        raise UserError("no run is selected")
    typer.confirm(f"Order this to {_many(rehearsed['count'])}?", abort=True, err=True)


def _finished(desk: ServiceClient, noted: Json, *, whole: bool) -> Json:
    """The command when every run has had its turn. Raises NotInTime when nothing moves for long."""
    number, done, since = noted["id"], -1, time.monotonic()
    with _progress(noted["count"]) as show:
        while noted["status"] != "finished":
            if noted["done"] != done:
                done, since = noted["done"], time.monotonic()
                show(done)
            elif time.monotonic() - since > _TIMEOUT_S:
                raise TimedOut(f"{done} of {noted['count']} runs have it: remotelr bulk show {number} says how it goes")
            time.sleep(_POLL_S)
            noted = desk.get(f"/v1/commands/{number}", limit=1)
    return _results_of(desk, number, whole=whole)


@contextmanager
def _progress(count: int) -> Iterator[Callable[[int], None]]:
    """Shows how many are done, to who looks: gives a function of their number."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress

    console = output.console(errors=True)
    if not console.is_terminal:
        yield lambda _: None
        return
    with Progress(BarColumn(), MofNCompleteColumn(), console=console, transient=True) as progress:
        task = progress.add_task("", total=count)
        yield lambda done: progress.update(task, completed=done)


def _results_of(desk: ServiceClient, number: int, *, whole: bool) -> Json:
    """The command with all its results; unless the `whole` is wanted, with some: those that failed, if any did."""
    path = f"/v1/commands/{number}"
    found = part = desk.get(path, limit=_PAGE)
    if not whole and found["failed"]:
        return desk.get(path, limit=_PAGE, failed=True)
    while whole and part["next"] is not None:
        part = desk.get(path, limit=_PAGE, after=part["next"])
        found["runs"] += part["runs"]
        found["next"] = part["next"]
    return found


def _rehearsal_page(rehearsed: Json) -> Any:
    from rich.console import Group
    from rich.text import Text

    runs = rehearsed["runs"]
    said = f"{command_args.in_words(rehearsed['command'])}: {_many(rehearsed['count'])}"
    least = "" if rehearsed["next"] is None else "at least "
    said += f", {least}{rehearsed['failed']} would refuse it" if rehearsed["failed"] else ""
    parts: list[Any] = [Text(output.safe(said), "bold")]
    if runs:
        parts.append(_results(runs[:_SHOWN]))
    if rehearsed["count"] > _SHOWN:
        parts.append(Text(f"and {rehearsed['count'] - _SHOWN} more: --dry-run --json lists all", "dim"))
    return Group(*parts)


def _result_page(done: Json) -> Any:
    from rich.console import Group
    from rich.text import Text

    obeyed = done["done"] - done["failed"]
    said = f"command {done['id']}: {command_args.in_words(done['command'])}: {obeyed} of {_many(done['count'])}"
    said += "" if done["status"] == "finished" else f", {done['count'] - done['done']} still to come"
    parts: list[Any] = [Text(output.safe(said), "bold")]
    failed = [each for each in done["runs"] if each["code"] is not None]
    shown = (failed or done["runs"])[:_SHOWN]
    if shown:
        parts.append(_results(shown))
    if done["done"] > len(shown):
        parts.append(Text(f"remotelr bulk show {done['id']} --json lists all", "dim"))
    return Group(*parts)


def _results(runs: list[Json]) -> Any:
    table = output.table("run", "from epoch", "rate", "then", "refused", right=("from epoch", "rate", "then"))
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
