"""Rates that operators hold until a time: let go when it has come, by whoever waiters first.

The rules have no clock, so the end is an event of its own. Whoever is about to decide appends it first; where
nobody asks, the replica does that looks next. What tells the time is the database's clock, for all of them.
"""

import asyncio
import logging

from sqlalchemy import Engine

from remotelr import rules
from remotelr_service.db.engine import reading
from remotelr_service.db.queries import runs
from remotelr_service.db.queries.runs import StoredRun
from remotelr_service.db.writer.transaction import WriteTransaction
from remotelr_service.db.writer.writer import Writer
from remotelr_service.errors import ServiceError

log = logging.getLogger(__name__)

# How many runs one look takes on.
RUNS = 200


def expire_overrides(tx: WriteTransaction, stored: StoredRun) -> StoredRun:
    """The run without the rates that were to be held until a time that has come."""
    if not tx.has_expired_override(stored):
        return stored
    while (order := rules.expired_override(stored.run, tx.now)) is not None:
        stored = tx.append(stored, rules.command(stored.run, order, tx.log(stored.run.key)))
    return stored


async def expire_due_overrides(writer: Writer, engine: Engine) -> None:
    """Let go of every rate whose time has come. Raises DatabaseUnavailable.

    A run that another replica holds now is left to the next look.
    """
    due = await asyncio.to_thread(_list_due, engine)
    await asyncio.gather(*(_expire(writer, key) for key in due))


async def _expire(writer: Writer, key: str) -> None:
    def action(tx: WriteTransaction) -> None:
        stored = tx.find(key)
        if stored is not None:
            expire_overrides(tx, stored)

    try:
        await writer.submit(action, key)
    except ServiceError as error:
        log.debug("the run %r is left to the next look, because: %s", key, error)
    except Exception:
        # What is wrong with one run shall not keep the others waiting.
        log.exception("the rate of the run %r cannot be let go", key)


def _list_due(engine: Engine) -> list[str]:
    with reading(engine) as connection:
        return runs.list_expired_overrides(connection, RUNS)
