"""Detects runs whose trainer stopped reporting.

A run is stalled if its trainer has not reported for three typical epochs. The time is the database's clock, so replicas
agree, and the first one marks the run. The trainer's next request removes the mark.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from itertools import pairwise
from statistics import median
from typing import Final

from sqlalchemy import Connection, Engine

from remotelr_service.db.engine import reading, run_query
from remotelr_service.db.queries import stalls
from remotelr_service.db.queries.runs import database_time
from remotelr_service.db.queries.stalls import Pace, QuietRun
from remotelr_service.db.writer.transaction import WriteTransaction
from remotelr_service.db.writer.writer import Writer
from remotelr_service.errors import ServiceError

log = logging.getLogger(__name__)

# A run is stalled after this many typical epochs, and not before this many seconds.
TYPICAL_EPOCHS, MIN_STALL_S = 3.0, 30.0
# The interval of the check in seconds.
CHECK_S: Final = 5.0
# The number of runs marked in one transaction, which bounds the time that reports wait, and the number of running runs
# in one check. The next check continues after them, then from the start.
_MARKS_PER_TRANSACTION, _RUNS_PER_CHECK = 50, 500
# The number of runs whose deadline is cached.
_CACHED_RUNS: Final = 50_000
# The minimum number of epochs for a typical duration.
_MIN_EPOCHS = 2


class Stalls:
    """Marks stalled runs. engine: `Database.reads`.

    count: the number of stalled runs at the last check.
    """

    def __init__(self, writer: Writer, engine: Engine) -> None:
        self.count = 0
        self._writer = writer
        self._engine = engine
        # By run id: the `seq` of the run, and the time from which it is stalled; None if that is unknown.
        self._deadlines: dict[int, tuple[int, datetime | None]] = {}
        self._after: str | None = None

    @asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        """Context manager: checks for stalled runs periodically."""
        watching = asyncio.create_task(self._watch())
        try:
            yield
        finally:
            # After a long outage all runs are stalled. A stopping process does not mark them.
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)

    async def check(self, at: datetime | None = None) -> list[str]:
        """Mark the runs that are stalled. Returns: their keys. Raises DatabaseUnavailable.

        at: the time of the check; by default the database's time.
        """
        stalled = await asyncio.to_thread(self._list_stalled, at)
        marked: list[str] = []
        for begin in range(0, len(stalled), _MARKS_PER_TRANSACTION):
            marked += await self._mark(stalled[begin : begin + _MARKS_PER_TRANSACTION], at)
        self.count = await run_query(self._engine, stalls.count_stalled)
        return marked

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(CHECK_S)
            try:
                for key in await self.check():
                    log.warning("the run is stalled", extra={"run": key})
            except ServiceError as error:
                log.debug("the check for stalled runs failed", extra={"error": str(error)})
            except Exception:
                log.exception("the check for stalled runs failed")

    def _list_stalled(self, at: datetime | None) -> list[tuple[QuietRun, Pace]]:
        with reading(self._engine) as connection:
            now = at or database_time(connection)
            quiet, self._after = stalls.list_quiet(
                connection, MIN_STALL_S, at, after=self._after, among=_RUNS_PER_CHECK
            )
            if len(self._deadlines) > _CACHED_RUNS:
                self._deadlines.clear()
            return [found for run in quiet if (found := self._check_run(connection, run, now)) is not None]

    def _check_run(self, connection: Connection, run: QuietRun, now: datetime) -> tuple[QuietRun, Pace] | None:
        cached = self._deadlines.get(run.id)
        if cached is not None and cached[0] == run.seq and (cached[1] is None or cached[1] > now):
            return None
        pace = stalls.pace_of(connection, run.id)
        deadline = stall_deadline(pace)
        self._deadlines[run.id] = run.seq, deadline
        return (run, pace) if deadline is not None and deadline <= now else None

    async def _mark(self, stalled: Sequence[tuple[QuietRun, Pace]], at: datetime | None) -> list[str]:
        """Mark these runs. Returns: the keys of the marked ones."""
        keys = [quiet.key for quiet, _ in stalled]

        def action(tx: WriteTransaction) -> list[str]:
            return [quiet.key for quiet, pace in stalled if _mark(tx, quiet=quiet, pace=pace, at=at)]

        try:
            return await self._writer.submit(action, *keys)
        except ServiceError as error:
            log.debug("the runs are left to the next check for stalled runs", extra={"runs": keys, "error": str(error)})
            return []


def typical_epoch_s(epochs: Sequence[tuple[int, int, datetime]]) -> float | None:
    """The median duration of the epochs in seconds; None for too few epochs.

    epochs: (attempt, epoch, time) of decided points, newest first. Pairs of different attempts are ignored.
    """
    durations = [
        (later - earlier).total_seconds() / max(epoch - before, 1)
        for (attempt, epoch, later), (attempt_before, before, earlier) in pairwise(epochs)
        if attempt == attempt_before
    ]
    return median(durations) if len(durations) >= _MIN_EPOCHS else None


def stall_deadline(pace: Pace) -> datetime | None:
    """The time from which the run is stalled; None if its typical epoch is unknown."""
    typical_s = typical_epoch_s(pace.epochs)
    if typical_s is None or pace.reported_at is None:
        return None
    return pace.reported_at + timedelta(seconds=max(TYPICAL_EPOCHS * typical_s, MIN_STALL_S))


def _mark(tx: WriteTransaction, *, quiet: QuietRun, pace: Pace, at: datetime | None) -> bool:
    stored = tx.find(quiet.key)
    typical_s = typical_epoch_s(pace.epochs)
    if stored is None or typical_s is None or pace.reported_at is None:
        return False
    # The run may have changed since the check; then the next check decides.
    if stored.id != quiet.id or stored.run.seq != quiet.seq or stored.stalled_at is not None:
        return False
    if stored.run.status != "running":
        return False
    tx.stall(stored, pace.reported_at, typical_s, at or tx.now)
    return True
