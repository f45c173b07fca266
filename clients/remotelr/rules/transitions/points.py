"""Points: the reports of one epoch by all ranks, and their decision."""

from collections.abc import Mapping
from typing import Any, Literal

from remotelr.rules.errors import InvalidReport
from remotelr.rules.policy.aggregate import Aggregate
from remotelr.rules.policy.policy import Policy
from remotelr.rules.run.events import Log
from remotelr.rules.run.model import Outcome, Report, Run, report_from_event
from remotelr.rules.schedules.base import Point, State
from remotelr.rules.transitions.decide import decide_rate, gap_note, position_of, start_position
from remotelr.rules.transitions.policy_checks import check_point
from remotelr.rules.transitions.why import why_of_plateau
from remotelr.rules.values.records import replace


def aggregate_of(run: Run) -> Aggregate:
    return run.policy.aggregate or Aggregate()


def count_reports(run: Run, epoch: int, log: Log) -> int:
    """The number of reports that count for the decision of the point."""
    if aggregate_of(run).ranks == "rank0":
        return int(log.report(epoch, 0) is not None)
    return log.count(epoch)


def reports_of(epoch: int, log: Log) -> dict[int, Report]:
    """The reports of the point by rank."""
    return {event.rank or 0: report_from_event(event) for event in log.reports(epoch)}


def decide_point(
    run: Run,
    kind: Literal["report", "timeout"],
    epoch: int,
    reports: Mapping[int, Report],
    *,
    payload: Mapping[str, Any],
    notes: Mapping[str, Any],
    rank: int | None = None,
    hold: bool = False,
) -> Outcome:
    """Decide the epoch after the point `epoch` from these reports by rank.

    hold: the schedule does not observe the point.
    Raises InvalidReport if the policy counts steps and their number is unknown.
    """
    policy, state = run.policy, run.state
    began = start_position(run, epoch)
    step = steps_at_end(run, epoch, _reported_step(reports))
    position = position_of(policy, epoch + 1, step)
    clock = state.clock if not state.overrides else state.clock_at(policy, epoch + 1, position)
    metrics = {} if hold else _metrics(run, reports)
    seen: dict[str, Any] = {}
    if policy.guard is not None or policy.stop is not None:
        state, seen = check_point(run, metrics, epoch)
    moved, schedule = 0, state.schedule
    if hold or "guard" in seen:
        seen["held"] = True
    elif not clock.paused:
        # Overrides of the reported epoch are applied; those of the next one are not.
        schedule = policy.observe(schedule, Point(clock.read(began), metrics))
        before, rate = state.schedule, run.learning_rate
        if schedule is not before:
            moved = _rate_direction(policy, before, schedule, clock.read(position))
            state = replace(state, schedule=schedule)
        if schedule is not None:
            plateau = why_of_plateau(policy.schedule, before, schedule, metrics, moved=moved, learning_rate=rate)
            if plateau is not None:
                seen["plateau"] = plateau
    return decide_rate(
        run,
        kind,
        epoch=epoch + 1,
        step=step,
        state=state,
        reason="plateau" if moved else "schedule",
        payload=payload,
        seen=seen,
        notes={**gap_note(run.epoch, epoch), **notes},
        event_epoch=epoch,
        rank=rank,
    )


def steps_at_end(run: Run, epoch: int, reported: int | None) -> int | None:
    """Optimizer steps by the end of `epoch`; None if the policy counts epochs and no report has them.

    reported: the steps of a report. Raises InvalidReport if they are needed and unknown.
    """
    if reported is not None:
        return max(reported, run.step or 0)
    if run.policy.unit == "epoch":
        return None
    if run.spec.steps_per_epoch is None:
        raise InvalidReport(
            "the policy counts steps; set `step` in each report, or steps_per_epoch of the run", field="step"
        )
    return int(start_position(run, epoch)) + run.spec.steps_per_epoch


def _rate_direction(policy: Policy, before: State, after: State, position: float) -> int:
    """Whether the observation lowered (-1), raised (1) or kept (0) the rate at `position`."""
    old, new = policy.raw_learning_rate(before, position), policy.raw_learning_rate(after, position)
    return (new > old) - (new < old)


def _metrics(run: Run, reports: Mapping[int, Report]) -> Mapping[str, float]:
    if run.spec.world_size == 1:
        (alone,) = reports.values()
        return alone.metrics
    return aggregate_of(run).reduce({rank: (report.metrics, report.weight) for rank, report in reports.items()})


def _reported_step(reports: Mapping[int, Report]) -> int | None:
    """Step count of the lowest rank that reported one; independent of arrival order."""
    return next((reports[rank].step for rank in sorted(reports) if reports[rank].step is not None), None)


# quorum: a new policy needs fewer ranks, and they have reported.
TimeoutCause = Literal["timeout", "quorum"]


def decide_timed_out(run: Run, log: Log) -> Outcome:
    """Decide the oldest point that waits for ranks, by the policy's `on_timeout`.

    The caller has a clock and calls it `run.timeout_s` after the point's first report. The outcome has no event if no
    point waits. Raises InvalidReport if the policy counts steps and their number is unknown.
    """
    waiting = log.next_reported(run.epoch)
    if waiting is None or run.timeout_s is None or run.status != "running":
        return Outcome(run=run, event=None)
    return decide_partial(run, waiting, log, "timeout")


def decide_partial(run: Run, epoch: int, log: Log, because: TimeoutCause) -> Outcome:
    """Decide the point `epoch` from the ranks that reported, which the event's notes list.

    After a timeout all of them count, even if the policy uses rank 0 alone.
    """
    aggregate = aggregate_of(run)
    reports = reports_of(epoch, log)
    if because == "quorum" and aggregate.ranks == "rank0":
        reports = {0: reports[0]}
    return decide_point(
        run,
        "timeout",
        epoch,
        reports,
        payload={"cause": because},
        notes={"ranks": sorted(reports)},
        hold=because == "timeout" and aggregate.on_timeout == "hold",
    )
