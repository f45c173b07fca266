"""Queries on runs. The caller owns the transaction; no query commits.

Prefixes: `lock_` locks, `find_` may return None, `get_` raises, `list_` is bounded, `add_` and `save_` write.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import BindParameter, Column, Connection, Select, Table, bindparam, delete, insert, select, update

from remotelr.rules import Run
from remotelr.rules.values.records import record
from remotelr_service.db import driver
from remotelr_service.db.batch_sql import as_stored, moments, update_rows
from remotelr_service.db.clock import SQLITE_NOW, database_now
from remotelr_service.db.rows import Row, from_text, run_from_row, run_to_row, spec_to_text, to_text
from remotelr_service.db.tables import run_tags, runs
from remotelr_service.errors import RunNotFound

# The values of a row of `runs`, in column order, as the driver returns them.
StoredRow = tuple[Any, ...]


@record
class StoredRun:
    """A run of the rules, and the columns that only the service uses. All times are the database's.

    deadline_at: when the waiting point is decided without the missing ranks.
    override_expires_at: when the next timed override ends.
    stalled_at: when the service noticed that the trainer had stopped reporting.
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
class Locked:
    """The rows that this transaction has locked, by run key.

    busy: keys of runs that another transaction holds. now: the database's time; None if no row was found.
    """

    rows: dict[str, StoredRow] = field(default_factory=dict)
    busy: frozenset[str] = frozenset()
    now: datetime | None = None


_BY_KEY: BindParameter[Any] = bindparam("keys", expanding=True)
_RUNS = select(runs).where(runs.c.key.in_(_BY_KEY))
_EXISTING = select(runs.c.key).where(runs.c.key.in_(_BY_KEY))
_ADD_RUN = insert(runs).returning(runs.c.id)
_COLUMNS = tuple(runs.c.keys())
_NAMES = ", ".join(_COLUMNS)
_KEY = _COLUMNS.index("key")
_INDEXED = [(name, _COLUMNS.index(name)) for name in ("deadline_at", "status")]
_LOCK_RUNS = {
    # SKIP LOCKED: a run that another transaction holds must not delay the other runs of the transaction.
    "postgresql": f"SELECT {_NAMES}, now() FROM runs WHERE key = ANY(%s) ORDER BY key FOR UPDATE SKIP LOCKED",  # noqa: S608
    # BEGIN IMMEDIATE has locked the whole database.
    "sqlite": f"SELECT {_NAMES}, {SQLITE_NOW} FROM runs WHERE key IN (SELECT value FROM json_each(?))",  # noqa: S608
}


def lock_runs(connection: Connection, keys: Collection[str]) -> Locked:
    """Lock the runs of these keys until the transaction ends. A key without a run is in no field of the result."""
    if not keys:
        return Locked()
    on_sqlite = connection.dialect.name == "sqlite"
    parameter = to_text(list(keys)) if on_sqlite else list(keys)
    found = driver.fetch(connection, _LOCK_RUNS[connection.dialect.name], (parameter,))
    rows: dict[str, StoredRow] = {row[_KEY]: row[:-1] for row in found}
    now = _moment(found[0][-1]) if found else None
    missing = [key for key in keys if key not in rows]
    if not missing or on_sqlite:
        return Locked(rows, now=now)
    return Locked(rows, frozenset(connection.execute(_EXISTING, {"keys": missing}).scalars()), now)


def parse_row(row: StoredRow) -> StoredRun:
    """The run of a locked row."""
    named = dict(zip(_COLUMNS, row, strict=True))
    return _run_from_row({**named, **{name: _moment(named[name]) for name in moments(runs)}})


def database_time(connection: Connection) -> datetime:
    """The current time of the database."""
    return connection.execute(select(database_now())).scalar_one()


def list_waiting(connection: Connection, limit: int) -> list[tuple[str, datetime, datetime]]:
    """(key, deadline, last change) of up to `limit` runs whose waiting point has a deadline, the earliest first."""
    at = runs.c.deadline_at
    query = select(runs.c.key, at, runs.c.updated_at).where(at.is_not(None)).order_by(at).limit(limit)
    return [tuple(row) for row in connection.execute(query)]


def list_expired_overrides(connection: Connection, limit: int) -> list[str]:
    """Up to `limit` keys of runs with an expired override, the most overdue first."""
    at = runs.c.override_expires_at
    return list(connection.execute(select(runs.c.key).where(at <= database_now()).order_by(at).limit(limit)).scalars())


def find_run(connection: Connection, key: str) -> StoredRun | None:
    """The run `key`, without a lock."""
    row = connection.execute(_RUNS, {"keys": [key]}).mappings().one_or_none()
    return None if row is None else _run_from_row(row)


def get_stored_run(connection: Connection, key: str) -> StoredRun:
    """The run `key`, without a lock. Raises RunNotFound."""
    stored = find_run(connection, key)
    if stored is None:
        raise RunNotFound(key)
    return stored


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
    """Up to `limit` runs with keys above `after`, in order of key. None as a condition selects every run."""
    query = select_runs(
        runs, experiment=experiment, status=status, tags={} if tag is None else dict([tag]), after=after, limit=limit
    )
    if stalled is not None:
        query = query.where(runs.c.stalled_at.is_not(None) if stalled else runs.c.stalled_at.is_(None))
    return [_run_from_row(row) for row in connection.execute(query).mappings()]


def select_runs(
    columns: Table | Column[str],
    *,
    experiment: str | None,
    status: str | None,
    tags: Mapping[str, str],
    after: str | None = None,
    limit: int | None = None,
) -> Select[Any]:
    """A SELECT of `columns` for the runs that meet every condition, in order of key."""
    query, key = select(columns).select_from(runs), runs.c.key
    for name, value in tags.items():
        tagged = run_tags.alias()
        query = query.join(tagged, tagged.c.run_id == runs.c.id).where(tagged.c.name == name, tagged.c.value == value)
        # Order by the smaller table: its primary key has the same order.
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
    """Up to `limit` keys above `after` of ended runs that were last changed before `before`, in order."""
    query = select_runs(runs.c.key, experiment=experiment, status=None, tags={}, after=after, limit=limit)
    return list(connection.execute(query.where(runs.c.status != "running", runs.c.updated_at < before)).scalars())


def add_run(
    connection: Connection, run: Run, *, experiment: str | None, tags: Mapping[str, str], at: datetime
) -> StoredRun:
    """Insert a run. Raises IntegrityError if another transaction has just created it."""
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


def save_runs(
    connection: Connection, stored_runs: Iterable[StoredRun], rows: Mapping[str, StoredRow]
) -> dict[str, StoredRow]:
    """Update these runs.

    rows: the locked rows by key, without the runs that this transaction created.
    Returns the new values of `rows`, by key.
    """
    changes = [(stored, _changes(connection, stored, rows.get(stored.run.key))) for stored in stored_runs]
    by_columns: defaultdict[tuple[str, ...], list[dict[str, Any]]] = defaultdict(list)
    for _, change in changes:
        by_columns[tuple(change)].append(change)
    for same_columns in by_columns.values():
        update_rows(connection, runs, same_columns)
    return {
        stored.run.key: tuple(map(change.get, _COLUMNS, rows[stored.run.key]))
        for stored, change in changes
        if stored.run.key in rows
    }


def _changes(connection: Connection, stored: StoredRun, row: StoredRow | None) -> dict[str, Any]:
    """The columns to update, by name: all that change with an event, and the indexed ones if they differ."""
    change = {
        "id": stored.id,
        "updated_at": as_stored(connection.dialect, stored.updated_at),
        "deadline_at": as_stored(connection.dialect, stored.deadline_at),
        **run_to_row(stored.run),
    }
    if row is not None:
        for name, index in _INDEXED:
            if change[name] == row[index]:
                # SQLite would rewrite the index entry, which takes longer than the rest of the update.
                del change[name]
    return change


def save_override_expiry(connection: Connection, stored: StoredRun) -> None:
    _update(connection, stored, override_expires_at=stored.override_expires_at)


def save_spec(connection: Connection, stored: StoredRun) -> None:
    _update(connection, stored, spec=spec_to_text(stored.run.spec))


def save_tags(connection: Connection, stored: StoredRun) -> None:
    _update(connection, stored, tags=to_text(dict(stored.tags)), updated_at=stored.updated_at)


def _update(connection: Connection, stored: StoredRun, **values: Any) -> None:
    connection.execute(update(runs).where(runs.c.id == stored.id).values(**values))


def delete_run(connection: Connection, stored: StoredRun) -> None:
    """Delete the run; its events, tags and stalls go with it by foreign key."""
    connection.execute(delete(runs).where(runs.c.id == stored.id))


def _moment(given: Any) -> Any:
    """SQLite stores times as text."""
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
