"""Decides points at their deadline, without the missing ranks.

A repeated report (`reports.py`) or the periodic check of any replica decides the point first. The time is the
database's clock.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial

from sqlalchemy import Engine

from remotelr import rules
from remotelr.rules import Decision, RulesError, Waiting
from remotelr_service.db.engine import run_query
from remotelr_service.db.queries import runs
from remotelr_service.db.queries.runs import StoredRun
from remotelr_service.db.writer.transaction import WriteTransaction
from remotelr_service.db.writer.writer import Writer
from remotelr_service.errors import ServiceError
from remotelr_service.features.training.override_expiry import expire_due_overrides, expire_overrides

log = logging.getLogger(__name__)

# The interval of the check in seconds, and the number of runs in one check.
CHECK_S = 0.5
RUNS = 200


@asynccontextmanager
async def deadline_task(writer: Writer, engine: Engine, decided: Callable[[Decision], None]) -> AsyncIterator[None]:
    """Context manager: decides points at their deadline and expires timed overrides.

    decided: called with every decision that this replica takes.
    """
    ended = asyncio.Event()
    task = asyncio.create_task(_check_periodically(writer, engine, decided, ended))
    try:
        yield
    finally:
        ended.set()
        await task


async def decide_due(writer: Writer, engine: Engine) -> list[Decision]:
    """Decide every point whose deadline has passed.

    A run that another replica has locked is left to the next check.
    Returns: the decisions that this call took. Raises DatabaseUnavailable.
    """
    due = await run_query(engine, partial(runs.list_due, limit=RUNS))
    decisions = await asyncio.gather(*(_decide(writer, key) for key in due))
    return [decision for decision in decisions if decision is not None]


def decide_if_due(tx: WriteTransaction, stored: StoredRun) -> Decision | Waiting | None:
    """The decision of the run's waiting point if its deadline has passed; otherwise None."""
    if not tx.is_due(stored):
        return None
    stored = expire_overrides(tx, stored)
    outcome = rules.decide_timed_out(stored.run, tx.log(stored.run.key))
    tx.append(stored, outcome)
    return outcome.answer


async def _check_periodically(
    writer: Writer, engine: Engine, decided: Callable[[Decision], None], ended: asyncio.Event
) -> None:
    while True:
        with suppress(TimeoutError):
            async with asyncio.timeout(CHECK_S):
                await ended.wait()
                return
        try:
            await expire_due_overrides(writer, engine)
            for decision in await decide_due(writer, engine):
                decided(decision)
        except ServiceError as error:
            log.debug("the check of deadlines failed: %s", error)
        except Exception:
            # Without the next check, waiting ranks would wait for ever.
            log.exception("the check of deadlines failed")


async def _decide(writer: Writer, key: str) -> Decision | None:
    def action(tx: WriteTransaction) -> Decision | Waiting | None:
        stored = tx.find(key)
        if stored is None:
            return None
        try:
            return decide_if_due(tx, stored)
        except RulesError as error:
            # Only a rank can send what is missing. The next report gets this error.
            log.warning("the run %r cannot be decided at its deadline: %s", key, error)
            tx.clear_deadline(stored)
            return None

    try:
        answer = await writer.submit(action, key)
    except ServiceError as error:
        log.debug("the run %r is left to the next check: %s", key, error)
        return None
    except Exception:
        log.exception("the run %r cannot be decided", key)
        return None
    return answer if isinstance(answer, Decision) else None
