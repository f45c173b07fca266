"""Requests that wait for a run to change, in this process. A waiting request holds no thread and no transaction.

A thousand ranks may wait for one decision, so one query serves all waiting requests. It runs when a request begins to
wait, after each commit of this process, and every `POLL_S` because of the commits of other replicas.
"""

import asyncio
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from sqlalchemy import Engine

from remotelr_service.db.engine import run_query
from remotelr_service.db.queries.events import RunPosition, list_positions
from remotelr_service.errors import DatabaseUnavailable

POLL_S = 1.0


@dataclass(frozen=True, slots=True, eq=False)
class _Waiter:
    until: Callable[[RunPosition], bool]
    result: asyncio.Future[RunPosition | None]


class RunWaiters:
    """The requests of one event loop that wait for a position of a run. engine: `Database.reads`."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._waiters: dict[str, set[_Waiter]] = {}
        self._changed: set[str] = set()
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def wait(self, key: str, until: Callable[[RunPosition], bool]) -> RunPosition | None:
        """The first position of the run `key` that meets `until`; None if there is no such run.

        Raises DatabaseUnavailable.
        """
        self._loop = asyncio.get_running_loop()
        waiter = _Waiter(until, self._loop.create_future())
        self._waiters.setdefault(key, set()).add(waiter)
        self._mark_changed([key])
        try:
            return await waiter.result
        finally:
            self._waiters[key].discard(waiter)
            if not self._waiters[key]:
                del self._waiters[key]
            if not self._waiters:
                self._wake.set()

    def publish(self, keys: Collection[str]) -> None:
        """Announce that these runs have changed; after the commit, from any thread."""
        # A request that begins to wait after this line reads the committed state.
        if not self._waiters or self._loop is None:
            return
        # A closed loop has no waiting requests.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._mark_changed, keys)

    def _mark_changed(self, keys: Iterable[str]) -> None:
        self._changed.update(key for key in keys if key in self._waiters)
        if not self._changed:
            return
        self._wake.set()
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._poll())

    async def _poll(self) -> None:
        """Query changed runs, and every `POLL_S` all of them, until no request waits."""
        loop = asyncio.get_running_loop()
        poll_at = loop.time() + POLL_S
        while self._waiters:
            with suppress(TimeoutError):
                async with asyncio.timeout_at(poll_at):
                    await self._wake.wait()
            keys = self._changed
            if loop.time() >= poll_at:
                keys, poll_at = set(self._waiters), loop.time() + POLL_S
            self._changed = set()
            self._wake.clear()
            await self._answer(sorted(keys))

    async def _answer(self, keys: list[str]) -> None:
        # A copy: a request that begins to wait during the query is answered by the next one.
        waiting = {key: tuple(self._waiters[key]) for key in keys if key in self._waiters}
        if not waiting:
            return
        try:
            found = await run_query(self._engine, partial(list_positions, keys=list(waiting)))
        except DatabaseUnavailable as error:
            for waiter in (each for waiters in waiting.values() for each in waiters):
                if not waiter.result.done():
                    waiter.result.set_exception(DatabaseUnavailable(error.message))
            return
        for key, waiters in waiting.items():
            position = found.get(key)
            for waiter in waiters:
                if not waiter.result.done() and (position is None or waiter.until(position)):
                    waiter.result.set_result(position)
