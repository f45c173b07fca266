"""Those who follow something live, and the one task that looks for all of them."""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from sqlalchemy import Connection, Engine

from remotelr_service.db.engine import reading
from remotelr_service.errors import DatabaseUnavailable

T = TypeVar("T")

log = logging.getLogger(__name__)

# How often it is looked: at once after a rest, and not again before. Without news once in `LOOK_AGAIN_S`.
TICK_S = 0.5
LOOK_AGAIN_S = 1.0
# More than this waits for nobody: who is so late reads it from the database.
MAX_WAITING = 2_000


@dataclass(slots=True, eq=False)
class Subscriber(Generic[T]):
    """What waits for one who follows. missed: something is to be read from the database first."""

    waiting: deque[T] = field(default_factory=deque)
    has_news: asyncio.Event = field(default_factory=asyncio.Event)
    missed: bool = True
    is_over: bool = False
    count: int = 0

    def give(self, item: T, count: int) -> None:
        """Let `item`, which holds so many entries, wait for them."""
        self.has_news.set()
        if self.count + count > MAX_WAITING:
            self.missed, self.count = True, 0
            self.waiting.clear()
        # What is missed is read from the database, and all that has come since with it.
        if not self.missed:
            self.waiting.append(item)
            self.count += count

    def end(self) -> None:
        self.is_over = True
        self.has_news.set()

    async def news(self, rest_s: float) -> Sequence[T]:
        """What has come since, or nothing when nothing does for `rest_s`."""
        with suppress(TimeoutError):
            async with asyncio.timeout(rest_s):
                await self.has_news.wait()
        self.has_news.clear()
        items, self.count = list(self.waiting), 0
        self.waiting.clear()
        return items


class Poller:
    """A task that looks as long as anybody follows, and rests when there is nothing new.

    begin: called before the first look, and again after nobody followed. look: gives whether to look again at once.
    is_wanted: whether anybody follows.
    """

    def __init__(
        self,
        begin: Callable[[], Awaitable[None]],
        look: Callable[[], Awaitable[bool]],
        is_wanted: Callable[[], bool],
    ) -> None:
        self._begin, self._look, self._is_wanted = begin, look, is_wanted
        self._news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._ready: asyncio.Future[None] | None = None

    def wake(self) -> None:
        """There is something new."""
        self._news.set()

    async def begun(self) -> None:
        """Until it looks. Raises what its begin raises."""
        if self._task is None or self._task.done():
            loop = asyncio.get_running_loop()
            self._ready = loop.create_future()
            self._task = loop.create_task(self._run(self._ready))
        assert self._ready is not None
        await asyncio.shield(self._ready)

    async def end(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    async def _run(self, ready: asyncio.Future[None]) -> None:
        try:
            await self._begin()
        except Exception as error:  # noqa: BLE001  # whatever it was is told to all who wait for it
            ready.set_exception(error)
            return
        ready.set_result(None)
        is_hurried = False
        while self._is_wanted():
            if not is_hurried:
                with suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_AGAIN_S):
                        await self._news.wait()
            self._news.clear()
            try:
                is_hurried = await self._look()
            except DatabaseUnavailable as away:
                log.debug("no look at what is new, because: %s", away)
            except Exception:
                # One look that fails must not be the last.
                log.exception("the look at what is new failed")
            await asyncio.sleep(TICK_S)


async def ask(engine: Engine, question: Callable[[Connection], T]) -> T:
    """The answer of the database, whose connection is held no longer than that takes. Raises DatabaseUnavailable."""

    def asked() -> T:
        with reading(engine) as connection:
            return question(connection)

    return await asyncio.to_thread(asked)
