"""Who waits for news of a run, in this process. Nobody holds a thread or a transaction while waiting.

A thousand ranks may wait for one decision. So one look at the database serves all who wait, whoever they are
and whatever for: it is taken when somebody comes, when this process has committed something, and once in a
while, because nothing tells of the commits of other replicas.
"""

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass

from sqlalchemy import Engine

from remotelr_service.db.engine import reading
from remotelr_service.db.queries.events import RunPosition, list_positions
from remotelr_service.errors import DatabaseUnavailable

LOOK_AGAIN_S = 1.0


@dataclass(frozen=True, slots=True, eq=False)
class _Waiter:
    until: Callable[[RunPosition], bool]
    told: asyncio.Future[RunPosition | None]


class RunWaiters:
    """Wakes those who wait for a run when it stands where they wait for it. All of them wait in one event loop.

    engine: `Database.reads`.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._waiters: dict[str, set[_Waiter]] = {}
        self._unseen: set[str] = set()
        self._news = asyncio.Event()
        self._looking: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def wait(self, key: str, until: Callable[[RunPosition], bool]) -> RunPosition | None:
        """Where the run `key` stands, as soon as `until` holds of it; None when there is no such run.

        Raises DatabaseUnavailable when a look at it fails.
        """
        self._loop = asyncio.get_running_loop()
        waiter = _Waiter(until, self._loop.create_future())
        self._waiters.setdefault(key, set()).add(waiter)
        self._look_at([key])
        try:
            return await waiter.told
        finally:
            self._waiters[key].discard(waiter)
            if not self._waiters[key]:
                del self._waiters[key]
            if not self._waiters:
                self._news.set()

    def publish(self, keys: Collection[str]) -> None:
        """Say that these runs have moved; after the commit, from any thread."""
        # Whoever begins to wait after this line looks for itself, and sees what is committed.
        if not self._waiters or self._loop is None:
            return
        # A loop that is closed has nobody left who waits.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._look_at, keys)

    def _look_at(self, keys: Iterable[str]) -> None:
        self._unseen.update(key for key in keys if key in self._waiters)
        if not self._unseen:
            return
        self._news.set()
        if self._looking is None or self._looking.done():
            self._looking = asyncio.get_running_loop().create_task(self._look())

    async def _look(self) -> None:
        """Look, and tell, as long as anybody waits."""
        loop = asyncio.get_running_loop()
        again_at = loop.time() + LOOK_AGAIN_S
        while self._waiters:
            with suppress(TimeoutError):
                async with asyncio.timeout_at(again_at):
                    await self._news.wait()
            keys = self._unseen
            if loop.time() >= again_at:
                keys, again_at = set(self._waiters), loop.time() + LOOK_AGAIN_S
            self._unseen = set()
            self._news.clear()
            await self._tell(sorted(keys))

    async def _tell(self, keys: list[str]) -> None:
        # A set of waiters may change while the database is asked: who comes meanwhile is for the next look.
        asked = {key: tuple(self._waiters[key]) for key in keys if key in self._waiters}
        if not asked:
            return
        try:
            found = await asyncio.to_thread(self._standings, list(asked))
        except DatabaseUnavailable as away:
            for waiter in (each for waiters in asked.values() for each in waiters):
                if not waiter.told.done():
                    waiter.told.set_exception(DatabaseUnavailable(away.message))
            return
        for key, waiters in asked.items():
            standing = found.get(key)
            for waiter in waiters:
                if not waiter.told.done() and (standing is None or waiter.until(standing)):
                    waiter.told.set_result(standing)

    def _standings(self, keys: list[str]) -> Mapping[str, RunPosition]:
        with reading(self._engine) as connection:
            return list_positions(connection, keys)
