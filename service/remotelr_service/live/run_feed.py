"""Following single runs. The log of a run has no holes, so its numbers alone say what is missing."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncGenerator, Collection, Sequence
from functools import partial

from sqlalchemy import Connection, Engine

from remotelr_service.db.queries import feed
from remotelr_service.db.queries.feed import Entry
from remotelr_service.db.queries.runs import get_stored_run
from remotelr_service.errors import DatabaseUnavailable
from remotelr_service.live import subscribers
from remotelr_service.live.messages import Batch, Item, Place
from remotelr_service.live.subscribers import Poller, Subscriber, ask

PAGE = 500
# How often it is looked whether the runs are still there.
CHECK_S = 10.0


class RunStreams:
    """Those who follow single runs. What is not followed costs nothing. engine: `Database.reads`."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._followers: defaultdict[int, set[Subscriber[Sequence[Entry]]]] = defaultdict(set)
        self._ids: dict[str, int] = {}
        self._places: dict[int, Place] = {}
        # The runs that have moved; or any of them, as far as is known.
        self._moved: set[int] = set()
        self._may_have_moved = False
        # By the loop's clock: when all were looked at for news, and whether they are still there.
        self._looked_at = self._checked_at = 0.0
        self.looking = Poller(self._begin, self._look, lambda: bool(self._followers))

    @property
    def count(self) -> int:
        return sum(map(len, self._followers.values()))

    def followed(self, keys: Collection[str]) -> list[str]:
        """Those of these runs that somebody follows; from any thread."""
        return [key for key in keys if key in self._ids] if self._ids else []

    def moved(self, keys: Collection[str]) -> None:
        self._moved.update(self._ids[key] for key in keys if key in self._ids)
        self.looking.wake()

    def heard(self) -> None:
        """Another replica has committed something."""
        if self._followers:
            self._may_have_moved = True
            self.looking.wake()

    async def follow(self, key: str, after: Place | None, rest_s: float) -> AsyncGenerator[Batch, None]:
        """As `Streams.follow_run`."""
        run_id, newest = await ask(self._engine, partial(_standing, key=key))
        is_lost = after is not None and after[0] > newest[0]
        place = newest if after is None or is_lost else after
        told_of = self._places.setdefault(run_id, newest)
        # What comes behind that is told to all who follow the run; who has more drops it, who has less reads it.
        follower: Subscriber[Sequence[Entry]] = Subscriber(missed=place < told_of)
        self._followers[run_id].add(follower)
        self._ids[key] = run_id
        try:
            await self.looking.begun()
            yield Batch(_written(place), is_lost=is_lost)
            while not follower.is_over:
                while follower.missed:
                    follower.missed = False
                    while page := await ask(self._engine, _page_behind(run_id, place)):
                        place = page[-1].place
                        yield Batch(_written(place), [Item(_written(entry.place), entry) for entry in page])
                batches = await follower.news(rest_s)
                entries = [entry for batch in batches for entry in batch if entry.place > place]
                if entries and entries[0].what.seq > place[0] + 1:
                    follower.missed = True
                    continue
                place = entries[-1].place if entries else place
                yield Batch(_written(place), [Item(_written(entry.place), entry) for entry in entries])
        finally:
            self._remove(key, run_id, follower)

    def _remove(self, key: str, run_id: int, follower: Subscriber[Sequence[Entry]]) -> None:
        self._followers[run_id].discard(follower)
        if not self._followers[run_id]:
            del self._followers[run_id]
            self._places.pop(run_id, None)
            if self._ids.get(key) == run_id:
                del self._ids[key]

    async def _begin(self) -> None:
        self._looked_at = self._checked_at = asyncio.get_running_loop().time()

    async def _look(self) -> bool:
        now = asyncio.get_running_loop().time()
        moved, self._moved = self._moved, set()
        # Signals may be lost: once in a while all are looked at.
        if self._may_have_moved or now - self._looked_at >= subscribers.LOOK_AGAIN_S:
            moved, self._may_have_moved, self._looked_at = set(self._followers), False, now
        behind = {run_id: self._places[run_id] for run_id in moved if run_id in self._places}
        try:
            entries = await ask(self._engine, partial(feed.list_of_runs, behind=behind, limit=PAGE))
        except DatabaseUnavailable:
            self._may_have_moved = True
            raise
        by_run: defaultdict[int, list[Entry]] = defaultdict(list)
        for entry in entries:
            by_run[entry.run_id].append(entry)
        for run_id, told in by_run.items():
            if run_id in self._places:
                self._places[run_id] = told[-1].place
                for follower in self._followers[run_id]:
                    follower.give(told, len(told))
        if now - self._checked_at >= CHECK_S:
            self._checked_at = now
            await self._end_gone()
        is_full = len(entries) >= PAGE
        if is_full:
            self._moved |= moved
        return is_full

    async def _end_gone(self) -> None:
        followed = list(self._followers)
        present = await ask(self._engine, lambda connection: feed.list_present(connection, followed))
        for run_id in set(followed) - present:
            for follower in self._followers.get(run_id, ()):
                follower.end()


def _page_behind(run_id: int, place: Place) -> "partial[list[Entry]]":
    return partial(feed.list_of_runs, behind={run_id: place}, limit=PAGE)


def _standing(connection: Connection, key: str) -> tuple[int, Place]:
    stored = get_stored_run(connection, key)
    return stored.id, (stored.run.seq, int(feed.has_stall(connection, stored.id, stored.run.seq)))


def _written(place: Place) -> str:
    return f"{place[0]}s" if place[1] else str(place[0])
