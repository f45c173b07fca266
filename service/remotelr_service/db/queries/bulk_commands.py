"""Queries on bulk commands. The caller owns the transaction; no query commits."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Select, delete, func, insert, select, update

from remotelr_service.db.batch_sql import insert_rows
from remotelr_service.db.clock import database_now
from remotelr_service.db.rows import Row, from_text, to_text
from remotelr_service.db.tables import bulk_commands, bulk_results, runs

_STORED = tuple(column.name for column in bulk_results.columns)


@dataclass(frozen=True, slots=True, kw_only=True)
class BulkCommand:
    """One command to many runs.

    runs: their keys in order, fixed at creation; the index of a key is the place of its result.
    finished_at: when the last run had its result.
    """

    id: int
    key: str | None
    selector: Mapping[str, Any]
    command: Mapping[str, Any]
    actor: str | None
    reason: str | None
    runs: Sequence[str]
    created_at: datetime
    finished_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BulkResult:
    """The result of a bulk command for one run.

    seq: number of the command in the run's log; None if it was rejected, for the reason in `code` and `detail`.
    effective_from: the first epoch whose rate it may change. rate_before, rate_after: the rate of that epoch without
    the command and with it, if the state of the schedule does not change until then.
    status: of the run when the result is read; it is not stored. None if the run does not exist.
    """

    place: int
    run: str
    seq: int | None = None
    effective_from: int | None = None
    rate_before: float | None = None
    rate_after: float | None = None
    code: str | None = None
    detail: str | None = None
    status: str | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """The number of results, and of rejected ones among them."""

    done: int
    failed: int


def find_bulk(connection: Connection, bulk_id: int) -> BulkCommand | None:
    return _found(connection, bulk_commands.c.id == bulk_id)


def find_keyed_bulk(connection: Connection, key: str) -> BulkCommand | None:
    """The bulk command with this key."""
    return _found(connection, bulk_commands.c.key == key)


def add_bulk(
    connection: Connection,
    *,
    key: str | None,
    selector: Mapping[str, Any],
    command: Mapping[str, Any],
    actor: str | None,
    reason: str | None,
    runs: Sequence[str],
    at: datetime,
) -> BulkCommand:
    """Insert a bulk command. Raises IntegrityError if another transaction has just used its key."""
    row = {
        "key": key,
        "selector": to_text(selector),
        "command": to_text(command),
        "actor": actor,
        "reason": reason,
        "runs": to_text(list(runs)),
        "count": len(runs),
        "heartbeat_at": at,
        "created_at": at,
    }
    query = insert(bulk_commands).returning(*bulk_commands.c)
    return _bulk(connection.execute(query, row).mappings().one())


def take_abandoned(connection: Connection, after: timedelta) -> int | None:
    """The id of a bulk command without a heartbeat for `after`, which gets a new one; None if there is none."""
    at, query = _abandoned(connection, after)
    query = query.order_by(bulk_commands.c.heartbeat_at).limit(1).with_for_update(skip_locked=True)
    bulk_id: int | None = connection.execute(query).scalar_one_or_none()
    if bulk_id is not None:
        mark_worked(connection, bulk_id, at)
    return bulk_id


def has_abandoned(connection: Connection, after: timedelta) -> bool:
    """Whether there is an unfinished bulk command without a heartbeat for `after`."""
    _, query = _abandoned(connection, after)
    return connection.execute(query.limit(1)).first() is not None


def _abandoned(connection: Connection, after: timedelta) -> tuple[datetime, Select[Any]]:
    at = connection.execute(select(database_now())).scalar_one()
    is_abandoned = (bulk_commands.c.finished_at.is_(None), bulk_commands.c.heartbeat_at < at - after)
    return at, select(bulk_commands.c.id).where(*is_abandoned)


def is_finished(connection: Connection, bulk_id: int) -> bool:
    """Whether all runs have their results; True also for a bulk command that does not exist."""
    query = select(bulk_commands.c.id).where(bulk_commands.c.id == bulk_id, bulk_commands.c.finished_at.is_(None))
    return connection.execute(query).first() is None


def list_finished(connection: Connection, *, before: datetime, limit: int | None) -> list[int]:
    """The ids of up to `limit` bulk commands (None: all) that were finished before `before`, oldest first."""
    query = select(bulk_commands.c.id).where(bulk_commands.c.finished_at < before)
    return list(connection.execute(query.order_by(bulk_commands.c.id).limit(limit)).scalars())


def delete_bulk(connection: Connection, bulk_id: int) -> None:
    """Delete the bulk command and its results. The commands stay in the logs of the runs."""
    connection.execute(delete(bulk_commands).where(bulk_commands.c.id == bulk_id))


def mark_worked(connection: Connection, bulk_id: int, at: datetime) -> None:
    connection.execute(update(bulk_commands).where(bulk_commands.c.id == bulk_id).values(heartbeat_at=at))


def mark_finished(connection: Connection, bulk_id: int, at: datetime) -> None:
    """Set the end, if it is not set."""
    connection.execute(
        update(bulk_commands)
        .where(bulk_commands.c.id == bulk_id, bulk_commands.c.finished_at.is_(None))
        .values(finished_at=at, heartbeat_at=at)
    )


def add_results(connection: Connection, bulk_id: int, results: Sequence[BulkResult]) -> None:
    """Insert results. Raises IntegrityError, as `insert_rows` does, if another transaction has inserted one of them."""
    if results:
        rows = [{"bulk_id": bulk_id, **asdict(result)} for result in results]
        insert_rows(connection, bulk_results, [{name: row[name] for name in _STORED} for row in rows])


def list_places(connection: Connection, bulk_id: int, first: int = 0, last: int | None = None) -> set[int]:
    """The places of results from `first` to `last`."""
    query = select(bulk_results.c.place).where(bulk_results.c.bulk_id == bulk_id, bulk_results.c.place >= first)
    if last is not None:
        query = query.where(bulk_results.c.place <= last)
    return set(connection.execute(query).scalars())


def list_results(
    connection: Connection, bulk_id: int, *, after: int, limit: int, only_failed: bool = False
) -> list[BulkResult]:
    """Up to `limit` results with places above `after`, in order of place."""
    found = select(bulk_results, runs.c.status).outerjoin(runs, runs.c.key == bulk_results.c.run)
    query = found.where(bulk_results.c.bulk_id == bulk_id, bulk_results.c.place > after)
    if only_failed:
        query = query.where(bulk_results.c.code.is_not(None))
    rows = connection.execute(query.order_by(bulk_results.c.place).limit(limit)).mappings()
    return [BulkResult(**{name: value for name, value in row.items() if name != "bulk_id"}) for row in rows]


def progress(connection: Connection, bulk_id: int) -> Progress:
    query = select(func.count(), func.count(bulk_results.c.code)).where(bulk_results.c.bulk_id == bulk_id)
    done, failed = connection.execute(query).one()
    return Progress(done, failed)


def _found(connection: Connection, where: Any) -> BulkCommand | None:
    row = connection.execute(select(bulk_commands).where(where)).mappings().one_or_none()
    return None if row is None else _bulk(row)


def _bulk(row: Row) -> BulkCommand:
    documents = {name: from_text(row[name]) for name in ("selector", "command", "runs")}
    return BulkCommand(**{each.name: row[each.name] for each in fields(BulkCommand)} | documents)
