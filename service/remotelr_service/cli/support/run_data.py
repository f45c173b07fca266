"""Runs as JSON of the service: selection, curves, and short texts for tables."""

from collections.abc import Iterable

from remotelr_service.cli.support import output
from remotelr_service.cli.support.http_client import Json, ServiceClient, run_path


def selected(
    service: ServiceClient,
    *,
    experiment: str | None,
    tag: list[str] | None,
    status: str | None,
    stalled: bool = False,
    limit: int | None = None,
) -> list[Json]:
    """The runs that match all conditions, at most `limit`."""
    wanted = [(name, value) for name, _, value in (each.partition(":") for each in tag or ())]
    found: list[Json] = []
    query = {"experiment": experiment, "tag": tag[0] if tag else None, "status": status, "stalled": stalled or None}
    for run in service.pages("/v1/runs", "runs", **query):
        # The service filters by one tag only.
        if all(run["tags"].get(name) == value for name, value in wanted):
            found.append(run)
        if limit is not None and len(found) >= limit:
            break
    return found


def curve_of(service: ServiceClient, run: Json, epochs: int) -> list[Json]:
    """The newest effective reports of rank 0: at least `epochs` of them, if the run has as many."""
    reports = service.pages(run_path(run["run"], "history"), "reports", after=seq_before(run, epochs))
    return effective(reports)


def effective(reports: Iterable[Json]) -> list[Json]:
    """The effective reports of rank 0, one per epoch."""
    return [each for each in reports if each["superseded_by"] is None and each["rank"] == 0]


def seq_before(run: Json, epochs: int) -> int | None:
    """A number in the run's log before its newest epochs, with room for some commands; None for the log's start."""
    back = run["decision"]["seq"] - 2 * epochs * run["world_size"]
    return back if back > 0 else None


def rates_of(curve: list[Json]) -> list[float]:
    """The used rate of each report; if the trainer did not report it, the decided rate."""
    return [
        each["learning_rate"] if each["used_learning_rate"] is None else each["used_learning_rate"] for each in curve
    ]


def losses_of(curve: list[Json], metric: str | None) -> list[float]:
    return [float(each["metrics"][metric]) for each in curve if metric in each["metrics"]]


def main_metric(run: Json, curve: list[Json]) -> str | None:
    """The metric to draw: the first reported one of the policy's monitors, `val_loss`, `loss` and all others."""
    from remotelr.rules import InvalidPolicy, policy_from_json

    reported: set[str] = {name for each in curve for name in each["metrics"]}
    try:
        monitors = policy_from_json(run["policy"]).monitors()
    except InvalidPolicy:
        # The service may be of a newer release.
        monitors = ()
    return next((name for name in (*monitors, "val_loss", "loss", *sorted(reported)) if name in reported), None)


def status_text(run: Json) -> str:
    """The run's status, or `stalled`."""
    return "stalled" if run.get("stalled") else str(run["status"])


def progress(run: Json) -> str:
    """The epoch, and the total if it is known."""
    return f"{run['epoch']}/{run['total_epochs']}" if run["total_epochs"] else str(run["epoch"])


def policy_summary(policy: Json) -> str:
    """The policy in one line: its schedule, its parameters and its unit."""
    node = policy.get("schedule", policy)
    parts = [part for part in node.get("schedules", []) if isinstance(part, dict)]
    inner = ", ".join(str(part.get("type")) for part in parts) or ", ".join(
        f"{name} {value.get('type', '{…}') if isinstance(value, dict) else output.measured(value)}"
        for name, value in node.items()
        if name != "type" and isinstance(value, str | int | float | dict)
    )
    unit = f", per {policy['unit']}" if "unit" in policy else ""
    return f"{node.get('type')} ({inner}){unit}"
