"""Deletes runs and bulk commands that finished long ago.

A run is deleted whole, because a part of a log cannot be replayed. A stopped prune can be started again. Pruning a
bulk command deletes its results; its effects stay in the logs of the runs.
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

# The number of runs deleted in one transaction. It bounds the time that reports wait.
BATCH_SIZE = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class PruneFilter:
    """Selects finished runs without a change for `age`, of one experiment if it is set."""

    age: timedelta
    experiment: str | None = None


def list_stale(engine: Engine, stale: PruneFilter, after: str | None = None, limit: int = BATCH_SIZE) -> list[str]:
    """Up to `limit` keys of selected runs after the key `after`, in order."""
    with reading(engine) as connection:
        before = runs.database_time(connection) - stale.age
        return runs.list_ended(connection, before=before, experiment=stale.experiment, after=after, limit=limit)


async def prune(writer: Writer, reads: Engine, stale: PruneFilter, *, by: str) -> AsyncIterator[list[str]]:
    """Delete all selected runs. Yields the deleted keys after each transaction. by: the actor for the audit."""
    after: str | None = None
    while keys := list_stale(reads, stale, after):
        after = keys[-1]
        yield await writer.submit(partial(delete_runs, keys, stale, by), *keys)


def list_stale_bulk(engine: Engine, stale: PruneFilter, limit: int | None = None) -> list[int]:
    """Up to `limit` ids of bulk commands that finished before the age; none if an experiment is set."""
    if stale.experiment is not None:
        return []
    with reading(engine) as connection:
        before = runs.database_time(connection) - stale.age
        return bulk_commands.list_finished(connection, before=before, limit=limit)


async def prune_bulk(writer: Writer, reads: Engine, stale: PruneFilter, *, by: str) -> AsyncIterator[int]:
    """Delete those bulk commands, each in a transaction. Yields each deleted id. by: the actor for the audit."""
    while found := list_stale_bulk(reads, stale, BATCH_SIZE):
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
    deleted = []
    for key in keys:
        stored = tx.find(key)
        # A new attempt may have begun after the keys were listed.
        if stored is None or stored.run.status == "running" or stored.updated_at > tx.now - stale.age:
            continue
        audit.note_deletion(tx, stored, by)
        tx.delete(stored)
        deleted.append(key)
    return deleted
