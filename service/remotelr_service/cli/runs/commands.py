"""`remotelr runs`: list, show and watch runs, and send commands to one of them."""

from collections.abc import Iterator
from typing import Annotated

import typer

from remotelr.errors import ServiceRefused
from remotelr.rules.run.model import FinalStatus
from remotelr_service.cli import command_args
from remotelr_service.cli.runs import analysis, tables, watch
from remotelr_service.cli.runs.send_command import send_to_run
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
from remotelr_service.cli.support.run_data import curve_of, selected, seq_before

app = typer.Typer(help="Inspect and control runs.", no_args_is_help=True, rich_markup_mode=None)


# Seconds that one request waits for new events.
_LONG_POLL_S = 25


@app.command("list")
def list_runs(
    *,
    experiment: InExperiment = None,
    tag: WithTag = None,
    status: WithStatus = None,
    stalled: Annotated[bool, typer.Option("--stalled", help="Only runs whose trainer stopped reporting.")] = False,
    limit: Annotated[int, typer.Option(min=1, help="Maximum number of runs.")] = 200,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """List runs by key."""
    with connect(url) as service:
        found = selected(service, experiment=experiment, tag=tag, status=status, stalled=stalled, limit=limit + 1)
    output.show_list("runs", found[:limit], as_json, lambda: tables.runs_table(found[:limit]))
    if len(found) > limit:
        output.say(f"there are more than {limit} runs; raise --limit, or filter with --experiment or --tag")


@app.command("show")
def show_run(run: RunKey, url: Url = None, as_json: AsJson = False) -> None:
    """Show a run's state and its last decision."""
    with connect(url) as service:
        found = service.get(run_path(run))
        if as_json:
            output.print_json(found)
            return
        why, curve = _sentence(service, found), curve_of(service, found, tables.SPARKS)
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
    once: Annotated[bool, typer.Option("--once", help="Print the current state and exit.")] = False,
    to_the_end: Annotated[bool, typer.Option("--to-the-end", help="Exit when all of them have ended.")] = False,
    every_s: Annotated[
        float, typer.Option("--every", metavar="SECONDS", min=0.2, help="Longest time between updates.")
    ] = 2.0,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Watch runs until Ctrl-C."""
    selection = {"experiment": experiment, "tag": tag, "status": status}
    if once:
        watch.once(url, runs or [], selection, as_json=as_json)
    else:
        watch.follow(url, runs or [], selection, every_s=every_s, as_json=as_json, to_the_end=to_the_end)


@app.command("history")
def history(
    run: RunKey,
    last: Annotated[int | None, typer.Option("--last", "-n", min=1, help="Only this many, the newest.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Also the superseded reports.")] = False,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """List a run's reports: metrics, rate, decision."""
    with connect(url) as service:
        # Skip the start of a long log.
        after = None if last is None or everything else seq_before(service.get(run_path(run)), last)
        reports = list(service.pages(run_path(run, "history"), "reports", after=after))
    shown = [each for each in reports if everything or each["superseded_by"] is None]
    shown = shown if last is None else shown[-last:]
    output.show({"run": run, "reports": shown}, as_json, lambda: tables.history_table(shown))


@app.command("commands")
def commands(run: RunKey, url: Url = None, as_json: AsJson = False) -> None:
    """List a run's commands and their states."""
    with connect(url) as service:
        found = list(service.pages(run_path(run, "commands"), "commands"))
    output.show({"run": run, "commands": found}, as_json, lambda: tables.commands_table(found))


@app.command("log")
def log(
    *,
    run: RunKey,
    last: Annotated[int, typer.Option("--last", "-n", min=1, help="Start this many events back.")] = 20,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Wait for new events until Ctrl-C.")] = False,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Print a run's events as sentences.

    With --json: one event per line.
    """
    with connect(url, timeout_s=_LONG_POLL_S + TIMEOUT_S) as service:
        seq = service.get(run_path(run))["seq"]
        after = max(seq - last, 0)
        for event in _events(service, run, after, follow=follow):
            if as_json:
                output.print_line(event)
            else:
                output.print_drawn(output.safe(f"{output.clock(event['created_at'])}  {event['sentence']}"))


@app.command("tag")
def tag_run(
    run: RunKey,
    tags: Annotated[list[str], typer.Argument(metavar="NAME:VALUE...", help="An empty value removes the tag.")],
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Set or remove tags; other tags stay."""
    changes = {name: value or None for name, value in map(tag_pair, tags)}
    with connect(url) as service:
        found = service.request("PATCH", run_path(run), body={"tags": changes})
    output.show(found, as_json, lambda: f"{run}: {output.tags(found['tags']) or 'no tags'}")


@app.command("finish")
def finish(
    run: RunKey,
    status: Annotated[FinalStatus, typer.Option("--status", "-s", help="The final status.")] = "failed",
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Finish a run whose trainer is gone."""
    with connect(url) as service:
        found = service.request("POST", run_path(run, "finish"), body={"status": status})
    output.show(found, as_json, lambda: f"{run}: {found['status']}")


app.command("why")(analysis.why)
app.command("what-if")(analysis.what_if)
app.command("replay-policy")(analysis.replay_policy)

for _name, _function in command_args.FOR_ONE.items():
    app.command(_name)(command_args.combine_arguments(_function, send_to_run))


def _events(service: ServiceClient, run: str, after: int, *, follow: bool) -> Iterator[Json]:
    path = run_path(run, "events")
    while True:
        for event in service.pages(path, "events", after=after, wait=_LONG_POLL_S if follow else None):
            after = event["seq"]
            yield event
        if not follow:
            return


def _sentence(service: ServiceClient, run: Json) -> str | None:
    """The sentence of the current decision; None if the service does not provide it."""
    try:
        return str(service.get(run_path(run["run"], "decisions", str(run["epoch"])))["sentence"])
    except (ServiceRefused, NotUnderstood):
        return None
