"""`remotelr experiments`: what the runs of a group begin with, and the rails none of them leaves."""

from typing import Annotated, Any

import typer

from remotelr.errors import ServiceRefused
from remotelr_service.cli.support import output as look
from remotelr_service.cli.support.http_client import Desk, Json, open_desk
from remotelr_service.cli.support.json_input import read_object
from remotelr_service.cli.support.options import AsJson, ExperimentKey, Reason, Url, actor_of, given, tag_pair
from remotelr_service.cli.support.run_data import in_short

app = typer.Typer(help="Defaults and guard rails of groups of runs.", no_args_is_help=True, rich_markup_mode=None)

_RAILS = ("min_lr", "max_lr", "max_change")


@app.command("list")
def list_experiments(url: Url = None, as_json: AsJson = False) -> None:
    """List experiments, in order of their names."""
    with open_desk(url) as desk:
        found = list(desk.pages("/v1/experiments", "experiments"))
    look.show({"experiments": found}, as_json, lambda: _table(found))
    if not found and not as_json:
        look.say("no experiments")


@app.command("show")
def show(experiment: ExperimentKey, url: Url = None, as_json: AsJson = False) -> None:
    """Show what is set for an experiment."""
    with open_desk(url) as desk:
        found = desk.get(_path(experiment))
    look.show(found, as_json, lambda: _facts(found))


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
    """Set policy, tags or rails; the others stay.

    Rails go to the runs that run already, too.
    """
    new = given(policy=None if policy is None else read_object(policy), tags=dict(map(tag_pair, tag)) if tag else None)
    rails = given(min_lr=min_lr, max_lr=max_lr, max_change=max_change)
    gone = _names(without or [])
    with open_desk(url) as desk:
        known = _known(desk, experiment)
        kept_rails = {name: value for name, value in known.pop("rails", {}).items() if name not in gone}
        settings = {name: value for name, value in (known | new).items() if name not in gone}
        body = settings | given(rails=(kept_rails | rails) or None, reason=reason, actor=actor_of(None))
        done = desk.put(_path(experiment), body)
    look.show(done, as_json, lambda: _facts(done))


def _known(desk: Desk, experiment: str) -> Json:
    """What is set already; nothing for an experiment that is new."""
    try:
        found = desk.get(_path(experiment))
    except ServiceRefused as error:
        if error.status != 404:
            raise
        return {}
    return given(policy=found["policy"], tags=found["tags"] or None, rails=found["rails"])


def _names(names: list[str]) -> set[str]:
    known = ("policy", "tags", *_RAILS)
    for name in names:
        if name not in known:
            raise typer.BadParameter(f"{name!r} is none of {', '.join(known)}", param_hint="--without")
    return set(names)


def _path(experiment: str) -> str:
    from urllib.parse import quote

    return f"/v1/experiments/{quote(experiment, safe='')}"


def _rails(found: Json) -> str:
    return "  ".join(f"{name} {look.rate(value)}" for name, value in (found["rails"] or {}).items())


def _table(found: list[Json]) -> Any:
    table = look.table("experiment", "rails", "tags", "policy", "changed")
    for each in found:
        table.add_row(
            each["experiment"],
            _rails(each),
            look.tags(each["tags"]),
            "" if each["policy"] is None else str(each["policy"].get("schedule", each["policy"]).get("type")),
            look.ago(each["updated_at"]),
        )
    return table


def _facts(found: Json) -> Any:
    told = found.get("rails_command")
    return look.facts(
        {
            "experiment": found["experiment"],
            "rails": _rails(found) or "none",
            "tags": look.tags(found["tags"]),
            "policy": None if found["policy"] is None else look.safe(in_short(found["policy"])),
            "created": look.ago(found["created_at"]),
            "changed": look.ago(found["updated_at"]),
            "its runs": None if told is None else f"are told: remotelr bulk show {told}",
        }
    )
