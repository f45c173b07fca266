"""Evaluates other policies on a run's reported metrics, with the same rules. Nothing is stored."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Engine

from remotelr.rules import Policy, policy_to_json
from remotelr.rules.policy.cost import cost_of
from remotelr_service.db.engine import reading
from remotelr_service.db.queries.runs import get_stored_run
from remotelr_service.errors import LogTooLong
from remotelr_service.evaluation.evaluator import Evaluator
from remotelr_service.evaluation.tasks import rates_at
from remotelr_service.features.policies.recorded import Epoch, decisions_in_force, effective_events, reported_epochs

# Epochs times policies: about one second of work.
MAX_DECISIONS = 20_000
# A report takes about 150 us, in parts of 0.1 us, and evaluates its policy this often.
REPORT_COST: Final = 1_500
EVALUATIONS: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Alternative:
    """The decisions of a run under another policy.

    learning_rates: one for each epoch of the `WhatIf`. reductions: the number of reductions by a plateau.
    stops_at: the epoch at which the policy stops the run; None if it does not.
    """

    learning_rates: Sequence[float]
    reductions: int
    stops_at: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class WhatIf:
    """The actual rates of a run, and its rates under other policies. epochs: the reported ones and the next one."""

    epochs: Sequence[int]
    actual: Sequence[float]
    alternatives: Mapping[str, Alternative]


async def what_if(engine: Engine, evaluator: Evaluator, key: str, policies: Mapping[str, Policy]) -> WhatIf:
    """The rates of the run under each of these policies, beside its actual rates.

    Each policy gets the effective reports and no commands. The metrics are the recorded ones, although other rates
    would have changed them.

    Raises RunNotFound, LogTooLong, EvaluationTooLong; InvalidPolicy if a policy needs a value that the run does not
    set; InvalidReport if a policy counts steps and the reports have none.
    """
    record, actual = await asyncio.to_thread(_record, engine, key, policies)
    alternatives = await evaluator.evaluate(
        "what_if",
        record,
        count=len(record["epochs"]) * len(policies),
        cost=REPORT_COST + EVALUATIONS * max(cost_of(policy.schedule) for policy in policies.values()),
        what="policies",
    )
    return WhatIf(
        epochs=record["shown"],
        actual=actual,
        alternatives={name: Alternative(**each) for name, each in alternatives.items()},
    )


def _record(engine: Engine, key: str, policies: Mapping[str, Policy]) -> tuple[dict[str, Any], list[float]]:
    """The arguments of the task `what_if`, and the actual rates of the epochs that it shows."""
    with reading(engine) as connection:
        stored = get_stored_run(connection, key)
        events = effective_events(connection, stored)
    epochs = reported_epochs(events)
    if len(epochs) * len(policies) > MAX_DECISIONS:
        raise LogTooLong(
            f"epochs times policies must be at most {MAX_DECISIONS:,}, got {len(epochs):,} times {len(policies)}: "
            f"send fewer policies"
        )
    decisions = decisions_in_force(events)
    shown = [*(each.epoch for each in epochs), stored.run.epoch]
    # An attempt began at these epochs without a report of the epoch before.
    begun = {decision.epoch for decision in decisions} - {each.epoch + 1 for each in epochs}
    record = {
        "spec": stored.run.spec.to_json(),
        "policies": {name: policy_to_json(policy) for name, policy in policies.items()},
        "epochs": [_epoch_to_json(each) for each in epochs],
        "begun": sorted(begun),
        "shown": shown,
    }
    return record, rates_at(shown, [(each.epoch, each.learning_rate) for each in decisions])


def _epoch_to_json(epoch: Epoch) -> dict[str, Any]:
    reports = {
        str(rank): {"metrics": dict(report.metrics), "weight": report.weight} for rank, report in epoch.reports.items()
    }
    return {"epoch": epoch.epoch, "step": epoch.step, "reports": reports}
