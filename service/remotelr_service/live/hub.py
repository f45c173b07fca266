"""Following runs live: every event once and in order, for as many as want to, at the price of one who looks.

One task looks at the database for all who follow: when this process has committed something that concerns them, when
another replica says that it has, and once in a while. What it finds it hands to each follower, who holds neither a
thread nor a connection. Whoever comes back with what they had last, or cannot keep up, reads what is missing.
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
    """All who follow runs in this process. Used from one event loop, but for `committed`.

    engine: `Database.reads`. limit: how many may follow at once.
    """

    def __init__(self, engine: Engine, limit: int = 1_000) -> None:
        self.limit = limit
        self._runs = RunStreams(engine)
        self._all = AllStreams(engine)
        self._signals = ReplicaSignals(engine, self._heard)
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def count(self) -> int:
        """How many follow."""
        return self._runs.count + self._all.count

    @asynccontextmanager
    async def kept(self) -> AsyncIterator[None]:
        """Within this block other replicas are heard, and hear of us. At its end nobody is told any more."""
        self._loop = asyncio.get_running_loop()
        try:
            async with self._signals.kept():
                yield
        finally:
            await self._runs.looking.end()
            await self._all.looking.end()

    def committed(self, keys: Collection[str]) -> None:
        """Say that these runs have moved; after the commit, from any thread."""
        self._signals.committed()
        followed = self._runs.followed(keys)
        if self._loop is None or not (followed or self._all.count):
            return
        # A loop that is closed has nobody left who follows.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._moved, followed)

    def follow_run(self, key: str, after: Place | None, rest_s: float) -> AsyncGenerator[Batch, None]:
        """What happens to the run `key` behind `after`, or from now on; a quiet step when nothing does for `rest_s`.

        It ends when the run is deleted. Its first step says where it begins, or raises RunNotFound or
        DatabaseUnavailable. Raises Overloaded.
        """
        self._check_room()
        return self._runs.follow(key, after, rest_s)

    def follow_all(self, selection: Selection, after: Cursor | None, rest_s: float) -> AsyncGenerator[Batch, None]:
        """What happens to the runs that `selection` takes, behind `after` or from now on; else as `follow_run`."""
        self._check_room()
        return self._all.follow(selection, after, rest_s)

    def _check_room(self) -> None:
        if self.count >= self.limit:
            raise Overloaded(f"{self.limit} streams are open, and no more are")

    def _moved(self, keys: Collection[str]) -> None:
        if keys:
            self._runs.moved(keys)
        self._all.heard()

    def _heard(self) -> None:
        self._runs.heard()
        self._all.heard()
