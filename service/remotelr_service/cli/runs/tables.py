"""What is shown of runs: a line for each, one with all that is known of it, its epochs, its commands."""

from typing import Any

from remotelr_service.cli import command_args as orders
from remotelr_service.cli.support import output as look
from remotelr_service.cli.support.http_client import Json
from remotelr_service.cli.support.run_data import in_short, losses_of, main_metric, progress, rates_of, standing

# How many epochs are drawn.
SPARKS = 40


def runs_table(found: list[Json]) -> Any:
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


def run_facts(run: Json, why: str | None, curve: list[Json]) -> Any:
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
            "rates": look.spark(rates, SPARKS, logarithmic=True) if len(rates) > 1 else None,
            metric or "": f"{look.spark(losses, SPARKS)}  {look.measured(losses[-1])}" if losses else None,
            "attempt": str(run["attempt"]),
            "ranks": str(run["world_size"]) if run["world_size"] > 1 else None,
            "experiment": run["experiment"],
            "tags": look.tags(run["tags"]),
            "policy": look.safe(in_short(run["policy"])),
            "seq": str(run["seq"]),
            "created": look.ago(run["created_at"]),
            "heard of": look.ago(run["updated_at"]),
        }
    )


def history_table(reports: list[Json]) -> Any:
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
