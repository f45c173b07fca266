"""Taking away runs that ended long ago, so that the database does not grow for ever.

A run goes whole, or not at all: half a history could neither be gone on with nor replayed. So whoever is stopped in
the middle has taken some runs away and left the others as they were, and may just begin again.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

from sqlalchemy import Engine

from remotelr_service.actions import audit
from remotelr_service.db import store
from remotelr_service.db.engine import reading
from remotelr_service.db.group import Group
from remotelr_service.db.writer import Writer

# Runs that are taken away in one transaction: service processes that share the database do not wait for long.
AT_ONCE = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Stale:
    """Which runs: those that have ended, were not touched for `age`, and are of the experiment, if one is named."""

    age: timedelta
    experiment: str | None = None


def list_stale(engine: Engine, stale: Stale, after: str | None = None, limit: int = AT_ONCE) -> list[str]:
    """Up to `limit` keys of such runs, in order, from the first one behind `after` on."""
    with reading(engine) as connection:
        before = store.database_time(connection) - stale.age
        return store.list_ended(connection, before=before, experiment=stale.experiment, after=after, limit=limit)


async def prune(writer: Writer, reads: Engine, stale: Stale, *, by: str) -> AsyncIterator[list[str]]:
    """Take all of them away; gives the keys that are gone after each transaction. The audit keeps who did it."""
    after: str | None = None
    while keys := list_stale(reads, stale, after):
        after = keys[-1]
        yield await writer.submit(partial(_take_away, keys, stale, by), *keys)


def _take_away(keys: list[str], stale: Stale, by: str, group: Group) -> list[str]:
    gone = []
    for key in keys:
        head = group.find(key)
        # Somebody may have begun another attempt since we looked.
        if head is None or head.run.status == "running" or head.updated_at > group.now - stale.age:
            continue
        audit.note_deletion(group, head, by)
        group.delete(head)
        gone.append(key)
    return gone
