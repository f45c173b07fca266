"""A point is decided without another report: the ranks that are missing are waited for no longer."""

from typing import Literal

from remotelr.rules.log import Log
from remotelr.rules.points import aggregate_of, decide_point, reports_of
from remotelr.rules.run import Outcome, Run

# Its time is over; or it has the ranks it needs by now, for a new policy needs fewer.
Because = Literal["timeout", "quorum"]


def expire(run: Run, log: Log) -> Outcome:
    """The decision for the point that waits for ranks, as the policy's `on_timeout` has it: their time is over.

    Of several the oldest. For who has a clock and has seen `run.timeout_s` pass since the point's first
    report; there is none here. Nothing comes of it when no point waits, or none for so long only.

    Raises InvalidReport where a policy that counts steps was told of none.
    """
    waiting = log.next_reported(run.epoch)
    if waiting is None or run.timeout_s is None or run.status != "running":
        return Outcome(run=run, event=None)
    return close(run, waiting, log, "timeout")


def close(run: Run, epoch: int, log: Log, because: Because) -> Outcome:
    """The decision for the point `epoch` with the ranks that are there, noted in the event.

    When its time is over everybody who is there has a say, also where rank 0 alone was to decide.
    """
    aggregate = aggregate_of(run)
    reports = reports_of(epoch, log)
    if because == "quorum" and aggregate.ranks == "rank0":
        reports = {0: reports[0]}
    return decide_point(
        run,
        "closing",
        epoch,
        reports,
        payload={"because": because},
        notes={"ranks": sorted(reports)},
        hold=because == "timeout" and aggregate.on_timeout == "hold",
    )
