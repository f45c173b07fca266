"""Tables of runs, of one run's state, of its reports and of its commands."""

from typing import Any

from remotelr_service.cli import command_args
from remotelr_service.cli.support import output
from remotelr_service.cli.support.http_client import Json
from remotelr_service.cli.support.run_data import (
    losses_of,
    main_metric,
    policy_summary,
    progress,
    rates_of,
    status_text,
)

# Epochs in a sparkline.
SPARKS = 40


def runs_table(found: list[Json]) -> Any:
    table = output.table(
        "run", "status", "epoch", "rate", "by", "experiment", "tags", "updated", right=("epoch", "rate")
    )
    for run in found:
        table.add_row(
            run["run"],
            output.status(status_text(run)),
            progress(run),
            output.rate(run["learning_rate"]),
            run["decision"]["reason"],
            run["experiment"] or "",
            output.tags(run["tags"]),
            output.ago(run["updated_at"]),
        )
    return table


def run_facts(run: Json, why: str | None, curve: list[Json]) -> Any:
    metric = main_metric(run, curve)
    losses, rates = losses_of(curve, metric), [*rates_of(curve), run["learning_rate"]]
    plateau = run["decision"]["plateau"] or {}
    return output.facts(
        {
            "run": run["run"],
            "status": output.status(status_text(run)),
            "epoch": progress(run),
            "rate": f"{output.rate(run['learning_rate'])} ({run['decision']['reason']})",
            "beneath": _beneath(run),
            "why": None if why is None else output.safe(why),
            "action": "stop" if run["decision"]["action"] == "stop" else None,
            "plateau": output.safe("  ".join(f"{name} {output.measured(value)}" for name, value in plateau.items())),
            "rates": output.spark(rates, SPARKS, logarithmic=True) if len(rates) > 1 else None,
            metric or "": f"{output.spark(losses, SPARKS)}  {output.measured(losses[-1])}" if losses else None,
            "attempt": str(run["attempt"]),
            "ranks": str(run["world_size"]) if run["world_size"] > 1 else None,
            "experiment": run["experiment"],
            "tags": output.tags(run["tags"]),
            "policy": output.safe(policy_summary(run["policy"])),
            "seq": str(run["seq"]),
            "created": output.ago(run["created_at"]),
            "updated": output.ago(run["updated_at"]),
        }
    )


def _beneath(run: Json) -> str | None:
    """The policy's rate beneath an override, and how to return to it."""
    rate = run.get("learning_rate_beneath")
    return None if rate is None else f"{output.rate(rate)} (the policy's rate, after `release`)"


def history_table(reports: list[Json]) -> Any:
    metrics = sorted({name for each in reports for name in each["metrics"]})
    ranked = any(each["rank"] for each in reports)
    columns = ["epoch", *(["rank"] if ranked else []), *metrics, "rate", "used", "next rate", "by", "attempt", "at"]
    table = output.table(*columns, right=("epoch", "rank", *metrics, "rate", "used", "next rate", "attempt"))
    for each in reports:
        table.add_row(
            str(each["epoch"]),
            *([str(each["rank"])] if ranked else []),
            *(output.measured(each["metrics"].get(name)) for name in metrics),
            output.rate(each["learning_rate"]),
            output.rate(each["used_learning_rate"]),
            output.rate(each["next_learning_rate"]),
            each["reason"] or "",
            str(each["attempt"]),
            output.clock(each["created_at"]),
            style=None if each["superseded_by"] is None else "dim",
        )
    return table


def commands_table(found: list[Json]) -> Any:
    columns = ("seq", "command", "state", "epoch", "rate", "actor", "reason", "at")
    table = output.table(*columns, right=("seq", "epoch", "rate"))
    for each in found:
        command = each.get("command", each)
        table.add_row(
            str(each["seq"]),
            output.safe(command_args.summary(command)),
            output.state(each["state"]),
            "" if each.get("at_epoch") is None else str(each["at_epoch"]),
            output.rate(each.get("rate")),
            output.safe(command.get("actor") or ""),
            output.safe(command.get("reason") or ""),
            output.clock(each["created_at"]),
        )
    return table
