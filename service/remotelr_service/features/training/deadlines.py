"""Decides points at their deadline, without the missing ranks.

A repeated report (`reports.py`) or the periodic check of any replica decides the point first. The time is the
database's clock, which all replicas share. It may step back, so a replica also measures the wait of each point that it
has seen by its own monotonic clock. The point is decided when either wait is over.
"""

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from datetime import datetime

from sqlalchemy import Connection, Engine

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

# The interval of the check in seconds, and the numbers of runs that one check reads and decides.
CHECK_S = 0.5
WAITING_RUNS = 2_000
RUNS = 200

# The run key and the stored deadline of a waiting point.
_Point = tuple[str, datetime]


class Waits:
    """When waiting points are due by this process's monotonic clock, whatever the database's clock does since."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._due_at: dict[_Point, float] = {}

    def list_due(self, now: datetime, waiting: Iterable[tuple[str, datetime, datetime]]) -> list[_Point]:
        """The points that are due. now: the database's time. waiting: the result of `list_waiting`, with all runs."""
        at, known, self._due_at = self._clock(), self._due_at, {}
        for key, deadline_at, changed_at in waiting:
            # A change that lies ahead was made before the clock stepped back.
            left_s = (deadline_at - max(now, changed_at)).total_seconds()
            self._due_at[key, deadline_at] = min(at + left_s, known.get((key, deadline_at), math.inf))
        return [point for point, due_at in self._due_at.items() if due_at <= at]


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


async def decide_due(writer: Writer, engine: Engine, waits: Waits) -> list[Decision]:
    """Decide every point whose deadline has passed, by the database's clock or by `waits`.

    A run that another replica has locked is left to the next check.
    Returns: the decisions that this call took. Raises DatabaseUnavailable.
    """
    now, waiting = await run_query(engine, _list_waiting)
    due = waits.list_due(now, waiting)[:RUNS]
    decisions = await asyncio.gather(*(_decide(writer, *point) for point in due))
    return [decision for decision in decisions if decision is not None]


def decide_if_due(tx: WriteTransaction, stored: StoredRun, passed: datetime | None = None) -> Decision | Waiting | None:
    """The decision of the run's waiting point if its deadline has passed; otherwise None.

    passed: a deadline that has passed by the monotonic clock.
    """
    if not tx.is_due(stored) and (passed is None or stored.deadline_at != passed):
        return None
    stored = expire_overrides(tx, stored)
    outcome = rules.decide_timed_out(stored.run, tx.log(stored.run.key))
    tx.append(stored, outcome)
    return outcome.answer


async def _check_periodically(
    writer: Writer, engine: Engine, decided: Callable[[Decision], None], ended: asyncio.Event
) -> None:
    waits = Waits()
    while True:
        with suppress(TimeoutError):
            async with asyncio.timeout(CHECK_S):
                await ended.wait()
                return
        try:
            await expire_due_overrides(writer, engine)
            for decision in await decide_due(writer, engine, waits):
                decided(decision)
        except ServiceError as error:
            log.debug("the check of deadlines failed", extra={"error": str(error)})
        except Exception:
            # Without the next check, waiting ranks would wait for ever.
            log.exception("the check of deadlines failed")


async def _decide(writer: Writer, key: str, deadline_at: datetime) -> Decision | None:
    def action(tx: WriteTransaction) -> Decision | Waiting | None:
        stored = tx.find(key)
        if stored is None:
            return None
        try:
            return decide_if_due(tx, stored, deadline_at)
        except RulesError as error:
            # Only a rank can send what is missing. The next report gets this error.
            log.warning("the point cannot be decided at its deadline", extra={"run": key, "error": str(error)})
            tx.clear_deadline(stored)
            return None

    try:
        answer = await writer.submit(action, key)
    except ServiceError as error:
        log.debug("the run is left to the next check of deadlines", extra={"run": key, "error": str(error)})
        return None
    except Exception:
        log.exception("the decision at the deadline failed", extra={"run": key})
        return None
    return answer if isinstance(answer, Decision) else None


def _list_waiting(connection: Connection) -> tuple[datetime, list[tuple[str, datetime, datetime]]]:
    return runs.database_time(connection), runs.list_waiting(connection, WAITING_RUNS)
