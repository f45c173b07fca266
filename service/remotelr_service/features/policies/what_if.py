"""Evaluates other policies on a run's reported metrics, with the same rules. Nothing is stored."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from sqlalchemy import Engine

from remotelr.rules import Aggregate, AttemptRequest, Decision, InvalidPolicy, Policy, RunSpec
from remotelr.rules.local_run import LocalRun
from remotelr.rules.run.model import Report
from remotelr_service.db.engine import reading
from remotelr_service.db.queries.runs import get_stored_run
from remotelr_service.errors import LogTooLong
from remotelr_service.features.policies.recorded import Epoch, decisions_in_force, effective_events, reported_epochs

# Epochs times policies: about one second of work.
MAX_DECISIONS = 20_000


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


def what_if(engine: Engine, key: str, policies: Mapping[str, Policy]) -> WhatIf:
    """The rates of the run under each of these policies, beside its actual rates.

    Each policy gets the effective reports and no commands. The metrics are the recorded ones, although other rates
    would have changed them.

    Raises RunNotFound, LogTooLong; InvalidPolicy if a policy needs a value that the run does not set; InvalidReport if
    a policy counts steps and the reports have none.
    """
    with reading(engine) as connection:
        stored = get_stored_run(connection, key)
        events = effective_events(connection, stored)
    epochs = reported_epochs(events)
    if len(epochs) * len(policies) > MAX_DECISIONS:
        raise LogTooLong(
            f"epochs times policies must be at most {MAX_DECISIONS:,}, got {len(epochs):,} times {len(policies)}: "
            f"send fewer policies"
        )
    real = decisions_in_force(events)
    record = _Record(stored.run.spec, epochs, [*(each.epoch for each in epochs), stored.run.epoch], real)
    return WhatIf(
        epochs=record.shown,
        actual=rates_at(record.shown, real),
        alternatives={name: _alternative(name, policy, record) for name, policy in policies.items()},
    )


def rates_at(epochs: Sequence[int], decisions: Sequence[Decision]) -> list[float]:
    """The rate in force in each of these epochs. epochs and decisions: in ascending order."""
    rates: list[float] = []
    index = 0
    for epoch in epochs:
        while index + 1 < len(decisions) and decisions[index + 1].epoch <= epoch:
            index += 1
        rates.append(decisions[index].learning_rate)
    return rates


@dataclass(frozen=True, slots=True)
class _Record:
    """The recorded history of a run. shown: the epochs of the result."""

    spec: RunSpec
    epochs: Sequence[Epoch]
    shown: Sequence[int]
    decisions: Sequence[Decision]

    def first_epochs(self) -> set[int]:
        """The epochs at which an attempt began without a report of the epoch before."""
        return {decision.epoch for decision in self.decisions} - {each.epoch + 1 for each in self.epochs}


def _alternative(name: str, policy: Policy, record: _Record) -> Alternative:
    try:
        run = LocalRun("what-if", replace(record.spec, policy=policy, world_size=1))
    except InvalidPolicy as error:
        raise error.under(f"policies.{name}") from None
    first_epochs = record.first_epochs()
    for each in record.epochs:
        if each.epoch in first_epochs and each.epoch > run.run.epoch:
            # The trainer began after a gap with the rate of that epoch.
            run.begin(AttemptRequest(key=f"epoch {each.epoch}", epoch=each.epoch, gap=True))
        metrics = _metrics(each, policy.aggregate, record.spec.world_size)
        run.report(Report(epoch=each.epoch, metrics=metrics, step=each.step))
    decisions = [event.decision for event in run.log.events if event.decision is not None]
    return Alternative(
        learning_rates=rates_at(record.shown, decisions),
        reductions=sum(decision.reason == "plateau" for decision in decisions),
        stops_at=next((decision.epoch for decision in decisions if decision.action == "stop"), None),
    )


def _metrics(epoch: Epoch, aggregate: Aggregate | None, world_size: int) -> Mapping[str, float]:
    """The aggregate of the epoch's reports under the policy."""
    if world_size == 1 and len(epoch.reports) == 1:
        (alone,) = epoch.reports.values()
        return alone.metrics
    aggregate_or_default = aggregate or Aggregate()
    reports = {0: epoch.reports[0]} if aggregate_or_default.ranks == "rank0" and 0 in epoch.reports else epoch.reports
    return aggregate_or_default.reduce({rank: (report.metrics, report.weight) for rank, report in reports.items()})
