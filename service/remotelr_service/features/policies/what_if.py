"""What if: the losses a run has recorded, under other policies. Nothing is stored; the rules are the real ones."""

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

# Epochs times policies: about a second of work.
MAX_DECISIONS = 20_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Alternative:
    """What a run would have been told under another policy.

    learning_rates: one for each epoch of the `WhatIf`. reductions: how often a plateau lowered the rate.
    stops_at: the first epoch it would not have begun; None where it would have gone on.
    """

    learning_rates: Sequence[float]
    reductions: int
    stops_at: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class WhatIf:
    """The rates of a run, and those it would have had. epochs: those reported, and the next one."""

    epochs: Sequence[int]
    actual: Sequence[float]
    alternatives: Mapping[str, Alternative]


def what_if(engine: Engine, key: str, policies: Mapping[str, Policy]) -> WhatIf:
    """The rates the run would have had under each of these policies, beside those it had.

    Each policy is given what was reported, without what was rewound, and no command of an operator: they were
    answers to the rates of then. The losses stay as they were recorded, though other rates would have made others.

    Raises RunNotFound, LogTooLong; InvalidPolicy when one lacks what the run does not give, InvalidReport when
    one counts steps and nobody said how many there were.
    """
    with reading(engine) as connection:
        stored = get_stored_run(connection, key)
        events = effective_events(connection, stored)
    epochs = reported_epochs(events)
    if len(epochs) * len(policies) > MAX_DECISIONS:
        raise LogTooLong(
            f"{len(epochs):,} epochs under {len(policies)} policies are more than {MAX_DECISIONS:,} decisions: "
            f"ask for fewer policies at once"
        )
    real = decisions_in_force(events)
    record = _Record(stored.run.spec, epochs, [*(each.epoch for each in epochs), stored.run.epoch], real)
    return WhatIf(
        epochs=record.shown,
        actual=rates_at(record.shown, real),
        alternatives={name: _alternative(name, policy, record) for name, policy in policies.items()},
    )


def rates_at(epochs: Sequence[int], decisions: Sequence[Decision]) -> list[float]:
    """The rate in force in each of these epochs, which ascend as the decisions do: that of the newest one before."""
    rates: list[float] = []
    index = 0
    for epoch in epochs:
        while index + 1 < len(decisions) and decisions[index + 1].epoch <= epoch:
            index += 1
        rates.append(decisions[index].learning_rate)
    return rates


@dataclass(frozen=True, slots=True)
class _Record:
    """What a run has gone through. shown: the epochs whose rates are asked for."""

    spec: RunSpec
    epochs: Sequence[Epoch]
    shown: Sequence[int]
    decisions: Sequence[Decision]

    def begun(self) -> set[int]:
        """The epochs at which a trainer began, and that no report led to."""
        return {decision.epoch for decision in self.decisions} - {each.epoch + 1 for each in self.epochs}


def _alternative(name: str, policy: Policy, record: _Record) -> Alternative:
    try:
        run = LocalRun("what-if", replace(record.spec, policy=policy, world_size=1))
    except InvalidPolicy as error:
        raise error.under(f"policies.{name}") from None
    begun = record.begun()
    for each in record.epochs:
        if each.epoch in begun and each.epoch > run.run.epoch:
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
    """What the policy would have made of the ranks that were heard then."""
    if world_size == 1 and len(epoch.reports) == 1:
        (alone,) = epoch.reports.values()
        return alone.metrics
    reducing = aggregate or Aggregate()
    heard = {0: epoch.reports[0]} if reducing.ranks == "rank0" and 0 in epoch.reports else epoch.reports
    return reducing.reduce({rank: (report.metrics, report.weight) for rank, report in heard.items()})
