"""`remotelr runs`: what runs there are, how they stand, and what is ordered of one of them."""

import time
from collections.abc import Iterator
from enum import StrEnum
from typing import Annotated, Any

import typer

from remotelr.errors import ServiceRefused
from remotelr_service.cli import look, orders, rehearsing, watch
from remotelr_service.cli.desk import TIMEOUT_S, Desk, Json, NotUnderstood, open_desk, run_path
from remotelr_service.cli.merging import merged
from remotelr_service.cli.options import (
    Actor,
    AsJson,
    InExperiment,
    Key,
    Reason,
    RunKey,
    Url,
    WithStatus,
    WithTag,
    actor_of,
    complete_run,
    given,
    tag_pair,
)
from remotelr_service.cli.readings import (
    curve_of,
    in_short,
    losses_of,
    main_metric,
    place_before,
    progress,
    rates_of,
    selected,
    standing,
)
from remotelr_service.cli.refusals import NotInTime, NotObeyed
from remotelr_service.cli.splicing import beginning_here

app = typer.Typer(help="See and steer runs.", no_args_is_help=True, rich_markup_mode=None)


class Ending(StrEnum):
    """How a run can have ended."""

    COMPLETED = "completed"
    FAILED = "failed"
    STOPPED = "stopped"


# How long one question after news waits for them.
_LONG_POLL_S = 25

# The lives of a command that change no more.
_OVER = ("applied", "rejected", "expired", "superseded", "cancelled")

_POLL_S = 0.3

# How many epochs are drawn.
_SPARKS = 40


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
    with open_desk(url) as desk:
        found = selected(desk, experiment=experiment, tag=tag, status=status, stalled=stalled, limit=limit + 1)
    look.show({"runs": found[:limit]}, as_json, lambda: _runs_table(found[:limit]))
    if len(found) > limit:
        look.say(
            f"there are more than {limit} runs: ask for more with --limit, or for fewer with --experiment or --tag"
        )
    if not found and not as_json:
        look.say("no runs")


@app.command("show")
def show_run(run: RunKey, url: Url = None, as_json: AsJson = False) -> None:
    """Show where a run stands, and why."""
    with open_desk(url) as desk:
        found = desk.get(run_path(run))
        if as_json:
            look.print_json(found)
            return
        why, curve = _why(desk, found), curve_of(desk, found, _SPARKS)
    look.print_drawn(_run_facts(found, why, curve))


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
    with open_desk(url) as desk:
        # Where only the newest are wanted, a long history is not read from its beginning.
        after = None if last is None or everything else place_before(desk.get(run_path(run)), last)
        reports = list(desk.pages(run_path(run, "history"), "reports", after=after))
    shown = [each for each in reports if everything or each["superseded_by"] is None]
    shown = shown if last is None else shown[-last:]
    look.show({"run": run, "reports": shown}, as_json, lambda: _history_table(shown))


@app.command("commands")
def commands(run: RunKey, url: Url = None, as_json: AsJson = False) -> None:
    """List what was ordered, and what became of it."""
    with open_desk(url) as desk:
        found = list(desk.pages(run_path(run, "commands"), "commands"))
    look.show({"run": run, "commands": found}, as_json, lambda: commands_table(found))


def _order(
    *,
    run: RunKey,
    order: orders.Order,
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
    with open_desk(url) as desk:
        if order.pop(orders.KEEP_RATE, False):
            seen = desk.get(run_path(run))
            order["policy"] = beginning_here(order["policy"], seen)
        body = order | given(reason=reason, actor=actor_of(actor), expected_seq=expected_seq)
        noted = desk.order(run_path(run, "commands"), body, key)
        life = None if wait_s is None else _wait(desk, run, noted["seq"], wait_s)
    if as_json:
        look.print_json(life or noted)
    else:
        said = f"{run}: {orders.in_words(order)}: command {noted['seq']}, from epoch {noted['holds_from']} on"
        look.print_drawn(look.safe(said if life is None else f"{said}: {_life_in_words(life)}"))
    if life is not None and life["state"] not in _OVER:
        raise NotInTime(
            f"after {wait_s:g} s command {noted['seq']} is {life['state']}: see remotelr runs commands {run}"
        )
    if life is not None and life["state"] != "applied":
        raise NotObeyed(f"command {noted['seq']} was {_life_in_words(life)}")


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
    with open_desk(url, timeout_s=_LONG_POLL_S + TIMEOUT_S) as desk:
        seq = desk.get(run_path(run))["decision"]["seq"]
        after = max(seq - last, 0)
        for event in _events(desk, run, after, follow=follow):
            if as_json:
                look.print_line(event)
            else:
                look.print_drawn(look.safe(f"{look.clock(event['created_at'])}  {event['sentence']}"))


@app.command("tag")
def tag_run(
    run: RunKey,
    tags: Annotated[list[str], typer.Argument(metavar="NAME:VALUE...", help="NAME: alone takes the tag away.")],
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Set its tags; the others stay."""
    changes = {name: value or None for name, value in map(tag_pair, tags)}
    with open_desk(url) as desk:
        found = desk.ask("PATCH", run_path(run), body={"tags": changes})
    look.show(found, as_json, lambda: f"{run}: {look.tags(found['tags']) or 'no tags'}")


@app.command("finish")
def finish(
    run: RunKey,
    status: Annotated[Ending, typer.Option("--status", "-s", help="How it ended.")] = Ending.FAILED,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Say how a run ended whose trainer cannot."""
    with open_desk(url) as desk:
        found = desk.post(run_path(run, "finish"), {"status": status.value})
    look.show(found, as_json, lambda: f"{run}: {found['status']}")


app.command("why")(rehearsing.why)
app.command("what-if")(rehearsing.what_if)
app.command("replay-policy")(rehearsing.replay_policy)

for _name, _function in orders.FOR_ONE.items():
    app.command(_name)(merged(_function, _order))


def _events(desk: Desk, run: str, after: int, *, follow: bool) -> Iterator[Json]:
    """What is in the log after `after`, and what comes when that is followed."""
    path = run_path(run, "events")
    while True:
        for event in desk.pages(path, "events", after=after, wait=_LONG_POLL_S if follow else None):
            after = event["seq"]
            yield event
        if not follow:
            return


def _wait(desk: Desk, run: str, seq: int, wait_s: float) -> Json:
    deadline = time.monotonic() + wait_s
    while True:
        life = desk.get(run_path(run, "commands", str(seq)))
        if life["state"] in _OVER or time.monotonic() >= deadline:
            return life
        time.sleep(min(_POLL_S, max(deadline - time.monotonic(), 0.01)))


def _why(desk: Desk, run: Json) -> str | None:
    """The decision in force in one sentence, where the service can say it."""
    try:
        return str(desk.get(run_path(run["run"], "decisions", str(run["epoch"])))["sentence"])
    except (ServiceRefused, NotUnderstood):
        return None


def _life_in_words(life: Json) -> str:
    said = str(life["state"])
    said += "" if life.get("at_epoch") is None else f" in epoch {life['at_epoch']}"
    said += "" if life.get("rate") is None else f" at rate {look.rate(life['rate'])}"
    return said if not life.get("reason") else f"{said} ({life['reason']})"


def _runs_table(found: list[Json]) -> Any:
    table = look.table(
        "run", "status", "epoch", "rate", "by", "experiment", "tags", "heard of", right=("epoch", "rate")
    )
    for run in found:
        table.add_row(
            run["run"],
            look.status(standing(run)),
            progress(run),
            look.rate(run["learning_rate"]),
            run["decision"]["reason"],
            run["experiment"] or "",
            look.tags(run["tags"]),
            look.ago(run["updated_at"]),
        )
    return table


def _run_facts(run: Json, why: str | None, curve: list[Json]) -> Any:
    metric = main_metric(run, curve)
    losses, rates = losses_of(curve, metric), [*rates_of(curve), run["learning_rate"]]
    plateau = run["decision"]["plateau"] or {}
    return look.facts(
        {
            "run": run["run"],
            "status": look.status(standing(run)),
            "epoch": progress(run),
            "rate": f"{look.rate(run['learning_rate'])} ({run['decision']['reason']})",
            "why": None if why is None else look.safe(why),
            "told to": "stop" if run["decision"]["action"] == "stop" else None,
            "plateau": look.safe("  ".join(f"{name} {look.measured(value)}" for name, value in plateau.items())),
            "rates": look.spark(rates, _SPARKS, logarithmic=True) if len(rates) > 1 else None,
            metric or "": f"{look.spark(losses, _SPARKS)}  {look.measured(losses[-1])}" if losses else None,
            "attempt": str(run["attempt"]),
            "ranks": str(run["world_size"]) if run["world_size"] > 1 else None,
            "experiment": run["experiment"],
            "tags": look.tags(run["tags"]),
            "policy": look.safe(in_short(run["policy"])),
            "seq": str(run["decision"]["seq"]),
            "created": look.ago(run["created_at"]),
            "heard of": look.ago(run["updated_at"]),
        }
    )


def _history_table(reports: list[Json]) -> Any:
    metrics = sorted({name for each in reports for name in each["metrics"]})
    ranked = any(each["rank"] for each in reports)
    columns = ["epoch", *(["rank"] if ranked else []), *metrics, "rate", "used", "next rate", "by", "attempt", "at"]
    table = look.table(*columns, right=("epoch", "rank", *metrics, "rate", "used", "next rate", "attempt"))
    for each in reports:
        told, used = each["learning_rate"], each["used_learning_rate"]
        table.add_row(
            str(each["epoch"]),
            *([str(each["rank"])] if ranked else []),
            *(look.measured(each["metrics"].get(name)) for name in metrics),
            look.rate(told),
            look.rate(used),
            look.rate(each["next_learning_rate"]),
            each["reason"] or "",
            str(each["attempt"]),
            look.clock(each["created_at"]),
            style=None if each["superseded_by"] is None else "dim",
        )
    return table


def commands_table(found: list[Json]) -> Any:
    table = look.table("seq", "command", "state", "epoch", "rate", "who", "why", "at", right=("seq", "epoch", "rate"))
    for each in found:
        order = each.get("command", each)
        table.add_row(
            str(each["seq"]),
            look.safe(orders.in_words(order)),
            look.life(each["state"]),
            "" if each.get("at_epoch") is None else str(each["at_epoch"]),
            look.rate(each.get("rate")),
            look.safe(order.get("actor") or ""),
            look.safe(order.get("reason") or ""),
            look.clock(each["created_at"]),
        )
    return table
