"""Queries on events and the decisions in them. The caller owns the transaction; no query commits."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Select, and_, bindparam, func, or_, select, update
from sqlalchemy.sql import ColumnElement

from remotelr.rules import Decision, Event
from remotelr.rules.run.events import OF_A_POINT, Kind
from remotelr_service.db.batch_sql import as_stored, insert_rows
from remotelr_service.db.queries.runs import StoredRun
from remotelr_service.db.rows import event_from_row, event_to_row
from remotelr_service.db.tables import events, runs
from remotelr_service.errors import RunNotFound

_IN_FORCE = and_(runs.c.id == events.c.run_id, runs.c.decided_seq == events.c.seq)


@dataclass(frozen=True, slots=True)
class RunPosition:
    """seq: the number of the run's newest event. decision: the decision in force."""

    seq: int
    decision: Decision


def add_events(connection: Connection, new: Sequence[tuple[int, Event]], at: datetime) -> None:
    """Insert events, each with the id of its run."""
    if not new:
        return
    created_at = as_stored(connection.dialect, at)
    insert_rows(connection, events, [event_to_row(run_id, event, created_at) for run_id, event in new])


def supersede(connection: Connection, run_id: int, attempt: Event) -> None:
    """Mark the events that a new attempt supersedes: `remotelr.rules.run.events.supersedes` in SQL."""
    rewound = or_(
        and_(events.c.kind.in_(sorted(OF_A_POINT)), events.c.epoch >= attempt.epoch),
        and_(events.c.kind == "attempt", events.c.epoch > attempt.epoch),
    )
    connection.execute(
        update(events)
        .where(events.c.run_id == run_id, events.c.seq < attempt.seq, events.c.superseded_by.is_(None), rewound)
        .values(superseded_by=attempt.attempt)
    )


def get_stored_decision(connection: Connection, stored: StoredRun) -> Decision:
    """The decision in force. Raises RunNotFound if the run or this decision was just deleted."""
    decision = list_decisions(connection, [stored]).get(stored.id)
    if decision is None:
        raise RunNotFound(stored.run.key)
    return decision


def list_decisions(connection: Connection, stored_runs: Collection[StoredRun]) -> dict[int, Decision]:
    """The decision in force of each run, by run id. A run that was just deleted is left out."""
    keys = {stored.id: stored.run.key for stored in stored_runs}
    query = select(events).join(runs, _IN_FORCE).where(runs.c.id.in_(bindparam("ids", expanding=True)))
    rows = connection.execute(query, {"ids": list(keys)}).mappings()
    decided = {row["run_id"]: event_from_row(keys[row["run_id"]], row).decision for row in rows}
    return {run_id: decision for run_id, decision in decided.items() if decision is not None}


def list_positions(connection: Connection, keys: Sequence[str]) -> dict[str, RunPosition]:
    """The position of each run, by key. A key without a run is left out."""
    found: dict[str, RunPosition] = {}
    query = select(events, runs.c.key.label("run"), runs.c.seq.label("last_seq")).join(runs, _IN_FORCE)
    query = query.where(runs.c.key.in_(bindparam("keys", expanding=True)))
    # A statement has a limited number of parameters.
    for begin in range(0, len(keys), 1_000):
        for row in connection.execute(query, {"keys": keys[begin : begin + 1_000]}).mappings():
            decision = event_from_row(row["run"], row).decision
            assert decision is not None, f"event {row['seq']} of run {row['run']} has no decision"
            found[row["run"]] = RunPosition(row["last_seq"], decision)
    return found


def find_event(
    connection: Connection, stored: StoredRun, *where: ColumnElement[bool], newest: bool = False
) -> Event | None:
    """The oldest event of the run, or its newest, that meets every condition."""
    order = events.c.seq.desc() if newest else events.c.seq
    query = select(events).where(events.c.run_id == stored.id, *where).order_by(order).limit(1)
    row = connection.execute(query).mappings().one_or_none()
    return None if row is None else event_from_row(stored.run.key, row)


def count_events(connection: Connection, stored: StoredRun, *where: ColumnElement[bool]) -> int:
    """The number of the run's events that meet every condition."""
    query = select(func.count()).select_from(events).where(events.c.run_id == stored.id, *where)
    return connection.execute(query).scalar_one()


def find_reported(connection: Connection, stored: StoredRun, since: int) -> tuple[int, datetime] | None:
    """The first reported epoch from `since` on, and the time of its first report."""
    query = (
        select(events.c.epoch, func.min(events.c.created_at))
        .where(
            events.c.run_id == stored.id,
            events.c.kind == "report",
            events.c.epoch >= since,
            events.c.superseded_by.is_(None),
        )
        .group_by(events.c.epoch)
        .order_by(events.c.epoch)
        .limit(1)
    )
    row = connection.execute(query).one_or_none()
    return None if row is None else (row[0], row[1])


def list_events(
    connection: Connection, stored: StoredRun, *where: ColumnElement[bool], after: int = 0, limit: int | None = None
) -> list[Event]:
    """The events of the run above `after` that meet every condition, oldest first."""
    query = select(events).where(events.c.run_id == stored.id, events.c.seq > after, *where)
    rows = connection.execute(query.order_by(events.c.seq).limit(limit)).mappings()
    return [event_from_row(stored.run.key, row) for row in rows]


def list_dated_events(
    connection: Connection, stored: StoredRun, *, after: int, limit: int, kind: Kind | None = None
) -> list[tuple[Event, datetime]]:
    """Up to `limit` events of the run above `after`, of one kind or of all, oldest first, each with its time."""
    query = select(events).where(events.c.run_id == stored.id, events.c.seq > after)
    if kind is not None:
        query = query.where(events.c.kind == kind)
    return fetch_dated(connection, stored, query.order_by(events.c.seq).limit(limit))


def fetch_dated(connection: Connection, stored: StoredRun, query: Select[Any]) -> list[tuple[Event, datetime]]:
    """The events of the run that `query` selects, each with its time."""
    rows = connection.execute(query).mappings()
    return [(event_from_row(stored.run.key, row), row["created_at"]) for row in rows]


def list_reports(
    connection: Connection, stored: StoredRun, *, after: int, limit: int
) -> list[tuple[Event, datetime, float]]:
    """Up to `limit` reports of the run above `after`, each with its time and the decided rate of its epoch.

    The rate is from the newest decision before the report that is in force at its epoch. After a gap that decision
    belongs to an older epoch; for a late rank it is not the newest of all.
    """
    earlier = events.alias("earlier")
    rate = (
        select(earlier.c.learning_rate)
        .where(
            earlier.c.run_id == events.c.run_id,
            earlier.c.seq < events.c.seq,
            earlier.c.effective_from <= events.c.epoch,
            earlier.c.learning_rate.is_not(None),
        )
        .order_by(earlier.c.seq.desc())
        .limit(1)
        .scalar_subquery()
        .label("decided_rate")
    )
    query = (
        select(events, rate)
        .where(events.c.run_id == stored.id, events.c.seq > after, events.c.kind == "report")
        .order_by(events.c.seq)
        .limit(limit)
    )
    rows = connection.execute(query).mappings()
    return [(event_from_row(stored.run.key, row), row["created_at"], row["decided_rate"]) for row in rows]


def list_point_decisions(
    connection: Connection, stored: StoredRun, points: Collection[tuple[int, int | None]]
) -> dict[tuple[int, int | None], Decision]:
    """The decisions of these points, by epoch and by the attempt that superseded the point (None if effective)."""
    if not points:
        return {}
    of_point = (events.c.kind.in_(sorted(OF_A_POINT)), events.c.learning_rate.is_not(None))
    epochs = sorted({epoch for epoch, _ in points})
    decided: dict[tuple[int, int | None], Decision] = {}
    for rewound in (False, True):
        # Two queries: the effective decisions have an index, and most runs have no superseded ones.
        condition = events.c.superseded_by.is_not(None) if rewound else events.c.superseded_by.is_(None)
        if any((by is not None) == rewound for _, by in points):
            for event in list_events(connection, stored, *of_point, events.c.epoch.in_(epochs), condition):
                assert event.epoch is not None and event.decision is not None, "the query selects decisions"
                decided[event.epoch, event.superseded_by] = event.decision
    return decided
