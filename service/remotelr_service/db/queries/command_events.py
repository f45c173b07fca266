"""Queries on commands in the log of a run. The caller owns the transaction."""

from datetime import datetime

from sqlalchemy import Connection, select

from remotelr.rules import Event
from remotelr_service.db.queries.events import fetch_dated
from remotelr_service.db.queries.runs import StoredRun
from remotelr_service.db.tables import events


def list_commands(
    connection: Connection, stored: StoredRun, *, after: int, limit: int | None = None
) -> list[tuple[Event, datetime]]:
    """The commands and policies of the run above `after`, oldest first, each with its time."""
    query = select(events).where(
        events.c.run_id == stored.id, events.c.seq > after, events.c.kind.in_(["command", "policy"])
    )
    return fetch_dated(connection, stored, query.order_by(events.c.seq).limit(limit))


def list_effects(connection: Connection, stored: StoredRun, command: Event) -> list[tuple[Event, datetime]]:
    """The first decision that includes the command, and the reports of its epoch, oldest first, each with its time."""
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
    decided = fetch_dated(connection, stored, deciding)
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
    return [*decided, *fetch_dated(connection, stored, reports)]


def find_finish(connection: Connection, stored: StoredRun, *, after: int) -> tuple[Event, datetime] | None:
    """The newest `finished` event above `after`, with its time."""
    query = select(events).where(events.c.run_id == stored.id, events.c.seq > after, events.c.kind == "finished")
    found = fetch_dated(connection, stored, query.order_by(events.c.seq.desc()).limit(1))
    return found[0] if found else None
