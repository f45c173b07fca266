"""The queries for what became of commands; as in `store.py`, inside somebody else's transaction."""

from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Select, select

from remotelr.rules import Event
from remotelr_service.db.queries.runs import StoredRun
from remotelr_service.db.rows import event_from_row
from remotelr_service.db.tables import events


def list_ordered(
    connection: Connection, stored: StoredRun, *, after: int, limit: int | None = None
) -> list[tuple[Event, datetime]]:
    """The commands and the policies of the run above `after`, oldest first, each with its time."""
    query = select(events).where(
        events.c.run_id == stored.id, events.c.seq > after, events.c.kind.in_(["command", "policy"])
    )
    return _dated(connection, stored, query.order_by(events.c.seq).limit(limit))


def list_told(connection: Connection, stored: StoredRun, command: Event) -> list[tuple[Event, datetime]]:
    """The first decision after the command for an epoch it bears on, and the reports of that epoch, oldest first."""
    deciding = (
        select(events)
        .where(
            events.c.run_id == stored.id,
            events.c.seq > command.seq,
            events.c.learning_rate.is_not(None),
            events.c.effective_from >= command.effective_from,
        )
        .order_by(events.c.seq)
        .limit(1)
    )
    decided = _dated(connection, stored, deciding)
    if not decided:
        return []
    event, _ = decided[0]
    reports = (
        select(events)
        .where(
            events.c.run_id == stored.id,
            events.c.kind == "report",
            events.c.epoch == event.effective_from,
            events.c.seq > event.seq,
        )
        .order_by(events.c.seq)
    )
    return [*decided, *_dated(connection, stored, reports)]


def find_end(connection: Connection, stored: StoredRun, *, after: int) -> tuple[Event, datetime] | None:
    """The newest end of the run after the event `after`."""
    query = select(events).where(events.c.run_id == stored.id, events.c.seq > after, events.c.kind == "finished")
    found = _dated(connection, stored, query.order_by(events.c.seq.desc()).limit(1))
    return found[0] if found else None


def _dated(connection: Connection, stored: StoredRun, query: Select[Any]) -> list[tuple[Event, datetime]]:
    rows = connection.execute(query).mappings()
    return [(event_from_row(stored.run.key, row), row["created_at"]) for row in rows]
