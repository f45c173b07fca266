"""`remotelr experiments`: what the runs of a group begin with, and the limits none of them leaves."""

from typing import Annotated, Any

import typer

from remotelr.errors import ServiceRefused
from remotelr_service.cli.support import output
from remotelr_service.cli.support.http_client import Json, ServiceClient, connect
from remotelr_service.cli.support.json_input import read_object
from remotelr_service.cli.support.options import AsJson, ExperimentKey, Reason, Url, actor_of, given, tag_pair
from remotelr_service.cli.support.run_data import policy_summary

app = typer.Typer(help="Defaults and limits of groups of runs.", no_args_is_help=True, rich_markup_mode=None)

_LIMITS = ("min_lr", "max_lr", "max_change")


@app.command("list")
def list_experiments(url: Url = None, as_json: AsJson = False) -> None:
    """List experiments, in order of their names."""
    with connect(url) as desk:
        found = list(desk.pages("/v1/experiments", "experiments"))
    output.show({"experiments": found}, as_json, lambda: _table(found))
    if not found and not as_json:
        output.say("no experiments")


@app.command("show")
def show(experiment: ExperimentKey, url: Url = None, as_json: AsJson = False) -> None:
    """Show what is set for an experiment."""
    with connect(url) as desk:
        found = desk.get(_path(experiment))
    output.show(found, as_json, lambda: _facts(found))


@app.command("set")
def set_experiment(
    *,
    experiment: ExperimentKey,
    policy: Annotated[
        str | None, typer.Option(metavar="POLICY", help="Of a run created without one: a file of JSON, JSON, or -.")
    ] = None,
    tag: Annotated[
        list[str] | None, typer.Option("--tag", "-t", metavar="NAME:VALUE", help="Of every new run.")
    ] = None,
    min_lr: Annotated[float | None, typer.Option(help="No run trains with less.")] = None,
    max_lr: Annotated[float | None, typer.Option(help="No run trains with more.")] = None,
    max_change: Annotated[
        float | None, typer.Option(help="The largest factor a command may change a rate by, up or down.")
    ] = None,
    without: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Take this away: policy, tags, min_lr, max_lr, max_change.")
    ] = None,
    reason: Reason = None,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Set policy, tags or limits; the others stay.

    Limits go to the runs that run already, too.
    """
    new = given(policy=None if policy is None else read_object(policy), tags=dict(map(tag_pair, tag)) if tag else None)
    limits = given(min_lr=min_lr, max_lr=max_lr, max_change=max_change)
    gone = _names(without or [])
    with connect(url) as desk:
        known = _known(desk, experiment)
        kept_limits = {name: value for name, value in known.pop("limits", {}).items() if name not in gone}
        settings = {name: value for name, value in (known | new).items() if name not in gone}
        body = settings | given(limits=(kept_limits | limits) or None, reason=reason, actor=actor_of(None))
        done = desk.put(_path(experiment), body)
    output.show(done, as_json, lambda: _facts(done))


def _known(desk: ServiceClient, experiment: str) -> Json:
    """What is set already; nothing for an experiment that is new."""
    try:
        found = desk.get(_path(experiment))
    except ServiceRefused as error:
        if error.status != 404:
            raise
        return {}
    return given(policy=found["policy"], tags=found["tags"] or None, limits=found["limits"])


def _names(names: list[str]) -> set[str]:
    known = ("policy", "tags", *_LIMITS)
    for name in names:
        if name not in known:
            raise typer.BadParameter(f"{name!r} is none of {', '.join(known)}", param_hint="--without")
    return set(names)


def _path(experiment: str) -> str:
    from urllib.parse import quote

    return f"/v1/experiments/{quote(experiment, safe='')}"


def _limits(found: Json) -> str:
    return "  ".join(f"{name} {output.rate(value)}" for name, value in (found["limits"] or {}).items())


def _table(found: list[Json]) -> Any:
    table = output.table("experiment", "limits", "tags", "policy", "changed")
    for each in found:
        table.add_row(
            each["experiment"],
            _limits(each),
            output.tags(each["tags"]),
            "" if each["policy"] is None else str(each["policy"].get("schedule", each["policy"]).get("type")),
            output.ago(each["updated_at"]),
        )
    return table


def _facts(found: Json) -> Any:
    told = found.get("limits_command")
    return output.facts(
        {
            "experiment": found["experiment"],
            "limits": _limits(found) or "none",
            "tags": output.tags(found["tags"]),
            "policy": None if found["policy"] is None else output.safe(policy_summary(found["policy"])),
            "created": output.ago(found["created_at"]),
            "changed": output.ago(found["updated_at"]),
            "its runs": None if told is None else f"are told: remotelr bulk show {told}",
        }
    )
