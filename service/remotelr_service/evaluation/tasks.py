"""The long evaluations, as functions from JSON to JSON, so that a process of their own can run them.

A task needs no database: its caller reads what it needs and hands it over.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from remotelr.rules import (
    Aggregate,
    AttemptRequest,
    InvalidPolicy,
    Policy,
    Report,
    RunSpec,
    RunState,
    policy_from_json,
    preview,
    rate_at,
)
from remotelr.rules.local_run import LocalRun

Json = dict[str, Any]


def preview_curve(arguments: Json) -> Json:
    """`remotelr.rules.preview` of a policy document."""
    curve = preview(policy_from_json(arguments.pop("policy")), **arguments)
    return {"learning_rates": list(curve.learning_rates), "momentum": curve.momentum and list(curve.momentum)}


def step_rates(arguments: Json) -> list[list[float]]:
    """The rate of each step of each epoch in `epochs`: its spec, state, epoch, first step and number of steps."""
    rates = []
    for each in arguments["epochs"]:
        policy, state = RunSpec.from_json(each["spec"]).bound(), RunState.from_json(each["state"])
        first = each["first"]
        steps = range(first, first + each["count"])
        rates.append([rate_at(policy, state, each["epoch"], step).learning_rate for step in steps])
    return rates


def what_if(arguments: Json) -> Json:
    """The rates that a run would have had under each of `policies`, from the reports of its epochs.

    spec: of the run. epochs: each with its epoch, step and reports by rank. shown: the epochs of the answer.
    begun: the epochs at which an attempt began after a gap.
    """
    return {name: _alternative(name, document, arguments) for name, document in arguments["policies"].items()}


def rates_at(epochs: Sequence[int], decided: Sequence[tuple[int, float]]) -> list[float]:
    """The rate in force in each of these ascending epochs. decided: ascending epochs, each with its rate."""
    rates: list[float] = []
    index = 0
    for epoch in epochs:
        while index + 1 < len(decided) and decided[index + 1][0] <= epoch:
            index += 1
        rates.append(decided[index][1])
    return rates


TASKS: Mapping[str, Callable[[Json], Any]] = {"preview": preview_curve, "step_rates": step_rates, "what_if": what_if}


def _alternative(name: str, document: Json, arguments: Json) -> Json:
    spec = RunSpec.from_json(arguments["spec"])
    policy = policy_from_json(document)
    try:
        run = LocalRun("what-if", replace(spec, policy=policy, world_size=1))
    except InvalidPolicy as error:
        raise error.under(f"policies.{name}") from None
    begun = set(arguments["begun"])
    for each in arguments["epochs"]:
        epoch = each["epoch"]
        if epoch in begun and epoch > run.run.epoch:
            run.begin(AttemptRequest(key=f"epoch {epoch}", epoch=epoch, gap=True))
        run.report(Report(epoch=epoch, metrics=_metrics(each["reports"], policy, spec.world_size), step=each["step"]))
    decisions = [event.decision for event in run.log.events if event.decision is not None]
    return {
        "learning_rates": rates_at(arguments["shown"], [(each.epoch, each.learning_rate) for each in decisions]),
        "reductions": sum(decision.reason == "plateau" for decision in decisions),
        "stops_at": next((decision.epoch for decision in decisions if decision.action == "stop"), None),
    }


def _metrics(reports: Json, policy: Policy, world_size: int) -> Mapping[str, float]:
    """The metrics of the recorded ranks as this policy reduces them."""
    by_rank = {int(rank): (report["metrics"], report["weight"]) for rank, report in reports.items()}
    if world_size == 1 and len(by_rank) == 1:
        metrics: Mapping[str, float] = next(iter(by_rank.values()))[0]
        return metrics
    aggregate = policy.aggregate or Aggregate()
    if aggregate.ranks == "rank0" and 0 in by_rank:
        by_rank = {0: by_rank[0]}
    return aggregate.reduce(by_rank)
