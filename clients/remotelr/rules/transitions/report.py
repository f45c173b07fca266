"""The transition `report`: a rank reports an epoch. The report that completes the quorum decides the point."""

from collections.abc import Iterable, Iterator
from math import isclose
from typing import Any

from remotelr.rules.errors import InvalidReport, OutOfOrder, ReportConflict, RunFinished, UnknownAttempt
from remotelr.rules.run.decision import Waiting
from remotelr.rules.run.events import Event, Log
from remotelr.rules.run.model import Outcome, Report, Run
from remotelr.rules.run.state import apply_override, rate_at
from remotelr.rules.transitions.decide import check_last_seq, position_of, stale_attempt_error
from remotelr.rules.transitions.points import (
    aggregate_of,
    count_reports,
    decide_partial,
    decide_point,
    reports_of,
    steps_at_end,
)
from remotelr.rules.values.metrics import metrics_from_json, metrics_to_json, same_metrics
from remotelr.rules.values.records import replace

# Relative; rates this close are the same one in float32, which Keras and its backends use.
DRIFT_TOLERANCE = 1e-6


def report(run: Run, report: Report, log: Log) -> Outcome:
    """Decide the epoch after the reported one; a retry gets the stored decision.

    With several ranks the answer may be `Waiting`; the report is stored all the same.

    Raises StaleAttempt, UnknownAttempt, ServerBehind, ReportConflict (a retry with other metrics),
    OutOfOrder (a skipped epoch before the newest decision), RunFinished, InvalidReport.
    """
    _refuse_foreign_attempt(run, report)
    if not 0 <= report.rank < run.spec.world_size:
        raise InvalidReport(
            f"rank must be below the world_size of {run.spec.world_size}, got {report.rank}; "
            "set world_size when the attempt begins",
            field="rank",
        )
    check_last_seq(run, report.last_seq)
    if _may_be_known(run, report.epoch):
        known = log.report(report.epoch, report.rank)
        if known is not None:
            return _same_report(run, report, known, log)
    if report.epoch < run.epoch:
        return _late_report(run, report, log)
    _refuse_finished(run)
    _refuse_step_behind(run, report)
    if run.spec.world_size == 1:
        return _decide(run, report, log)
    need = aggregate_of(run).needed(run.spec.world_size)
    have = _count_with(run, report, log)
    return _decide(run, report, log) if have >= need else _waiting(run, report, have, need)


def log_lookups(run: Run, points: Iterable[tuple[int, int]]) -> tuple[set[tuple[int, int]], set[int]]:
    """The log queries that reports of these points may make, so that the service can prefetch them.

    points: an epoch and a rank each. Returns the points for `Log.report` and the epochs for `Log.count`.
    """
    reported, counted = set(), set()
    for epoch, rank in points:
        if not _may_be_known(run, epoch):
            continue
        reported.add((epoch, rank))
        if epoch >= run.epoch and aggregate_of(run).ranks == "rank0":
            reported.add((epoch, 0))
        elif epoch >= run.epoch:
            counted.add(epoch)
    return reported, counted


def _may_be_known(run: Run, epoch: int) -> bool:
    """Whether the point may be in the log; a new point of a run with one rank needs no query."""
    return epoch < run.epoch or run.spec.world_size > 1


def _decide(run: Run, report: Report, log: Log) -> Outcome:
    alone = run.spec.world_size == 1 or aggregate_of(run).ranks == "rank0"
    others = {} if alone else reports_of(report.epoch, log)
    return decide_point(
        run,
        "report",
        report.epoch,
        {**others, report.rank: report},
        payload=_report_payload(report),
        notes=_drift(run, report),
        rank=report.rank,
    )


def _count_with(run: Run, report: Report, log: Log) -> int:
    """The number of reports that count for the decision of the point, with this one."""
    if aggregate_of(run).ranks == "rank0":
        return int(report.rank == 0)
    return log.count(report.epoch) + 1


def _waiting(run: Run, report: Report, have: int, need: int) -> Outcome:
    # Reject a report without steps now, not the report that completes the quorum.
    steps_at_end(run, report.epoch, report.step)
    event = replace(_undecided(run, report), notes=_drift(run, report))
    return Outcome(run=replace(run, seq=event.seq), event=event, answer=_waiting_answer(run, report, have, need))


def _waiting_answer(run: Run, report: Report, have: int, need: int) -> Waiting:
    return Waiting(run=run.key, attempt=run.attempt, epoch=report.epoch, have=have, need=need)


def _late_report(run: Run, report: Report, log: Log) -> Outcome:
    """A report after the decision: it is stored, and the decision does not change."""
    decided = log.decided(report.epoch)
    if decided is None or decided.decision is None:
        raise _skipped_epoch_error(run, report)
    event = replace(_undecided(run, report), notes={"late": True})
    return Outcome(run=replace(run, seq=event.seq), event=event, answer=replace(decided.decision, replayed=True))


def _skipped_epoch_error(run: Run, report: Report) -> OutOfOrder:
    # A loop that counts from 1 finds its error here.
    count = "" if report.epoch else "epochs count from 0; "
    return OutOfOrder(
        f"epoch {report.epoch} was skipped and is before the newest decision, for epoch {run.epoch}; {count}"
        f"begin an attempt at epoch {report.epoch} to rewind",
        epoch=run.epoch,
    )


def _undecided(run: Run, report: Report) -> Event:
    return Event(
        seq=run.seq + 1,
        kind="report",
        attempt=run.attempt,
        epoch=report.epoch,
        rank=report.rank,
        effective_from=report.epoch + 1,
        payload=_report_payload(report),
    )


def _same_report(run: Run, report: Report, known: Event, log: Log) -> Outcome:
    metrics = metrics_from_json(known.payload["metrics"])
    if not same_metrics(metrics, report.metrics):
        raise ReportConflict(
            f"epoch {report.epoch} was already reported with other metrics; the first report remains in force",
            epoch=report.epoch,
            known=metrics_to_json(metrics),
            given=metrics_to_json(report.metrics),
        )
    if report.epoch < run.epoch:
        decided = log.decided(report.epoch)
        if decided is None or decided.decision is None:
            raise _skipped_epoch_error(run, report)
        return Outcome(run=run, event=None, answer=replace(decided.decision, replayed=True))
    _refuse_finished(run)
    have, need = count_reports(run, report.epoch, log), aggregate_of(run).needed(run.spec.world_size)
    if have >= need:
        return decide_partial(run, report.epoch, log, "quorum")
    return Outcome(run=run, event=None, answer=_waiting_answer(run, report, have, need))


def _refuse_foreign_attempt(run: Run, report: Report) -> None:
    if report.attempt is None or report.attempt == run.attempt:
        return
    if report.attempt < run.attempt:
        raise stale_attempt_error(run, report.attempt)
    raise UnknownAttempt(
        f"attempt {report.attempt} does not exist; attempt {run.attempt} is in force", attempt=run.attempt
    )


def _refuse_finished(run: Run) -> None:
    if run.status != "running":
        raise RunFinished(
            f"the run is {run.status}; begin an attempt to continue it", status=run.status, epoch=run.epoch
        )


def _refuse_step_behind(run: Run, report: Report) -> None:
    if report.step is not None and run.step is not None and report.step < run.step:
        raise InvalidReport(
            f"step must be >= {run.step}, where the epoch began, got {report.step}; count the steps of the run",
            field="step",
        )


def _drift(run: Run, report: Report) -> dict[str, float]:
    """The decided rate, if the trainer used another one."""
    used = report.learning_rate
    if used is None or report.epoch != run.epoch or _same_rate(used, run.learning_rate):
        return {}
    live = any(_same_rate(used, rate) for rate in _live_rates(run))
    return {"live" if live else "drift": run.learning_rate}


def _live_rates(run: Run) -> Iterator[float]:
    """The epoch's rates for a trainer that applies the commands of the next epoch immediately."""
    state, position = run.state, position_of(run.policy, run.epoch, run.step)
    for override in run.state.overrides:
        state = apply_override(run.policy, state, override, position)
        yield rate_at(run.policy, replace(state, overrides=()), run.epoch, position).learning_rate


def _same_rate(one: float, other: float) -> bool:
    return isclose(one, other, rel_tol=DRIFT_TOLERANCE)


def _report_payload(report: Report) -> dict[str, Any]:
    payload: dict[str, Any] = {"metrics": metrics_to_json(report.metrics)}
    optional = {"step": report.step, "learning_rate": report.learning_rate}
    payload |= {name: value for name, value in optional.items() if value is not None}
    if report.weight != 1.0:
        payload["weight"] = report.weight
    if report.local:
        payload["local"] = True
    return payload
