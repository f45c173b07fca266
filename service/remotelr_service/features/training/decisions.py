"""Decisions: the one in force, and the next one to come."""

import asyncio
from collections.abc import Callable

from sqlalchemy import Engine

from remotelr.rules import Decision, Waiting
from remotelr_service.db.engine import reading
from remotelr_service.db.queries.events import get_stored_decision
from remotelr_service.db.queries.runs import get_stored_run
from remotelr_service.db.writer.event_log import EventLog
from remotelr_service.errors import EpochUndecided, RunNotFound
from remotelr_service.live.waiters import RunWaiters


def get_decision(engine: Engine, key: str) -> Decision:
    """The decision in force. Raises RunNotFound."""
    with reading(engine) as connection:
        return get_stored_decision(connection, get_stored_run(connection, key))


def decision_of_epoch(engine: Engine, key: str, epoch: int) -> Decision:
    """The decision the run went, or goes, by in `epoch`: in a gap, the newest one before.

    Raises RunNotFound, EpochUndecided for an epoch beyond the newest decision.
    """
    with reading(engine) as connection:
        stored = get_stored_run(connection, key)
        if epoch > stored.run.epoch:
            raise EpochUndecided(key, epoch, stored.run.epoch)
        found = EventLog(connection, stored).in_force(epoch)
    if found is None or found.decision is None:
        raise RunNotFound(key)
    return found.decision


async def wait_for_decision(waiters: RunWaiters, key: str, after: int, wait_s: float) -> Decision | None:
    """The decision in force as soon as its `seq` is above `after`; None when that takes longer than `wait_s`.

    Neither a thread nor a transaction is held while waiting. Raises RunNotFound, also when the run is deleted.
    """
    return await _awaited(waiters, key, lambda decision: decision.seq > after, wait_s)


async def wait_for_ranks(waiters: RunWaiters, waiting: Waiting, wait_s: float) -> Decision | None:
    """The decision in force as soon as the awaited point is decided, or a newer attempt has begun; else as above."""

    def over(decision: Decision) -> bool:
        return decision.epoch > waiting.epoch or decision.attempt != waiting.attempt

    return await _awaited(waiters, waiting.run, over, wait_s)


async def _awaited(waiters: RunWaiters, key: str, until: Callable[[Decision], bool], wait_s: float) -> Decision | None:
    try:
        async with asyncio.timeout(wait_s):
            standing = await waiters.wait(key, lambda standing: until(standing.decision))
    except TimeoutError:
        return None
    if standing is None:
        raise RunNotFound(key)
    return standing.decision
