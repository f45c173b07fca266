"""The queries of commands to many runs; as in `store.py`, inside somebody else's transaction."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, case, delete, func, insert, select, update

from remotelr_service.db.batch_sql import insert_rows
from remotelr_service.db.clock import database_now
from remotelr_service.db.rows import Row, from_text, to_text
from remotelr_service.db.tables import bulk_commands, bulk_results


@dataclass(frozen=True, slots=True, kw_only=True)
class BulkCommand:
    """One command to many runs, as it was ordered.

    runs: their keys in order, fixed when it was ordered; a run's place among them is its number in the results.
    finished_at: when the last of them had its result.
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
    """What came of it for one run.

    seq: number of the command in the run's log; None when it was refused, and then `code` and `detail` say why.
    effective_from: the first epoch whose rate it bears on. rate_before, rate_after: the rate of that epoch without
    the command and with it, if the schedule learns nothing until then.
    """

    place: int
    run: str
    seq: int | None = None
    effective_from: int | None = None
    rate_before: float | None = None
    rate_after: float | None = None
    code: str | None = None
    detail: str | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """How many of the runs have their result, and how many of those were refused."""

    done: int
    failed: int


def find_bulk(connection: Connection, bulk_id: int) -> BulkCommand | None:
    return _found(connection, bulk_commands.c.id == bulk_id)


def find_keyed_bulk(connection: Connection, key: str) -> BulkCommand | None:
    """The bulk command of that name."""
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
    """A new bulk command, not yet begun. Raises IntegrityError when another transaction has just used its key."""
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
    bulk_id = connection.execute(insert(bulk_commands).returning(bulk_commands.c.id), row).scalar_one()
    return BulkCommand(
        id=bulk_id,
        key=key,
        selector=selector,
        command=command,
        actor=actor,
        reason=reason,
        runs=list(runs),
        created_at=at,
    )


def take_abandoned(connection: Connection, after: timedelta) -> int | None:
    """The id of an unfinished bulk command that nobody has worked on for so long; it counts as worked on now."""
    now = database_now()
    at = connection.execute(select(now)).scalar_one()
    query = (
        select(bulk_commands.c.id)
        .where(bulk_commands.c.finished_at.is_(None), bulk_commands.c.heartbeat_at < at - after)
        .order_by(bulk_commands.c.heartbeat_at)
        .limit(1)
        .with_for_update(skip_locked=True)
    )
    bulk_id: int | None = connection.execute(query).scalar_one_or_none()
    if bulk_id is not None:
        mark_worked(connection, bulk_id, at)
    return bulk_id


def has_abandoned(connection: Connection, after: timedelta) -> bool:
    """Whether there is an unfinished bulk command that nobody has worked on for so long."""
    at = connection.execute(select(database_now())).scalar_one()
    query = select(bulk_commands.c.id).where(
        bulk_commands.c.finished_at.is_(None), bulk_commands.c.heartbeat_at < at - after
    )
    return connection.execute(query.limit(1)).first() is not None


def is_finished(connection: Connection, bulk_id: int) -> bool:
    """Whether all its runs have their results; of one that is not there too."""
    query = select(bulk_commands.c.id).where(bulk_commands.c.id == bulk_id, bulk_commands.c.finished_at.is_(None))
    return connection.execute(query).first() is None


def list_finished(connection: Connection, *, before: datetime, limit: int | None) -> list[int]:
    """The ids of up to `limit` bulk commands, or of all, that were finished before then, oldest first."""
    query = select(bulk_commands.c.id).where(bulk_commands.c.finished_at < before)
    return list(connection.execute(query.order_by(bulk_commands.c.id).limit(limit)).scalars())


def delete_bulk(connection: Connection, bulk_id: int) -> None:
    """The bulk command and its results are gone; what it ordered stands in the logs of its runs."""
    connection.execute(delete(bulk_commands).where(bulk_commands.c.id == bulk_id))


def mark_worked(connection: Connection, bulk_id: int, at: datetime) -> None:
    connection.execute(update(bulk_commands).where(bulk_commands.c.id == bulk_id).values(heartbeat_at=at))


def mark_finished(connection: Connection, bulk_id: int, at: datetime) -> None:
    """All have their results. The first end stays."""
    connection.execute(
        update(bulk_commands)
        .where(bulk_commands.c.id == bulk_id, bulk_commands.c.finished_at.is_(None))
        .values(finished_at=at, heartbeat_at=at)
    )


def add_results(connection: Connection, bulk_id: int, results: Sequence[BulkResult]) -> None:
    """Raises IntegrityError (as `insert_rows` does) when another transaction has just given one of them its result."""
    if results:
        insert_rows(connection, bulk_results, [{"bulk_id": bulk_id, **_columns(result)} for result in results])


def list_places(connection: Connection, bulk_id: int, first: int = 0, last: int | None = None) -> set[int]:
    """The places from `first` to `last` whose runs have their results."""
    query = select(bulk_results.c.place).where(bulk_results.c.bulk_id == bulk_id, bulk_results.c.place >= first)
    if last is not None:
        query = query.where(bulk_results.c.place <= last)
    return set(connection.execute(query).scalars())


def list_results(
    connection: Connection, bulk_id: int, *, after: int, limit: int, only_failed: bool = False
) -> list[BulkResult]:
    """Up to `limit` results in order of place, from the first one behind place `after` on."""
    query = select(bulk_results).where(bulk_results.c.bulk_id == bulk_id, bulk_results.c.place > after)
    if only_failed:
        query = query.where(bulk_results.c.code.is_not(None))
    rows = connection.execute(query.order_by(bulk_results.c.place).limit(limit)).mappings()
    return [BulkResult(**{name: value for name, value in row.items() if name != "bulk_id"}) for row in rows]


def progress(connection: Connection, bulk_id: int) -> Progress:
    failed = func.sum(case((bulk_results.c.code.is_not(None), 1), else_=0))
    query = select(func.count(), failed).where(bulk_results.c.bulk_id == bulk_id)
    done, refused = connection.execute(query).one()
    return Progress(done, int(refused or 0))


def _found(connection: Connection, where: Any) -> BulkCommand | None:
    row = connection.execute(select(bulk_commands).where(where)).mappings().one_or_none()
    return None if row is None else _bulk(row)


def _bulk(row: Row) -> BulkCommand:
    return BulkCommand(
        id=row["id"],
        key=row["key"],
        selector=from_text(row["selector"]),
        command=from_text(row["command"]),
        actor=row["actor"],
        reason=row["reason"],
        runs=from_text(row["runs"]),
        created_at=row["created_at"],
        finished_at=row["finished_at"],
    )


def _columns(result: BulkResult) -> dict[str, Any]:
    return {
        "place": result.place,
        "run": result.run,
        "seq": result.seq,
        "effective_from": result.effective_from,
        "rate_before": result.rate_before,
        "rate_after": result.rate_after,
        "code": result.code,
        "detail": result.detail,
    }
