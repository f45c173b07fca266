"""Bounds the number of requests handled at once. Further requests wait in a queue for a limited time.

Rejecting a request costs nearly as much as answering it, so a service that rejected at once would be busy with
rejected clients that retry. (Measured at three times the possible load: a third of the throughput.) Waiting costs
nothing, and it delays the retry.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self


class ConcurrencyLimiter:
    """The request slots of one process. As a context manager it holds a slot. Not thread-safe.

    limit: the number of slots. timeout_s: the maximum time in the queue, in seconds.
    `taken`, `queue_length` and `waiting`: requests with a slot, in the queue, and waiting with a released slot.
    """

    def __init__(self, limit: int, timeout_s: float) -> None:
        self._limit = limit
        self._timeout_s = timeout_s
        self._queue: dict[asyncio.Future[bool], None] = {}
        self._admitted = 0
        self.taken = 0
        self.waiting = 0

    @property
    def queue_length(self) -> int:
        return len(self._queue)

    async def acquire(self) -> bool:
        """Wait in the queue for a free slot. False after a timeout.

        The caller takes the slot when the whole request has arrived, so that a slow sender blocks no slot.
        """
        if self.taken < self._limit and not self._queue:
            return True
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[bool] = loop.create_future()
        self._queue[turn] = None
        timer = loop.call_later(self._timeout_s, _settle, turn, False)
        try:
            return await turn
        finally:
            timer.cancel()
            self._queue.pop(turn, None)
            if not turn.cancelled() and turn.result():
                self._admitted -= 1

    def __enter__(self) -> Self:
        self.taken += 1
        return self

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        self.taken -= 1
        self.admit_next()

    def admit_next(self) -> None:
        """Give the free slots to the first requests of the queue."""
        while self._queue and self.taken + self._admitted < self._limit:
            first = next(iter(self._queue))
            del self._queue[first]
            self._admitted += _settle(first, True)

    @contextmanager
    def released(self) -> Iterator[None]:
        """Context manager: release the slot while the request waits, then take it again without queueing."""
        self.__exit__(None, None, None)
        self.waiting += 1
        try:
            yield
        finally:
            self.waiting -= 1
            self.taken += 1


def _settle(turn: asyncio.Future[bool], has_come: bool) -> bool:
    """Set the result of a turn. False if it has one already or was cancelled."""
    if turn.done():
        return False
    turn.set_result(has_come)
    return True
