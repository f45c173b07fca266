"""Subscriptions to runs: every event once and in order, with one polling task for all subscribers.

The task reads the database after a commit of this process, after a signal of another replica, and at intervals. It
hands the entries to each subscriber, which holds neither a thread nor a connection. A subscriber that resumes after
its last id, or that is too slow, reads the missing entries from the database.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Collection
from contextlib import aclosing, asynccontextmanager, suppress

from sqlalchemy import Engine

from remotelr_service.db.queries.feed import Cursor, Entry, Stall
from remotelr_service.errors import Overloaded
from remotelr_service.live.all_feed import AllStreams, Selection
from remotelr_service.live.messages import Batch, Item, Place
from remotelr_service.live.replica_signals import ReplicaSignals
from remotelr_service.live.run_feed import RunStreams
from remotelr_service.live.shares import Shares, quarter

__all__ = ["Batch", "Cursor", "Entry", "Item", "Place", "Selection", "Stall", "Streams"]

# A caller may have a quarter of all streams, but at least this many.
MIN_SHARE = 4


class Streams:
    """The subscriptions of this process. Used from one event loop, except `committed`.

    engine: `Database.reads`.
    """

    def __init__(self, engine: Engine) -> None:
        self.limit_to(1_000)
        self._runs = RunStreams(engine)
        self._all = AllStreams(engine)
        self._signals = ReplicaSignals(engine, self._mark_all)
        self._loop: asyncio.AbstractEventLoop | None = None

    def limit_to(self, limit: int) -> None:
        """Allow `limit` subscribers, of which one holder may have a quarter. Call it before the first one."""
        self._shares = Shares(limit, quarter(limit, MIN_SHARE))

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

    def follow_run(self, key: str, after: Place | None, idle_s: float, holder: str) -> AsyncGenerator[Batch, None]:
        """The entries of the run `key` after `after`, or from now on; an empty batch after `idle_s` without any.

        It ends when the run is deleted. The first batch has the id of the begin.
        holder: the caller, in words, whose share of the subscribers this one counts to.
        The first batch raises Overloaded, RunNotFound or DatabaseUnavailable.
        """
        return self._counted(self._runs.follow(key, after, idle_s), holder)

    def follow_all(
        self, selection: Selection, after: Cursor | None, idle_s: float, holder: str
    ) -> AsyncGenerator[Batch, None]:
        """The entries of the selected runs after `after`, or from now on; else as `follow_run`."""
        return self._counted(self._all.follow(selection, after, idle_s), holder)

    async def _counted(self, batches: AsyncGenerator[Batch, None], holder: str) -> AsyncGenerator[Batch, None]:
        # Counted before the first query: many subscribers that begin at once must not pass the limit together.
        exceeded = self._shares.take(holder)
        if exceeded == "share":
            raise Overloaded(
                f"{holder} has {self._shares.share} open streams, its share of the {self._shares.limit} of this "
                f"service; close one, or retry later"
            )
        if exceeded == "limit":
            raise Overloaded(f"{self._shares.limit} streams are open, which is the limit; retry later")
        try:
            async with aclosing(batches):
                async for batch in batches:
                    yield batch
        finally:
            self._shares.release(holder)

    def _mark_changed(self, keys: Collection[str]) -> None:
        if keys:
            self._runs.mark_changed(keys)
        self._all.wake()

    def _mark_all(self) -> None:
        self._runs.mark_all()
        self._all.wake()
