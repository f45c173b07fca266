"""Queries on stalled runs. The caller owns the transaction; no query commits."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, func, insert, select, update

from remotelr_service.db.queries.runs import StoredRun, database_time
from remotelr_service.db.tables import events, runs, stalls


@dataclass(frozen=True, slots=True)
class QuietRun:
    """A running run without a recent event. seq: the number of its newest event."""

    id: int
    key: str
    seq: int


@dataclass(frozen=True, slots=True)
class Pace:
    """The time of the last report or attempt, and the last decided epochs as (attempt, epoch, time), newest first."""

    reported_at: datetime | None
    epochs: Sequence[tuple[int, int, datetime]]


# The number of epochs that give the typical time of an epoch.
EPOCHS = 9


def list_quiet(
    connection: Connection, quiet_s: float, at: datetime | None, *, after: str | None = None, among: int
) -> tuple[list[QuietRun], str | None]:
    """The quiet runs among the next `among` running runs after `after`, in order of key.

    A run is quiet if its last event is older than `quiet_s`, and it is not known as stalled.
    Returns them with the key to continue after, or None at the end. Reads at most `among` rows.
    """
    before = (at or database_time(connection)) - timedelta(seconds=quiet_s)
    page = select(runs.c.id, runs.c.key, runs.c.seq, runs.c.stalled_at, runs.c.updated_at)
    page = page.where(runs.c.status == "running", runs.c.key > (after or "")).order_by(runs.c.key).limit(among)
    rows = connection.execute(page).all()
    quiet = [QuietRun(row.id, row.key, row.seq) for row in rows if row.stalled_at is None and row.updated_at <= before]
    return quiet, rows[-1].key if len(rows) == among else None


def pace_of(connection: Connection, run_id: int) -> Pace:
    """The pace of the run."""
    decided = (
        select(events.c.attempt, events.c.epoch, events.c.created_at)
        .where(events.c.run_id == run_id, events.c.kind.in_(("report", "timeout")), events.c.learning_rate.is_not(None))
        .order_by(events.c.seq.desc())
        .limit(EPOCHS)
    )
    last_activity = (
        select(events.c.created_at)
        .where(events.c.run_id == run_id, events.c.kind.in_(("report", "attempt")))
        .order_by(events.c.seq.desc())
        .limit(1)
    )
    epochs = [(row.attempt, row.epoch, row.created_at) for row in connection.execute(decided)]
    return Pace(connection.execute(last_activity).scalar(), epochs)


def add_stall(
    connection: Connection, stored: StoredRun, reported_at: datetime, typical_epoch_s: float, at: datetime
) -> None:
    """Insert a stall of the run."""
    run = stored.run
    row = {"run_id": stored.id, "seq": run.seq, "attempt": run.attempt, "epoch": run.epoch}
    connection.execute(
        insert(stalls), {**row, "reported_at": reported_at, "typical_epoch_s": typical_epoch_s, "created_at": at}
    )
    connection.execute(update(runs).where(runs.c.id == stored.id).values(stalled_at=at))


def end_stall(connection: Connection, stored: StoredRun) -> None:
    """End the stall: the trainer reports again, or the run has ended."""
    connection.execute(update(runs).where(runs.c.id == stored.id).values(stalled_at=None))


def count_stalled(connection: Connection) -> int:
    return connection.execute(select(func.count()).where(runs.c.stalled_at.is_not(None))).scalar_one()
