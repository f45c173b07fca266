"""Reads a run's reports and events."""

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial

from sqlalchemy import Engine

from remotelr.rules import Decision, Event
from remotelr.rules.run.events import Kind
from remotelr_service.db.engine import reading
from remotelr_service.db.queries import events as stored_events
from remotelr_service.db.queries.events import RunPosition
from remotelr_service.db.queries.runs import get_stored_run
from remotelr_service.errors import RunNotFound
from remotelr_service.live.waiters import RunWaiters


@dataclass(frozen=True, slots=True)
class HistoryRow:
    """One report of one rank, with its effect.

    learning_rate: the rate decided for the reported epoch.
    decision: the decision of the report's point; None while other ranks are missing.
    """

    event: Event
    learning_rate: float
    decision: Decision | None
    created_at: datetime


def history(engine: Engine, key: str, after: int = 0, limit: int = 200) -> list[HistoryRow]:
    """Up to `limit` reports of the run with a `seq` above `after`, in order of arrival, superseded ones too.

    Raises RunNotFound.
    """
    with reading(engine) as connection:
        stored = get_stored_run(connection, key)
        reports = stored_events.list_reports(connection, stored, after=after, limit=limit)
        # The report of a rank that waited, or was late, has no decision of its own.
        points = {_point(event) for event, _, _ in reports if event.decision is None}
        decided = stored_events.list_point_decisions(connection, stored, points)
    return [HistoryRow(event, rate, event.decision or decided.get(_point(event)), at) for event, at, rate in reports]


def _point(event: Event) -> tuple[int, int | None]:
    return event.epoch or 0, event.superseded_by


def events(
    engine: Engine, key: str, after: int = 0, limit: int = 200, kind: Kind | None = None
) -> list[tuple[Event, datetime]]:
    """Up to `limit` events of the run with a `seq` above `after` and their times. kind: None means all kinds.

    Raises RunNotFound.
    """
    with reading(engine) as connection:
        stored = get_stored_run(connection, key)
        return list(stored_events.list_dated_events(connection, stored, after=after, limit=limit, kind=kind))


async def wait_for_events(
    engine: Engine, waiters: RunWaiters, key: str, after: int, *, wait_s: float, kind: Kind | None = None
) -> None:
    """Wait up to `wait_s` seconds for an event of this kind with a `seq` above `after`.

    Waiting holds no thread and no transaction. Raises RunNotFound, also if the run is deleted meanwhile.
    """
    with suppress(TimeoutError):
        async with asyncio.timeout(wait_s):
            while True:
                # New events may have another kind. The next query then starts after them.
                position = await waiters.wait(key, partial(_is_beyond, after))
                if position is None:
                    raise RunNotFound(key)
                found = await asyncio.to_thread(events, engine, key, after, 1, kind)
                if found:
                    return
                after = position.seq


def _is_beyond(after: int, position: RunPosition) -> bool:
    return position.seq > after
