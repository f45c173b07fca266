"""Points whose time is over: decided without the ranks that are missing, whoever waiters first.

That may be a rank that asks again (`reports.py` beside this file) or any replica that looks; also one that was
not there when the point began to wait. What tells the time is the database's clock, for all of them.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

from sqlalchemy import Engine

from remotelr import rules
from remotelr.rules import Decision, RulesError, Waiting
from remotelr_service.db.engine import reading
from remotelr_service.db.queries import runs
from remotelr_service.db.queries.runs import StoredRun
from remotelr_service.db.writer.transaction import WriteTransaction
from remotelr_service.db.writer.writer import Writer
from remotelr_service.errors import ServiceError
from remotelr_service.features.training.override_expiry import expire_due_overrides, expire_overrides

log = logging.getLogger(__name__)

# How often a replica looks, and how many runs it takes on at once.
LOOK_S = 0.5
RUNS = 200


@asynccontextmanager
async def deadline_task(writer: Writer, engine: Engine, told: Callable[[Decision], None]) -> AsyncIterator[None]:
    """Within this block points whose time is over are decided, and rates held until a time are let go of.

    told: is given every decision this replica takes.
    """
    ended = asyncio.Event()
    keeping = asyncio.create_task(_keep_time(writer, engine, told, ended))
    try:
        yield
    finally:
        ended.set()
        await keeping


async def decide_due(writer: Writer, engine: Engine) -> list[Decision]:
    """Decide every point whose time is over; gives the decisions that nobody else was faster to take.

    A run that cannot be decided now, because another replica holds it, is left to the next look.
    Raises DatabaseUnavailable.
    """
    due = await asyncio.to_thread(_list_due, engine)
    decisions = await asyncio.gather(*(_decide(writer, key) for key in due))
    return [decision for decision in decisions if decision is not None]


def decide_if_due(tx: WriteTransaction, stored: StoredRun) -> Decision | Waiting | None:
    """The decision for the run's waiting point when its time is over; None when it is not."""
    if not tx.is_due(stored):
        return None
    stored = expire_overrides(tx, stored)
    outcome = rules.decide_timed_out(stored.run, tx.log(stored.run.key))
    tx.append(stored, outcome)
    return outcome.answer


async def _keep_time(writer: Writer, engine: Engine, told: Callable[[Decision], None], ended: asyncio.Event) -> None:
    while True:
        with suppress(TimeoutError):
            async with asyncio.timeout(LOOK_S):
                await ended.wait()
                return
        try:
            await expire_due_overrides(writer, engine)
            for decision in await decide_due(writer, engine):
                told(decision)
        except ServiceError as error:
            log.debug("no look at what is due, because: %s", error)
        except Exception:
            # One look that fails must not be the last: who waits would wait for ever.
            log.exception("the look at what is due failed")


async def _decide(writer: Writer, key: str) -> Decision | None:
    def action(tx: WriteTransaction) -> Decision | Waiting | None:
        stored = tx.find(key)
        if stored is None:
            return None
        try:
            return decide_if_due(tx, stored)
        except RulesError as refusal:
            # Nobody but a rank can say what is missing, and the next one that reports is asked for it.
            log.warning("the run %r waits on, because: %s", key, refusal)
            tx.clear_deadline(stored)
            return None

    try:
        answer = await writer.submit(action, key)
    except ServiceError as error:
        log.debug("the run %r is left to the next look, because: %s", key, error)
        return None
    except Exception:
        # What is wrong with one run shall not keep the others waiting.
        log.exception("the run %r cannot be decided", key)
        return None
    return answer if isinstance(answer, Decision) else None


def _list_due(engine: Engine) -> list[str]:
    with reading(engine) as connection:
        return runs.list_due(connection, RUNS)
