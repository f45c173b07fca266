"""`remotelr experiments`: the default policy, tags and limits of groups of runs."""

from typing import Annotated, Any

import typer

from remotelr.errors import ServiceRefused
from remotelr_service.cli.support import output
from remotelr_service.cli.support.http_client import Json, ServiceClient, connect, without_none
from remotelr_service.cli.support.json_input import read_object
from remotelr_service.cli.support.options import AsJson, ExperimentKey, Reason, Url, actor_of, tag_pair
from remotelr_service.cli.support.run_data import policy_summary

app = typer.Typer(help="Manage experiments.", no_args_is_help=True, rich_markup_mode=None)

_LIMITS = ("min_lr", "max_lr", "max_change")


@app.command("list")
def list_experiments(url: Url = None, as_json: AsJson = False) -> None:
    """List experiments by name."""
    with connect(url) as service:
        found = list(service.pages("/v1/experiments", "experiments"))
    output.show_list("experiments", found, as_json, lambda: _table(found))


@app.command("show")
def show(experiment: ExperimentKey, url: Url = None, as_json: AsJson = False) -> None:
    """Show an experiment."""
    with connect(url) as service:
        found = service.get(_path(experiment))
    output.show(found, as_json, lambda: _facts(found))


@app.command("set")
def set_experiment(
    *,
    experiment: ExperimentKey,
    policy: Annotated[
        str | None, typer.Option(metavar="POLICY", help="Default policy: a JSON file, JSON itself, or -.")
    ] = None,
    tag: Annotated[
        list[str] | None, typer.Option("--tag", "-t", metavar="NAME:VALUE", help="Tag of every new run.")
    ] = None,
    min_lr: Annotated[float | None, typer.Option(help="Lower limit of every run's rate.")] = None,
    max_lr: Annotated[float | None, typer.Option(help="Upper limit of every run's rate.")] = None,
    max_change: Annotated[
        float | None, typer.Option(help="Largest factor by which a command may change a rate, up or down.")
    ] = None,
    without: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Remove policy, tags, min_lr, max_lr or max_change.")
    ] = None,
    reason: Reason = None,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Set policy, tags or limits; the others stay.

    Limits also apply to the runs that are running.
    """
    new = without_none(
        policy=None if policy is None else read_object(policy), tags=dict(map(tag_pair, tag)) if tag else None
    )
    limits = without_none(min_lr=min_lr, max_lr=max_lr, max_change=max_change)
    gone = _names(without or [])
    with connect(url) as service:
        known = _known(service, experiment)
        kept_limits = {name: value for name, value in known.pop("limits", {}).items() if name not in gone}
        settings = {name: value for name, value in (known | new).items() if name not in gone}
        body = settings | without_none(limits=(kept_limits | limits) or None, reason=reason, actor=actor_of(None))
        done = service.request("PUT", _path(experiment), body=body)
    output.show(done, as_json, lambda: _facts(done))


def _known(service: ServiceClient, experiment: str) -> Json:
    """The stored settings; empty if the experiment does not exist."""
    try:
        found = service.get(_path(experiment))
    except ServiceRefused as error:
        if error.status != 404:
            raise
        return {}
    return without_none(policy=found["policy"], tags=found["tags"] or None, limits=found["limits"])


def _names(names: list[str]) -> set[str]:
    known = ("policy", "tags", *_LIMITS)
    for name in names:
        if name not in known:
            raise typer.BadParameter(f"must be one of {', '.join(known)}, got {name!r}", param_hint="--without")
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
    return output.facts(
        {
            "experiment": found["experiment"],
            "limits": _limits(found) or "none",
            "tags": output.tags(found["tags"]),
            "policy": None if found["policy"] is None else output.safe(policy_summary(found["policy"])),
            "created": output.ago(found["created_at"]),
            "changed": output.ago(found["updated_at"]),
            "bulk command": None if found.get("limits_command") is None else str(found["limits_command"]),
        }
    )
