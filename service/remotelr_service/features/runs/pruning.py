"""Taking away what ended long ago, so that the database does not grow for ever.

A run goes whole, or not at all: half a history could neither be gone on with nor replayed. So whoever is stopped in
the middle has taken some runs away and left the others as they were, and may just begin again. Of a command to many
runs the results go; what it did stands in the log of each run.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

from sqlalchemy import Engine

from remotelr_service.db.engine import reading
from remotelr_service.db.queries import bulk_commands, runs
from remotelr_service.db.writer.transaction import WriteTransaction
from remotelr_service.db.writer.writer import Writer
from remotelr_service.http.auth import audit

# Runs that are taken away in one transaction: service processes that share the database do not wait for long.
AT_ONCE = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class PruneFilter:
    """Which runs: those that have ended, were not touched for `age`, and are of the experiment, if one is named."""

    age: timedelta
    experiment: str | None = None


def list_stale(engine: Engine, stale: PruneFilter, after: str | None = None, limit: int = AT_ONCE) -> list[str]:
    """Up to `limit` keys of such runs, in order, from the first one behind `after` on."""
    with reading(engine) as connection:
        before = runs.database_time(connection) - stale.age
        return runs.list_ended(connection, before=before, experiment=stale.experiment, after=after, limit=limit)


async def prune(writer: Writer, reads: Engine, stale: PruneFilter, *, by: str) -> AsyncIterator[list[str]]:
    """Take all of them away; gives the keys that are gone after each transaction. The audit keeps who did it."""
    after: str | None = None
    while keys := list_stale(reads, stale, after):
        after = keys[-1]
        yield await writer.submit(partial(delete_runs, keys, stale, by), *keys)


def list_stale_bulk(engine: Engine, stale: PruneFilter, limit: int | None = None) -> list[int]:
    """The ids of up to `limit` commands to many runs, or of all, that were finished so long ago; of no experiment."""
    if stale.experiment is not None:
        return []
    with reading(engine) as connection:
        before = runs.database_time(connection) - stale.age
        return bulk_commands.list_finished(connection, before=before, limit=limit)


async def prune_bulk(writer: Writer, reads: Engine, stale: PruneFilter, *, by: str) -> AsyncIterator[int]:
    """Take all of them away, each in a transaction; gives the id of each that is gone. The audit keeps what it was."""
    while found := list_stale_bulk(reads, stale, AT_ONCE):
        for bulk_id in found:
            await writer.submit(partial(delete_bulk_commands, bulk_id, by))
            yield bulk_id


def delete_bulk_commands(bulk_id: int, by: str, tx: WriteTransaction) -> None:
    bulk = bulk_commands.find_bulk(tx.connection, bulk_id)
    if bulk is None:
        return
    audit.note_bulk_deletion(tx, bulk, by)
    bulk_commands.delete_bulk(tx.writing(), bulk_id)


def delete_runs(keys: list[str], stale: PruneFilter, by: str, tx: WriteTransaction) -> list[str]:
    gone = []
    for key in keys:
        stored = tx.find(key)
        # Somebody may have begun another attempt since we looked.
        if stored is None or stored.run.status == "running" or stored.updated_at > tx.now - stale.age:
            continue
        audit.note_deletion(tx, stored, by)
        tx.delete(stored)
        gone.append(key)
    return gone
