"""The queries for runs that have fallen silent; as in `store.py`, inside somebody else's transaction."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, func, insert, select, update

from remotelr_service.db.queries.runs import StoredRun, database_time
from remotelr_service.db.tables import events, runs, stalls

# Of so many epochs the usual time is taken.
EPOCHS = 9


@dataclass(frozen=True, slots=True)
class Quiet:
    """A running run of which nothing was stored for a while. seq: of its newest event."""

    id: int
    key: str
    seq: int


@dataclass(frozen=True, slots=True)
class Pace:
    """When a trainer was last heard of, and when the last epochs were decided: (attempt, epoch, time), newest first."""

    reported_at: datetime | None
    epochs: Sequence[tuple[int, int, datetime]]


def list_quiet(
    connection: Connection, silence_s: float, at: datetime | None, *, after: str | None = None, among: int
) -> tuple[list[Quiet], str | None]:
    """Of the next `among` running runs behind `after`, in order of key: those that are not known to be silent, and of
    which nothing was stored for `silence_s`. And the key to go on behind; None at the end.

    However many runs there are, no more than that is read.
    """
    before = (at or database_time(connection)) - timedelta(seconds=silence_s)
    page = select(runs.c.id, runs.c.key, runs.c.seq, runs.c.stalled_at, runs.c.updated_at)
    page = page.where(runs.c.status == "running", runs.c.key > (after or "")).order_by(runs.c.key).limit(among)
    rows = connection.execute(page).all()
    quiet = [Quiet(row.id, row.key, row.seq) for row in rows if row.stalled_at is None and row.updated_at <= before]
    return quiet, rows[-1].key if len(rows) == among else None


def pace_of(connection: Connection, run_id: int) -> Pace:
    """How fast the run goes."""
    decided = (
        select(events.c.attempt, events.c.epoch, events.c.created_at)
        .where(events.c.run_id == run_id, events.c.kind.in_(("report", "timeout")), events.c.learning_rate.is_not(None))
        .order_by(events.c.seq.desc())
        .limit(EPOCHS)
    )
    heard = (
        select(events.c.created_at)
        .where(events.c.run_id == run_id, events.c.kind.in_(("report", "attempt")))
        .order_by(events.c.seq.desc())
        .limit(1)
    )
    epochs = [(row.attempt, row.epoch, row.created_at) for row in connection.execute(decided)]
    return Pace(connection.execute(heard).scalar(), epochs)


def add_stall(
    connection: Connection, stored: StoredRun, reported_at: datetime, typical_epoch_s: float, at: datetime
) -> None:
    """Note that the run is silent."""
    run = stored.run
    row = {"run_id": stored.id, "seq": run.seq, "attempt": run.attempt, "epoch": run.epoch}
    connection.execute(
        insert(stalls), {**row, "reported_at": reported_at, "typical_epoch_s": typical_epoch_s, "created_at": at}
    )
    connection.execute(update(runs).where(runs.c.id == stored.id).values(stalled_at=at))


def end_stall(connection: Connection, stored: StoredRun) -> None:
    """Note that the run is heard of again, or is over."""
    connection.execute(update(runs).where(runs.c.id == stored.id).values(stalled_at=None))


def count_stalled(connection: Connection) -> int:
    return connection.execute(select(func.count()).where(runs.c.stalled_at.is_not(None))).scalar_one()
