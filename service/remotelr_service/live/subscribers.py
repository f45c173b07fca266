"""Subscribers of a feed, and the task that polls the database for all of them."""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from remotelr_service.errors import DatabaseUnavailable

T = TypeVar("T")

log = logging.getLogger(__name__)

# The shortest pause between two polls, and the longest.
TICK_S = 0.5
POLL_S = 1.0
# A subscriber with more queued entries reads them from the database.
MAX_QUEUED = 2_000


@dataclass(slots=True, eq=False)
class Subscriber(Generic[T]):
    """The queue of one subscriber. missed: the subscriber has to read from the database first."""

    queue: deque[T] = field(default_factory=deque)
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    missed: bool = True
    is_ended: bool = False
    count: int = 0

    def put(self, item: T, count: int) -> None:
        """Queue `item`, which contains `count` entries."""
        self.wake.set()
        if self.count + count > MAX_QUEUED:
            self.missed, self.count = True, 0
            self.queue.clear()
        # The read from the database also finds later entries.
        if not self.missed:
            self.queue.append(item)
            self.count += count

    def end(self) -> None:
        self.is_ended = True
        self.wake.set()

    async def next_items(self, idle_s: float) -> Sequence[T]:
        """The queued items; none if nothing comes within `idle_s`."""
        with suppress(TimeoutError):
            async with asyncio.timeout(idle_s):
                await self.wake.wait()
        self.wake.clear()
        items, self.count = list(self.queue), 0
        self.queue.clear()
        return items


class Poller:
    """A task that polls while there are subscribers.

    begin: called before the first poll, and again after a time without subscribers.
    poll: returns whether to poll again after `TICK_S`.
    is_needed: whether there are subscribers.
    """

    def __init__(
        self,
        begin: Callable[[], Awaitable[None]],
        poll: Callable[[], Awaitable[bool]],
        is_needed: Callable[[], bool],
    ) -> None:
        self._begin, self._poll, self._is_needed = begin, poll, is_needed
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._ready: asyncio.Future[None] | None = None

    def wake(self) -> None:
        """Poll soon: something has changed."""
        self._wake.set()

    async def start(self) -> None:
        """Start the task, if it is not running, and wait until `begin` has returned. Raises what `begin` raises."""
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
        except Exception as error:  # noqa: BLE001  # `start` raises it in every subscriber
            ready.set_exception(error)
            return
        ready.set_result(None)
        has_more = False
        while self._is_needed():
            if not has_more:
                with suppress(TimeoutError):
                    async with asyncio.timeout(POLL_S):
                        await self._wake.wait()
            self._wake.clear()
            try:
                has_more = await self._poll()
            except DatabaseUnavailable as error:
                log.debug("the poll for events failed", extra={"error": str(error)})
            except Exception:
                # An error in one poll must not end the task.
                log.exception("the poll for events failed")
            await asyncio.sleep(TICK_S)
