"""What the runs feature returns, beside the rules' own types."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from remotelr.rules import Decision, Event, RunSpec
from remotelr.rules.run.decision import Action, Reason
from remotelr.rules.run.model import Status
from remotelr_service.db.queries.runs import StoredRun


@dataclass(frozen=True, slots=True, kw_only=True)
class RunView:
    """A run as its owner sees it.

    attempt: the life of the trainer group in charge; 0 before the first.
    epoch: the next epoch to be reported; `learning_rate` is its rate, `step` the optimizer steps before it.
    seq: number of the newest event. decision: the decision in force.
    stalled: nothing was heard of its trainer for much longer than an epoch takes.
    """

    key: str
    experiment: str | None
    tags: Mapping[str, str]
    spec: RunSpec
    attempt: int
    epoch: int
    step: int | None
    learning_rate: float
    status: Status
    policy_version: int
    created_at: datetime
    updated_at: datetime
    seq: int
    decision: Decision
    stalled: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Some runs in order of key. after: what to ask for the next page with; None on the last."""

    runs: Sequence[RunView]
    after: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryRow:
    """One reported epoch of one rank.

    seq: number of the report in the run's log.
    learning_rate: the rate the epoch was told to run with. used_learning_rate: the one the trainer says it
    ran with, where it says so.
    next_learning_rate, reason, action: the decision of its point, by whichever report or timeout it was taken; None as
    long as other ranks are awaited.
    superseded_by: the attempt that rewound past it; such a row counts no more.
    """

    seq: int
    epoch: int
    attempt: int
    rank: int
    metrics: Mapping[str, float]
    learning_rate: float
    used_learning_rate: float | None
    next_learning_rate: float | None
    reason: Reason | None
    action: Action | None
    superseded_by: int | None
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class EventView:
    """An event of a run's log, with its time."""

    event: Event
    created_at: datetime


def view_of(stored: StoredRun, decision: Decision) -> RunView:
    run = stored.run
    return RunView(
        key=run.key,
        experiment=stored.experiment,
        tags=stored.tags,
        spec=run.spec,
        attempt=run.attempt,
        epoch=run.epoch,
        step=run.step,
        learning_rate=run.learning_rate,
        status=run.status,
        policy_version=run.policy_version,
        created_at=stored.created_at,
        updated_at=stored.updated_at,
        seq=run.seq,
        decision=decision,
        stalled=stored.stalled_at is not None,
    )
