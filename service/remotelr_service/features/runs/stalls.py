"""Runs that have fallen silent: a trainer that hangs, or died, says nothing; so it is noticed what is not said.

A run is stalled when nothing was heard of its trainer for three times as long as its epochs usually take. What tells
the time is the database's clock, so replicas agree, and the one that is first marks the run. It is marked no longer
when its trainer is heard of again.
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

from remotelr_service.db.engine import reading
from remotelr_service.db.queries import stalls
from remotelr_service.db.queries.runs import database_time
from remotelr_service.db.queries.stalls import Pace, Quiet
from remotelr_service.db.writer.transaction import WriteTransaction
from remotelr_service.db.writer.writer import Writer
from remotelr_service.errors import ServiceError

log = logging.getLogger(__name__)

# So many times the usual time of an epoch is too long; but no silence shorter than that many seconds is.
TIMES: Final = 3.0
LEAST_S: Final = 30.0
# How often a replica looks. One that begins to lead the others' work does no harm.
LOOK_S: Final = 5.0
# How many are marked in one transaction: nobody who reports shall wait for longer.
_TOGETHER: Final = 50
# How many running runs are looked at in one look; the next one goes on behind them, and then round again.
_AMONG: Final = 500
# Of how many runs it is remembered how long they may be silent.
_REMEMBERED: Final = 50_000
# From fewer epochs nobody can tell what is usual.
_LEAST_EPOCHS = 2


class Stalls:
    """Looks for runs that have fallen silent. engine: `Database.reads`.

    count: how many there are, as of the last look.
    """

    def __init__(self, writer: Writer, engine: Engine) -> None:
        self.count = 0
        self._writer = writer
        self._engine = engine
        # What earlier looks have worked out: until when the run, as it stands, may be silent; None: nobody knows.
        self._patience: dict[int, tuple[int, datetime | None]] = {}
        self._after: str | None = None

    @asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        """Within this block runs that fall silent are marked."""
        watching = asyncio.create_task(self._watch())
        try:
            yield
        finally:
            # After a long outage all runs are silent: who ends does not mark them all first.
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)

    async def look(self, at: datetime | None = None) -> list[str]:
        """Mark the runs that have fallen silent; gives their keys. Raises DatabaseUnavailable.

        at: the time to judge by; by default the database's own.
        """
        silent = await asyncio.to_thread(self._silent, at)
        marked: list[str] = []
        for begin in range(0, len(silent), _TOGETHER):
            marked += await self._mark(silent[begin : begin + _TOGETHER], at)
        self.count = await asyncio.to_thread(self._counted)
        return marked

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                for key in await self.look():
                    log.warning("the run %s has fallen silent", key)
            except ServiceError as error:
                log.debug("no look for silent runs, because: %s", error)
            except Exception:
                # One look that fails must not be the last.
                log.exception("the look for silent runs failed")

    def _silent(self, at: datetime | None) -> list[tuple[Quiet, Pace]]:
        with reading(self._engine) as connection:
            now = at or database_time(connection)
            quiet, self._after = stalls.list_quiet(connection, LEAST_S, at, after=self._after, among=_AMONG)
            if len(self._patience) > _REMEMBERED:
                self._patience.clear()
            return [found for run in quiet if (found := self._judged(connection, run, now)) is not None]

    def _judged(self, connection: Connection, run: Quiet, now: datetime) -> tuple[Quiet, Pace] | None:
        known = self._patience.get(run.id)
        if known is not None and known[0] == run.seq and (known[1] is None or known[1] > now):
            return None
        pace = stalls.pace_of(connection, run.id)
        until = patient_until(pace)
        self._patience[run.id] = run.seq, until
        return (run, pace) if until is not None and until <= now else None

    async def _mark(self, silent: Sequence[tuple[Quiet, Pace]], at: datetime | None) -> list[str]:
        """The keys of those among these that were marked."""
        keys = [quiet.key for quiet, _ in silent]

        def action(tx: WriteTransaction) -> list[str]:
            return [quiet.key for quiet, pace in silent if _mark(tx, quiet=quiet, pace=pace, at=at)]

        try:
            return await self._writer.submit(action, *keys)
        except ServiceError as error:
            log.debug("the runs %s are left to the next look, because: %s", keys, error)
            return []

    def _counted(self) -> int:
        with reading(self._engine) as connection:
            return stalls.count_stalled(connection)


def typical_epoch_s(epochs: Sequence[tuple[int, int, datetime]]) -> float | None:
    """The seconds an epoch usually takes: the median of the last ones. None where there are too few.

    epochs: (attempt, epoch, time) of what was decided, newest first. What lies between two attempts is no epoch.
    """
    took = [
        (later - earlier).total_seconds() / max(epoch - before, 1)
        for (attempt, epoch, later), (attempt_before, before, earlier) in pairwise(epochs)
        if attempt == attempt_before
    ]
    return median(took) if len(took) >= _LEAST_EPOCHS else None


def patient_until(pace: Pace) -> datetime | None:
    """Until when silence means nothing; None when that is not known."""
    usual = typical_epoch_s(pace.epochs)
    if usual is None or pace.reported_at is None:
        return None
    return pace.reported_at + timedelta(seconds=max(TIMES * usual, LEAST_S))


def _mark(tx: WriteTransaction, *, quiet: Quiet, pace: Pace, at: datetime | None) -> bool:
    stored = tx.find(quiet.key)
    usual = typical_epoch_s(pace.epochs)
    if stored is None or usual is None or pace.reported_at is None:
        return False
    # Something may have come since it was looked; then the next look will see that.
    if stored.id != quiet.id or stored.run.seq != quiet.seq or stored.stalled_at is not None:
        return False
    if stored.run.status != "running":
        return False
    tx.stall(stored, pace.reported_at, usual, at or tx.now)
    return True
