"""Stores reports and decides. This is the hot path."""

import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Final

from remotelr import rules
from remotelr.rules import Decision, Report, RulesError, Waiting
from remotelr_service.db.writer.transaction import WriteTransaction
from remotelr_service.db.writer.writer import Writer
from remotelr_service.features.training.deadlines import decide_if_due
from remotelr_service.features.training.decisions import wait_for_ranks
from remotelr_service.features.training.override_expiry import expire_overrides
from remotelr_service.live.waiters import RunWaiters

# Seconds of the writer that a batch takes at once: other runs wait meanwhile.
BATCH_S: Final = 0.05


async def report(writer: Writer, key: str, report: Report) -> Decision | Waiting:
    """The decision for the epoch after the reported one; Waiting if reports of other ranks are missing.

    A repeated report gets the same answer again, at any later time.
    Raises RunNotFound, and the errors of `remotelr.rules.report`; then nothing is stored.
    """
    return await _submit(writer, key, report)


async def await_ranks(
    writer: Writer, waiters: RunWaiters, report: Report, waiting: Waiting, wait_s: float
) -> Decision | Waiting:
    """The decision for a report that is waiting for other ranks; `waiting` after `wait_s` seconds.

    Raises what `report` raises.
    """
    decision = await wait_for_ranks(waiters, waiting, wait_s)
    if decision is None:
        return waiting
    if (decision.attempt, decision.epoch) == (waiting.attempt, waiting.epoch + 1):
        return replace(decision, replayed=True)
    # The run was decided further, or rewound, meanwhile.
    return await _submit(writer, waiting.run, report)


async def report_batch(writer: Writer, key: str, reports: Sequence[Report]) -> list[Decision | Waiting | RulesError]:
    """The answers to reports, as if they were sent one by one.

    They share a transaction as long as it takes less than `BATCH_S`. The first rejected report ends the batch: the
    reports before it are stored, the reports after it are ignored. Raises RunNotFound.
    """
    answers: list[Decision | Waiting | RulesError] = []
    while len(answers) < len(reports) and not (answers and isinstance(answers[-1], RulesError)):
        left = reports[len(answers) :]
        prefetch = [(each.epoch, each.rank) for each in left]
        answers += await writer.submit(partial(_report_all, key=key, reports=left), key, prefetch=prefetch)
    return answers


def _report_all(tx: WriteTransaction, *, key: str, reports: Sequence[Report]) -> list[Decision | Waiting | RulesError]:
    """The answers to reports up to the first rejected one, or until `BATCH_S` has passed; one at least."""
    tx.get(key)
    ends_at = time.monotonic() + BATCH_S
    answers: list[Decision | Waiting | RulesError] = []
    for each in reports:
        try:
            answers.append(_report(tx, key, each))
        except RulesError as error:
            answers.append(error)
            break
        if time.monotonic() > ends_at:
            break
    return answers


async def _submit(writer: Writer, key: str, report: Report) -> Decision | Waiting:
    return await writer.submit(lambda tx: _report(tx, key, report), key, prefetch=[(report.epoch, report.rank)])


def _report(tx: WriteTransaction, key: str, report: Report) -> Decision | Waiting:
    stored = tx.get(key)
    if report.epoch >= stored.run.epoch:
        # A repeated report gets its first answer and changes nothing.
        stored = expire_overrides(tx, stored)
    outcome = rules.report(stored.run, report, tx.log(key))
    stored = tx.append(stored, outcome)
    assert outcome.answer is not None, "a report has an answer"
    if isinstance(outcome.answer, Waiting):
        decision = decide_if_due(tx, stored)
        if isinstance(decision, Decision) and decision.epoch == report.epoch + 1:
            return decision
    return outcome.answer
