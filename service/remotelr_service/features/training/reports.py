"""Reports: an epoch has ended. This is the hot path."""

from collections.abc import Sequence
from dataclasses import replace

from remotelr import rules
from remotelr.rules import Decision, Report, RulesError, Waiting
from remotelr_service.db.writer.transaction import WriteTransaction
from remotelr_service.db.writer.writer import Writer
from remotelr_service.features.training.deadlines import decide_if_due
from remotelr_service.features.training.decisions import wait_for_ranks
from remotelr_service.features.training.override_expiry import expire_overrides
from remotelr_service.live.waiters import RunWaiters


async def report(writer: Writer, key: str, report: Report) -> Decision | Waiting:
    """The decision for the epoch after the reported one, or that other ranks are awaited.

    A report that was already answered gets the same answer again, however much later.
    Raises RunNotFound, and what `remotelr.rules.report` does; then nothing has changed.
    """
    return await _submitted(writer, key, report)


async def await_ranks(
    writer: Writer, waiters: RunWaiters, report: Report, waiting: Waiting, wait_s: float
) -> Decision | Waiting:
    """The answer to a report that other ranks were awaited for, as soon as its point is decided.

    Still `waiting` when that takes longer than `wait_s`. Raises what `report` does.
    """
    decision = await wait_for_ranks(waiters, waiting, wait_s)
    if decision is None:
        return waiting
    if (decision.attempt, decision.epoch) == (waiting.attempt, waiting.epoch + 1):
        return replace(decision, replayed=True)
    # The run has gone on, or back, meanwhile.
    return await _submitted(writer, waiting.run, report)


async def report_batch(writer: Writer, key: str, reports: Sequence[Report]) -> list[Decision | Waiting | RulesError]:
    """The answers to reports in order, as if they had come one by one, in one transaction.

    The first refusal is the last entry: what stands before it is stored, what comes after it was not tried.
    Raises RunNotFound.
    """

    def action(tx: WriteTransaction) -> list[Decision | Waiting | RulesError]:
        tx.get(key)
        answers: list[Decision | Waiting | RulesError] = []
        for each in reports:
            try:
                answers.append(_report(tx, key, each))
            except RulesError as refusal:
                answers.append(refusal)
                break
        return answers

    return await writer.submit(action, key, prefetch=[(each.epoch, each.rank) for each in reports])


async def _submitted(writer: Writer, key: str, report: Report) -> Decision | Waiting:
    return await writer.submit(lambda tx: _report(tx, key, report), key, prefetch=[(report.epoch, report.rank)])


def _report(tx: WriteTransaction, key: str, report: Report) -> Decision | Waiting:
    stored = tx.get(key)
    if report.epoch >= stored.run.epoch:
        # A repetition is answered as it was, and changes nothing.
        stored = expire_overrides(tx, stored)
    outcome = rules.report(stored.run, report, tx.log(key))
    stored = tx.append(stored, outcome)
    assert outcome.answer is not None, "a report is always answered"
    if isinstance(outcome.answer, Waiting):
        closed = decide_if_due(tx, stored)
        if isinstance(closed, Decision) and closed.epoch == report.epoch + 1:
            return closed
    return outcome.answer
