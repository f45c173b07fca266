"""`remotelr runs`: what runs there are, how they stand, and what is ordered of one of them."""

from collections.abc import Iterator
from enum import StrEnum
from typing import Annotated

import typer

from remotelr.errors import ServiceRefused
from remotelr_service.cli import command_args
from remotelr_service.cli.merging import combine_arguments
from remotelr_service.cli.runs import analysis, tables, watch
from remotelr_service.cli.runs.send_command import order_one
from remotelr_service.cli.support import output
from remotelr_service.cli.support.http_client import TIMEOUT_S, Json, NotUnderstood, ServiceClient, connect, run_path
from remotelr_service.cli.support.options import (
    AsJson,
    InExperiment,
    RunKey,
    Url,
    WithStatus,
    WithTag,
    complete_run,
    tag_pair,
)
from remotelr_service.cli.support.run_data import (
    curve_of,
    place_before,
    selected,
)

app = typer.Typer(help="See and steer runs.", no_args_is_help=True, rich_markup_mode=None)


class Ending(StrEnum):
    """How a run can have ended."""

    COMPLETED = "completed"
    FAILED = "failed"
    STOPPED = "stopped"


# How long one question after news waits for them.
_LONG_POLL_S = 25


@app.command("list")
def list_runs(
    *,
    experiment: InExperiment = None,
    tag: WithTag = None,
    status: WithStatus = None,
    stalled: Annotated[bool, typer.Option("--stalled", help="Only runs that have fallen silent.")] = False,
    limit: Annotated[int, typer.Option(min=1, help="How many at most.")] = 200,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """List runs, in order of their keys."""
    with connect(url) as desk:
        found = selected(desk, experiment=experiment, tag=tag, status=status, stalled=stalled, limit=limit + 1)
    output.show({"runs": found[:limit]}, as_json, lambda: tables.runs_table(found[:limit]))
    if len(found) > limit:
        output.say(
            f"there are more than {limit} runs: ask for more with --limit, or for fewer with --experiment or --tag"
        )
    if not found and not as_json:
        output.say("no runs")


@app.command("show")
def show_run(run: RunKey, url: Url = None, as_json: AsJson = False) -> None:
    """Show where a run stands, and why."""
    with connect(url) as desk:
        found = desk.get(run_path(run))
        if as_json:
            output.print_json(found)
            return
        why, curve = _why(desk, found), curve_of(desk, found, tables.SPARKS)
    output.print_drawn(tables.run_facts(found, why, curve))


@app.command("watch")
def watch_runs(
    *,
    runs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[RUN]...", help="These runs; else all that the options select.", autocompletion=complete_run
        ),
    ] = None,
    experiment: InExperiment = None,
    tag: WithTag = None,
    status: WithStatus = None,
    once: Annotated[bool, typer.Option("--once", help="Look once, for scripts.")] = False,
    to_the_end: Annotated[bool, typer.Option("--to-the-end", help="End when none of them runs any more.")] = False,
    every_s: Annotated[
        float, typer.Option("--every", metavar="SECONDS", min=0.2, help="Look at least so often.")
    ] = 2.0,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Watch runs train, until Ctrl-C."""
    selection = {"experiment": experiment, "tag": tag, "status": status}
    if once:
        watch.once(url, runs or [], selection, as_json=as_json)
    else:
        watch.follow(url, runs or [], selection, every_s=every_s, as_json=as_json, to_the_end=to_the_end)


@app.command("history")
def history(
    run: RunKey,
    last: Annotated[int | None, typer.Option("--last", "-n", min=1, help="Only so many of the newest.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Also what a later attempt trained again.")] = False,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Show its epochs: measured, rate, decided."""
    with connect(url) as desk:
        # Where only the newest are wanted, a long history is not read from its beginning.
        after = None if last is None or everything else place_before(desk.get(run_path(run)), last)
        reports = list(desk.pages(run_path(run, "history"), "reports", after=after))
    shown = [each for each in reports if everything or each["superseded_by"] is None]
    shown = shown if last is None else shown[-last:]
    output.show({"run": run, "reports": shown}, as_json, lambda: tables.history_table(shown))


@app.command("commands")
def commands(run: RunKey, url: Url = None, as_json: AsJson = False) -> None:
    """List what was ordered, and what became of it."""
    with connect(url) as desk:
        found = list(desk.pages(run_path(run, "commands"), "commands"))
    output.show({"run": run, "commands": found}, as_json, lambda: tables.commands_table(found))


@app.command("log")
def log(
    *,
    run: RunKey,
    last: Annotated[int, typer.Option("--last", "-n", min=1, help="Begin so far back.")] = 20,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what comes, until Ctrl-C.")] = False,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Tell what happened to it, in sentences.

    As JSON it is one event on each line.
    """
    with connect(url, timeout_s=_LONG_POLL_S + TIMEOUT_S) as desk:
        seq = desk.get(run_path(run))["seq"]
        after = max(seq - last, 0)
        for event in _events(desk, run, after, follow=follow):
            if as_json:
                output.print_line(event)
            else:
                output.print_drawn(output.safe(f"{output.clock(event['created_at'])}  {event['sentence']}"))


@app.command("tag")
def tag_run(
    run: RunKey,
    tags: Annotated[list[str], typer.Argument(metavar="NAME:VALUE...", help="NAME: alone takes the tag away.")],
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Set its tags; the others stay."""
    changes = {name: value or None for name, value in map(tag_pair, tags)}
    with connect(url) as desk:
        found = desk.ask("PATCH", run_path(run), body={"tags": changes})
    output.show(found, as_json, lambda: f"{run}: {output.tags(found['tags']) or 'no tags'}")


@app.command("finish")
def finish(
    run: RunKey,
    status: Annotated[Ending, typer.Option("--status", "-s", help="How it ended.")] = Ending.FAILED,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Say how a run ended whose trainer cannot."""
    with connect(url) as desk:
        found = desk.post(run_path(run, "finish"), {"status": status.value})
    output.show(found, as_json, lambda: f"{run}: {found['status']}")


app.command("why")(analysis.why)
app.command("what-if")(analysis.what_if)
app.command("replay-policy")(analysis.replay_policy)

for _name, _function in command_args.FOR_ONE.items():
    app.command(_name)(combine_arguments(_function, order_one))


def _events(desk: ServiceClient, run: str, after: int, *, follow: bool) -> Iterator[Json]:
    """What is in the log after `after`, and what comes when that is followed."""
    path = run_path(run, "events")
    while True:
        for event in desk.pages(path, "events", after=after, wait=_LONG_POLL_S if follow else None):
            after = event["seq"]
            yield event
        if not follow:
            return


def _why(desk: ServiceClient, run: Json) -> str | None:
    """The decision in force in one sentence, where the service can say it."""
    try:
        return str(desk.get(run_path(run["run"], "decisions", str(run["epoch"])))["sentence"])
    except (ServiceRefused, NotUnderstood):
        return None
