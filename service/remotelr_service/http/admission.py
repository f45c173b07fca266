"""How many requests are worked on at once; the others stand in line, and not for long.

To refuse costs a good part of what it costs to answer, so a service that refused at once whatever is too much would
be busy refusing those who ask again at once. (Measured: at three times its load it did a third of its work.)
To stand in line costs nothing, and who is refused has lost a moment before asking again.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self


class ConcurrencyLimiter:
    """The places of one process, a context manager to work in; used from its event loop alone.

    limit: requests worked on at once. timeout_s: how long others stand in line. `taken`, `line_length` and
    `waiting` are how many are worked on, stand in line, and have given their place away to wait for news.
    """

    def __init__(self, limit: int, timeout_s: float) -> None:
        self._limit = limit
        self._timeout_s = timeout_s
        self._queue: dict[asyncio.Future[bool], None] = {}
        self._called = 0
        self.taken = 0
        self.waiting = 0

    @property
    def queue_length(self) -> int:
        return len(self._queue)

    async def acquire(self) -> bool:
        """Stand in line where there is one. False when the turn did not come in time.

        The place is taken later, when the request has arrived in full: who sends slowly keeps nobody else waiting.
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
                self._called -= 1

    def __enter__(self) -> Self:
        self.taken += 1
        return self

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        self.taken -= 1
        self.admit_next()

    def admit_next(self) -> None:
        """Let in who stands first, as far as there are places."""
        while self._queue and self.taken + self._called < self._limit:
            first = next(iter(self._queue))
            del self._queue[first]
            self._called += _settle(first, True)

    @contextmanager
    def released(self) -> Iterator[None]:
        """Waiting is no work: others may have the place meanwhile. It is taken again without standing in line."""
        self.__exit__(None, None, None)
        self.waiting += 1
        try:
            yield
        finally:
            self.waiting -= 1
            self.taken += 1


def _settle(turn: asyncio.Future[bool], has_come: bool) -> bool:
    """Whether this settles it: it may have been settled before, or nobody stands there any more."""
    if turn.done():
        return False
    turn.set_result(has_come)
    return True
