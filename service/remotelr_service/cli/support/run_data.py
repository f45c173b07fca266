"""What the service's JSON says of runs: which are meant, how one stands, and its curve."""

from collections.abc import Iterable
from typing import Any

from remotelr_service.cli.support import output
from remotelr_service.cli.support.http_client import Json, ServiceClient, run_path


def selected(
    desk: ServiceClient,
    *,
    experiment: str | None,
    tag: list[str] | None,
    status: str | None,
    stalled: bool = False,
    limit: int | None = None,
) -> list[Json]:
    """The runs with all of these, at most `limit`."""
    wanted = [(name, value) for name, _, value in (each.partition(":") for each in tag or ())]
    found: list[Json] = []
    asked = {"experiment": experiment, "tag": tag[0] if tag else None, "status": status, "stalled": stalled or None}
    for run in desk.pages("/v1/runs", "runs", **asked):
        # The service looks for one tag; a run that lacks another one is left out here.
        if all(run["tags"].get(name) == value for name, value in wanted):
            found.append(run)
        if limit is not None and len(found) >= limit:
            break
    return found


def curve_of(desk: ServiceClient, run: Json, epochs: int) -> list[Json]:
    """The newest reports that count, one for each epoch: those of rank 0. At least so many epochs, where there are."""
    reports = desk.pages(run_path(run["run"], "history"), "reports", after=place_before(run, epochs))
    return counting(reports)


def counting(reports: Iterable[Json]) -> list[Json]:
    """One report for each epoch that counts."""
    return [each for each in reports if each["superseded_by"] is None and each["rank"] == 0]


def place_before(run: Json, epochs: int) -> int | None:
    """A place in the run's log after which lie its newest epochs, some commands among them; None for its beginning."""
    back = run["decision"]["seq"] - 2 * epochs * run["world_size"]
    return back if back > 0 else None


def rates_of(curve: list[Json]) -> list[float]:
    """The rates that were used, as far as anybody says; else those that were told."""
    return [
        each["learning_rate"] if each["used_learning_rate"] is None else each["used_learning_rate"] for each in curve
    ]


def losses_of(curve: list[Json], metric: str | None) -> list[float]:
    return [float(each["metrics"][metric]) for each in curve if metric in each["metrics"]]


def main_metric(run: Json, curve: list[Json]) -> str | None:
    """What to draw of a run: what its policy looks at, else a loss."""
    measured: set[str] = {name for each in curve for name in each["metrics"]}
    looked_at = monitored(run["policy"])
    wanted = [*([looked_at] if looked_at else []), "val_loss", "loss", *sorted(measured)]
    return next((name for name in wanted if name in measured), None)


def status_text(run: Json) -> str:
    """The run's status, or that it has not been heard of for too long."""
    return "stalled" if run.get("stalled") else str(run["status"])


def progress(run: Json) -> str:
    """The epoch, and of how many."""
    return f"{run['epoch']}/{run['total_epochs']}" if run["total_epochs"] else str(run["epoch"])


def monitored(node: Any) -> str | None:
    """The first metric that any node of the policy names."""
    if isinstance(node, dict):
        if isinstance(node.get("monitor"), str):
            return str(node["monitor"])
        return next((name for each in node.values() if (name := monitored(each))), None)
    if isinstance(node, list):
        return next((name for each in node if (name := monitored(each))), None)
    return None


def policy_summary(policy: Json) -> str:
    """A policy in one line: its schedule and what was said of it."""
    node = policy.get("schedule", policy)
    parts = [part for part in node.get("schedules", []) if isinstance(part, dict)]
    inner = ", ".join(str(part.get("type")) for part in parts) or ", ".join(
        f"{name} {value.get('type', '{…}') if isinstance(value, dict) else output.measured(value)}"
        for name, value in node.items()
        if name != "type" and isinstance(value, str | int | float | dict)
    )
    unit = f", per {policy['unit']}" if "unit" in policy else ""
    return f"{node.get('type')} ({inner}){unit}"
