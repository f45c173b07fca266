"""Expires overrides that hold until a time.

The rules have no clock, so the end of an override is an event. An action that decides appends it first; otherwise the
periodic check of any replica does. The time is the database's clock.
"""

import asyncio
import logging
from functools import partial

from sqlalchemy import Engine

from remotelr import rules
from remotelr_service.db.engine import run_query
from remotelr_service.db.queries import runs
from remotelr_service.db.queries.runs import StoredRun
from remotelr_service.db.writer.transaction import WriteTransaction
from remotelr_service.db.writer.writer import Writer
from remotelr_service.errors import ServiceError

log = logging.getLogger(__name__)

# The number of runs in one check.
RUNS = 200


def expire_overrides(tx: WriteTransaction, stored: StoredRun) -> StoredRun:
    """The run without the overrides whose time has passed."""
    if not tx.has_expired_override(stored):
        return stored
    while (command := rules.expired_override(stored.run, tx.now)) is not None:
        stored = tx.append(stored, rules.command(stored.run, command, tx.log(stored.run.key)))
    return stored


async def expire_due_overrides(writer: Writer, engine: Engine) -> None:
    """Expire every override whose time has passed. Raises DatabaseUnavailable.

    A run that another replica has locked is left to the next check.
    """
    due = await run_query(engine, partial(runs.list_expired_overrides, limit=RUNS))
    await asyncio.gather(*(_expire(writer, key) for key in due))


async def _expire(writer: Writer, key: str) -> None:
    def action(tx: WriteTransaction) -> None:
        stored = tx.find(key)
        if stored is not None:
            expire_overrides(tx, stored)

    try:
        await writer.submit(action, key)
    except ServiceError as error:
        log.debug("the run is left to the next check of overrides", extra={"run": key, "error": str(error)})
    except Exception:
        log.exception("the expiry of the override failed", extra={"run": key})
