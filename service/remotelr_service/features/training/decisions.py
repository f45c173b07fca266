"""Reads decisions and waits for the next one."""

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
    """The decision in force in `epoch`. In a gap it is the newest decision before the gap.

    Raises RunNotFound; EpochUndecided for an epoch after the newest decision.
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
    """Wait up to `wait_s` seconds for a decision with a `seq` above `after`; None after a timeout.

    Waiting holds no thread and no transaction. Raises RunNotFound, also if the run is deleted meanwhile.
    """
    return await _wait(waiters, key, lambda decision: decision.seq > after, wait_s)


async def wait_for_ranks(waiters: RunWaiters, waiting: Waiting, wait_s: float) -> Decision | None:
    """Wait until the point is decided or a newer attempt begins; otherwise as `wait_for_decision`."""

    def is_over(decision: Decision) -> bool:
        return decision.epoch > waiting.epoch or decision.attempt != waiting.attempt

    return await _wait(waiters, waiting.run, is_over, wait_s)


async def _wait(waiters: RunWaiters, key: str, until: Callable[[Decision], bool], wait_s: float) -> Decision | None:
    try:
        async with asyncio.timeout(wait_s):
            position = await waiters.wait(key, lambda position: until(position.decision))
    except TimeoutError:
        return None
    if position is None:
        raise RunNotFound(key)
    return position.decision
