"""Subscriptions to runs: every event once and in order, with one polling task for all subscribers.

The task reads the database after a commit of this process, after a signal of another replica, and at intervals. It
hands the entries to each subscriber, which holds neither a thread nor a connection. A subscriber that resumes after
its last id, or that is too slow, reads the missing entries from the database.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Collection
from contextlib import asynccontextmanager, suppress

from sqlalchemy import Engine

from remotelr_service.db.queries.feed import Cursor, Entry, Stall
from remotelr_service.errors import Overloaded
from remotelr_service.live.all_feed import AllStreams, Selection
from remotelr_service.live.messages import Batch, Item, Place
from remotelr_service.live.replica_signals import ReplicaSignals
from remotelr_service.live.run_feed import RunStreams

__all__ = ["Batch", "Cursor", "Entry", "Item", "Place", "Selection", "Stall", "Streams"]


class Streams:
    """The subscriptions of this process. Used from one event loop, except `committed`.

    engine: `Database.reads`. limit: the maximal number of subscribers.
    """

    def __init__(self, engine: Engine, limit: int = 1_000) -> None:
        self.limit = limit
        self._runs = RunStreams(engine)
        self._all = AllStreams(engine)
        self._signals = ReplicaSignals(engine, self._mark_all)
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def count(self) -> int:
        """The number of subscribers."""
        return self._runs.count + self._all.count

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Exchange signals with other replicas within this block. At its end no subscriber receives more entries."""
        self._loop = asyncio.get_running_loop()
        try:
            async with self._signals.running():
                yield
        finally:
            await self._runs.poller.end()
            await self._all.poller.end()

    def committed(self, keys: Collection[str]) -> None:
        """Announce that these runs have changed; after the commit, from any thread."""
        self._signals.committed()
        subscribed = self._runs.select_subscribed(keys)
        if self._loop is None or not (subscribed or self._all.count):
            return
        # A closed loop has no subscribers.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._mark_changed, subscribed)

    def follow_run(self, key: str, after: Place | None, idle_s: float) -> AsyncGenerator[Batch, None]:
        """The entries of the run `key` after `after`, or from now on; an empty batch after `idle_s` without any.

        It ends when the run is deleted. The first batch has the id of the begin.
        Raises Overloaded; the first batch raises RunNotFound or DatabaseUnavailable.
        """
        self._check_limit()
        return self._runs.follow(key, after, idle_s)

    def follow_all(self, selection: Selection, after: Cursor | None, idle_s: float) -> AsyncGenerator[Batch, None]:
        """The entries of the selected runs after `after`, or from now on; else as `follow_run`."""
        self._check_limit()
        return self._all.follow(selection, after, idle_s)

    def _check_limit(self) -> None:
        if self.count >= self.limit:
            raise Overloaded(f"{self.limit} streams are open, which is the limit; retry later")

    def _mark_changed(self, keys: Collection[str]) -> None:
        if keys:
            self._runs.mark_changed(keys)
        self._all.wake()

    def _mark_all(self) -> None:
        self._runs.mark_all()
        self._all.wake()
