"""The queries. Each takes a connection inside somebody else's transaction; nothing here commits.

`lock_*` locks, `find_*` may give None, `get_*` raises, `list_*` is bounded, `add_*` and `save_*` write.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import (
    Column,
    Connection,
    Select,
    Table,
    and_,
    bindparam,
    delete,
    func,
    insert,
    or_,
    select,
    update,
)
from sqlalchemy.sql import ColumnElement

from remotelr.rules import Decision, Event, Run
from remotelr.rules.run.events import OF_A_POINT, Kind
from remotelr.rules.values.records import record
from remotelr_service.db import driver
from remotelr_service.db.batch_sql import as_stored, insert_rows, moments, update_rows
from remotelr_service.db.clock import SQLITE_NOW, database_now
from remotelr_service.db.rows import (
    Row,
    event_from_row,
    event_to_row,
    from_text,
    run_from_row,
    run_to_row,
    spec_to_text,
    to_text,
)
from remotelr_service.db.tables import events, run_tags, runs
from remotelr_service.errors import RunNotFound

# The columns of a run in their order, as the driver gave them.
StoredRow = tuple[Any, ...]


@record
class StoredRun:
    """A run as it is stored: what the rules know of it, and what only the service does.

    deadline_at: when the point that waits for ranks has to be decided without them, by the database's clock.
    override_expires_at: when a rate that is held until a time is let go, by the same clock.
    stalled_at: since when its trainer is known to be silent.
    """

    id: int
    run: Run
    experiment: str | None
    tags: Mapping[str, str]
    deadline_at: datetime | None = None
    override_expires_at: datetime | None = None
    stalled_at: datetime | None = None
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class RunPosition:
    """Where a run stands. seq: the number of its newest event. decision: the one in force."""

    seq: int
    decision: Decision


@dataclass(frozen=True, slots=True)
class Locked:
    """The heads this transaction has locked, and the keys of those another one holds.

    rows: what the driver gave of each head. now: by the database's clock; None when nothing was read.
    """

    stored_runs: dict[str, StoredRun]
    rows: dict[str, StoredRow] = field(default_factory=dict)
    busy: frozenset[str] = frozenset()
    now: datetime | None = None


_RUNS = select(runs).where(runs.c.key.in_(bindparam("keys", expanding=True)))
_COLUMNS = tuple(runs.c.keys())
_NAMES = ", ".join(_COLUMNS)
_LOCK_RUNS = {
    # SKIP LOCKED: a run that another replica holds must not make all the others of a group wait.
    "postgresql": f"SELECT {_NAMES}, now() FROM runs WHERE key = ANY(%s) ORDER BY key FOR UPDATE SKIP LOCKED",  # noqa: S608
    # It has locked all of the database when the transaction began.
    "sqlite": f"SELECT {_NAMES}, {SQLITE_NOW} FROM runs WHERE key IN (SELECT value FROM json_each(?))",  # noqa: S608
}
_HELD = select(runs.c.key).where(runs.c.key.in_(bindparam("keys", expanding=True)))
_ADD_RUN = insert(runs).returning(runs.c.id)


def lock_runs(connection: Connection, keys: Collection[str]) -> Locked:
    """The runs of these keys, locked until the transaction ends; a key without a run is in neither part."""
    if not keys:
        return Locked({})
    on_sqlite = connection.dialect.name == "sqlite"
    asked = to_text(list(keys)) if on_sqlite else list(keys)
    found = driver.fetch(connection, _LOCK_RUNS[connection.dialect.name], (asked,))
    rows: dict[str, StoredRow] = {row[_KEY]: row[:-1] for row in found}
    stored_runs = {key: _cached_run(row) for key, row in rows.items()}
    now = _moment(found[0][-1]) if found else None
    missing = [key for key in keys if key not in stored_runs]
    if not missing or on_sqlite:
        return Locked(stored_runs, rows, now=now)
    return Locked(stored_runs, rows, frozenset(connection.execute(_HELD, {"keys": missing}).scalars()), now)


def database_time(connection: Connection) -> datetime:
    """The time by the database's clock."""
    return connection.execute(select(database_now())).scalar_one()


def list_due(connection: Connection, limit: int) -> list[str]:
    """The keys of runs with a point that has waited for its ranks long enough, the most overdue first."""
    due = select(runs.c.key).where(runs.c.deadline_at <= database_now()).order_by(runs.c.deadline_at).limit(limit)
    return list(connection.execute(due).scalars())


def list_expired_overrides(connection: Connection, limit: int) -> list[str]:
    """The keys of runs with a rate that was to be held until a time that has come, the most overdue first."""
    due = (
        select(runs.c.key)
        .where(runs.c.override_expires_at <= database_now())
        .order_by(runs.c.override_expires_at)
        .limit(limit)
    )
    return list(connection.execute(due).scalars())


def find_run(connection: Connection, key: str) -> StoredRun | None:
    """The run `key`, not locked."""
    row = connection.execute(_RUNS, {"keys": [key]}).mappings().one_or_none()
    return None if row is None else _run_from_row(row)


def get_stored_run(connection: Connection, key: str) -> StoredRun:
    """The run `key`, not locked. Raises RunNotFound."""
    stored = find_run(connection, key)
    if stored is None:
        raise RunNotFound(key)
    return stored


def get_stored_decision(connection: Connection, stored: StoredRun) -> Decision:
    """The decision in force. Raises RunNotFound when the run, or this decision, has just gone."""
    decision = list_decisions(connection, [stored]).get(stored.id)
    if decision is None:
        raise RunNotFound(stored.run.key)
    return decision


def list_runs(
    connection: Connection,
    *,
    experiment: str | None,
    status: str | None,
    tag: tuple[str, str] | None,
    after: str | None,
    limit: int,
    stalled: bool | None = None,
) -> list[StoredRun]:
    """Up to `limit` runs in order of key, from the first one behind `after` on."""
    query = select_runs(
        runs, experiment=experiment, status=status, tags={} if tag is None else dict([tag]), after=after, limit=limit
    )
    if stalled is not None:
        query = query.where(runs.c.stalled_at.is_not(None) if stalled else runs.c.stalled_at.is_(None))
    return [_run_from_row(row) for row in connection.execute(query).mappings()]


def select_runs(
    wanted: Table | Column[str],
    *,
    experiment: str | None,
    status: str | None,
    tags: Mapping[str, str],
    after: str | None = None,
    limit: int | None = None,
) -> Select[Any]:
    """The runs of this experiment, that stand so, and have all of these tags, in order of key."""
    query, key = select(wanted).select_from(runs), runs.c.key
    for name, value in tags.items():
        tagged = run_tags.alias()
        query = query.join(tagged, tagged.c.run_id == runs.c.id).where(tagged.c.name == name, tagged.c.value == value)
        # By the table that has few: their keys are in order there too.
        key = tagged.c.key
    if after is not None:
        query = query.where(key > after)
    if experiment is not None:
        query = query.where(runs.c.experiment == experiment)
    if status is not None:
        query = query.where(runs.c.status == status)
    return query.order_by(key).limit(limit)


def list_ended(
    connection: Connection, *, before: datetime, experiment: str | None, after: str | None, limit: int
) -> list[str]:
    """Up to `limit` keys of runs that ended and were touched before then only, in order, from behind `after` on."""
    query = select_runs(runs.c.key, experiment=experiment, status=None, tags={}, after=after, limit=limit)
    return list(connection.execute(query.where(runs.c.status != "running", runs.c.updated_at < before)).scalars())


def add_run(
    connection: Connection, run: Run, *, experiment: str | None, tags: Mapping[str, str], at: datetime
) -> StoredRun:
    """A new run. Raises IntegrityError when another transaction has just created it."""
    row = {
        "key": run.key,
        "experiment": experiment,
        "tags": to_text(dict(tags)),
        "spec": spec_to_text(run.spec),
        "created_at": at,
        "updated_at": at,
    }
    run_id = connection.execute(_ADD_RUN, row | run_to_row(run)).scalar_one()
    return StoredRun(id=run_id, run=run, experiment=experiment, tags=dict(tags), created_at=at, updated_at=at)


def save_runs(connection: Connection, stored_runs: Iterable[StoredRun], rows: Mapping[str, StoredRow]) -> None:
    """Store where these runs stand now. rows: what is stored of them; not of new ones."""
    changes = [(stored, _change_of(connection, stored, rows.get(stored.run.key))) for stored in stored_runs]
    alike: defaultdict[tuple[str, ...], list[dict[str, Any]]] = defaultdict(list)
    for _, change in changes:
        alike[tuple(change)].append(change)
    for rows_alike in alike.values():
        update_rows(connection, runs, rows_alike)
    for stored, change in changes:
        _remember(stored, change, rows.get(stored.run.key))


def _change_of(connection: Connection, stored: StoredRun, row: StoredRow | None) -> dict[str, Any]:
    """What to store of it: all that moves with an event, and what rarely moves where it did."""
    change = {
        "id": stored.id,
        "updated_at": as_stored(connection.dialect, stored.updated_at),
        "deadline_at": as_stored(connection.dialect, stored.deadline_at),
        **run_to_row(stored.run),
    }
    if row is not None:
        for name, place in _INDEXED:
            if change[name] == row[place]:
                # SQLite would write its index anew, which takes longer than all the rest.
                del change[name]
    return change


def save_override_expiry(connection: Connection, stored: StoredRun) -> None:
    connection.execute(
        update(runs).where(runs.c.id == stored.id).values(override_expires_at=stored.override_expires_at)
    )


def save_spec(connection: Connection, stored: StoredRun) -> None:
    connection.execute(update(runs).where(runs.c.id == stored.id).values(spec=spec_to_text(stored.run.spec)))


def save_tags(connection: Connection, stored: StoredRun) -> None:
    tags = to_text(dict(stored.tags))
    connection.execute(update(runs).where(runs.c.id == stored.id).values(tags=tags, updated_at=stored.updated_at))


def delete_run(connection: Connection, stored: StoredRun) -> None:
    """The run and its events are gone."""
    connection.execute(delete(runs).where(runs.c.id == stored.id))


def add_events(connection: Connection, new: Sequence[tuple[int, Event]], at: datetime) -> None:
    """Append events, each with the id of its run."""
    if not new:
        return
    created_at = as_stored(connection.dialect, at)
    insert_rows(connection, events, [event_to_row(run_id, event, created_at) for run_id, event in new])


def supersede(connection: Connection, run_id: int, attempt: Event) -> None:
    """Mark what a new attempt takes out of the effective history: `remotelr.rules.run.events.supersedes`, in SQL."""
    rewound = or_(
        and_(events.c.kind.in_(sorted(OF_A_POINT)), events.c.epoch >= attempt.epoch),
        and_(events.c.kind == "attempt", events.c.epoch > attempt.epoch),
    )
    connection.execute(
        update(events)
        .where(events.c.run_id == run_id, events.c.seq < attempt.seq, events.c.superseded_by.is_(None), rewound)
        .values(superseded_by=attempt.attempt)
    )


def list_decisions(connection: Connection, stored_runs: Collection[StoredRun]) -> dict[int, Decision]:
    """The decision in force of each of these runs, by the id of the run."""
    keys = {stored.id: stored.run.key for stored in stored_runs}
    newest = and_(runs.c.id == events.c.run_id, runs.c.decided_seq == events.c.seq)
    query = select(events).join(runs, newest).where(runs.c.id.in_(bindparam("ids", expanding=True)))
    rows = connection.execute(query, {"ids": list(keys)}).mappings()
    decided = {row["run_id"]: event_from_row(keys[row["run_id"]], row).decision for row in rows}
    return {run_id: decision for run_id, decision in decided.items() if decision is not None}


def list_positions(connection: Connection, keys: Sequence[str]) -> dict[str, RunPosition]:
    """Where each of these runs stands, by the key of the run; a key without a run is left out."""
    found: dict[str, RunPosition] = {}
    newest = and_(runs.c.id == events.c.run_id, runs.c.decided_seq == events.c.seq)
    query = select(events, runs.c.key.label("run"), runs.c.seq.label("last_seq")).join(runs, newest)
    query = query.where(runs.c.key.in_(bindparam("keys", expanding=True)))
    # A statement takes so many parameters and no more.
    for begin in range(0, len(keys), 1_000):
        for row in connection.execute(query, {"keys": keys[begin : begin + 1_000]}).mappings():
            decision = event_from_row(row["run"], row).decision
            assert decision is not None, f"event {row['seq']} of run {row['run']} decides nothing"
            found[row["run"]] = RunPosition(row["last_seq"], decision)
    return found


def find_event(
    connection: Connection, stored: StoredRun, *where: ColumnElement[bool], newest: bool = False
) -> Event | None:
    """The oldest event of the run, or its newest, for which all of `where` holds."""
    order = events.c.seq.desc() if newest else events.c.seq
    query = select(events).where(events.c.run_id == stored.id, *where).order_by(order).limit(1)
    row = connection.execute(query).mappings().one_or_none()
    return None if row is None else event_from_row(stored.run.key, row)


def count_events(connection: Connection, stored: StoredRun, *where: ColumnElement[bool]) -> int:
    """How many events of the run there are for which all of `where` holds."""
    query = select(func.count()).select_from(events).where(events.c.run_id == stored.id, *where)
    return connection.execute(query).scalar_one()


def find_reported(connection: Connection, stored: StoredRun, since: int) -> tuple[int, datetime] | None:
    """The first epoch from `since` on that a rank reported, and when the first of them did."""
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
    """The events of the run with a number above `after` for which all of `where` holds, oldest first."""
    query = select(events).where(events.c.run_id == stored.id, events.c.seq > after, *where)
    rows = connection.execute(query.order_by(events.c.seq).limit(limit)).mappings()
    return [event_from_row(stored.run.key, row) for row in rows]


def list_dated_events(
    connection: Connection, stored: StoredRun, *, after: int, limit: int, kind: Kind | None = None
) -> list[tuple[Event, datetime]]:
    """The events of the run with a number above `after`, of one kind or of all, oldest first, each with its time."""
    query = select(events).where(events.c.run_id == stored.id, events.c.seq > after).order_by(events.c.seq).limit(limit)
    if kind is not None:
        query = query.where(events.c.kind == kind)
    rows = connection.execute(query).mappings()
    return [(event_from_row(stored.run.key, row), row["created_at"]) for row in rows]


def list_reports(
    connection: Connection, stored: StoredRun, *, after: int, limit: int
) -> list[tuple[Event, datetime, float]]:
    """The reports of the run above `after`, each with its time and the rate its epoch was told to run with.

    That rate is of the newest decision before the report that holds for its epoch: after a gap it is an
    older epoch's, and for a rank that came late it is not the newest of all.
    """
    earlier = events.alias("earlier")
    told = (
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
        .label("told")
    )
    query = (
        select(events, told)
        .where(events.c.run_id == stored.id, events.c.seq > after, events.c.kind == "report")
        .order_by(events.c.seq)
        .limit(limit)
    )
    rows = connection.execute(query).mappings()
    return [(event_from_row(stored.run.key, row), row["created_at"], row["told"]) for row in rows]


def list_point_decisions(
    connection: Connection, stored: StoredRun, points: Collection[tuple[int, int | None]]
) -> dict[tuple[int, int | None], Decision]:
    """The decision of each of these points of the run, by epoch and by the attempt that rewound past it, if one did."""
    if not points:
        return {}
    of_point = (events.c.kind.in_(sorted(OF_A_POINT)), events.c.learning_rate.is_not(None))
    epochs = sorted({epoch for epoch, _ in points})
    decided: dict[tuple[int, int | None], Decision] = {}
    for rewound in (False, True):
        # Apart, for those that count have an index of their own, and mostly there are no others.
        wanted = events.c.superseded_by.is_not(None) if rewound else events.c.superseded_by.is_(None)
        if any((by is not None) == rewound for _, by in points):
            for event in list_events(connection, stored, *of_point, events.c.epoch.in_(epochs), wanted):
                assert event.epoch is not None and event.decision is not None, "the query asks for nothing else"
                decided[event.epoch, event.superseded_by] = event.decision
    return decided


# Heads as they were saved, by key, each with the row that must be found for it to be what is stored. That saves making
# them anew, and no more: the row is locked and read all the same, whole, for another replica may have written since.
_CACHE: dict[str, tuple[StoredRow, StoredRun]] = {}
MAX_CACHED = 4_096


def _remember(stored: StoredRun, change: Mapping[str, Any], before: StoredRow | None) -> None:
    if before is None:
        return
    if len(_CACHE) >= MAX_CACHED:
        _CACHE.clear()
    _CACHE[stored.run.key] = tuple(map(change.get, _COLUMNS, before)), stored


def _cached_run(row: StoredRow) -> StoredRun:
    kept = _CACHE.get(row[_KEY])
    if kept is not None and kept[0] == row:
        return kept[1]
    named = dict(zip(_COLUMNS, row, strict=True))
    return _run_from_row({**named, **{name: _moment(named[name]) for name in moments(runs)}})


_KEY = _COLUMNS.index("key")
_INDEXED = [(name, _COLUMNS.index(name)) for name in ("deadline_at", "status")]


def _moment(given: Any) -> Any:
    """What SQLite keeps as text."""
    return datetime.fromisoformat(given) if isinstance(given, str) else given


def _run_from_row(row: Row) -> StoredRun:
    return StoredRun(
        id=row["id"],
        run=run_from_row(row),
        experiment=row["experiment"],
        tags=from_text(row["tags"]),
        deadline_at=row["deadline_at"],
        override_expires_at=row["override_expires_at"],
        stalled_at=row["stalled_at"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
    )
