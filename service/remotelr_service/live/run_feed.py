"""Subscriptions to single runs. The `seq` of a run has no holes, so it shows which entries are missing."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncGenerator, Collection, Sequence
from functools import partial

from sqlalchemy import Connection, Engine

from remotelr_service.db.engine import run_query
from remotelr_service.db.queries import feed
from remotelr_service.db.queries.feed import Entry
from remotelr_service.db.queries.runs import get_stored_run
from remotelr_service.errors import DatabaseUnavailable
from remotelr_service.live import subscribers
from remotelr_service.live.messages import Batch, Item, Place
from remotelr_service.live.subscribers import Poller, Subscriber

PAGE = 500
# The interval of the check that the runs still exist.
CHECK_S = 10.0


class RunStreams:
    """Subscriptions to single runs. A run without a subscriber costs nothing. engine: `Database.reads`."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._subscribers: defaultdict[int, set[Subscriber[Sequence[Entry]]]] = defaultdict(set)
        self._ids: dict[str, int] = {}
        self._places: dict[int, Place] = {}
        # The changed runs; or every run may have changed.
        self._changed: set[int] = set()
        self._may_have_changed = False
        # Times of the loop's clock.
        self._polled_at = self._checked_at = 0.0
        self.poller = Poller(self._begin, self._poll, lambda: bool(self._subscribers))

    @property
    def count(self) -> int:
        return sum(map(len, self._subscribers.values()))

    def select_subscribed(self, keys: Collection[str]) -> list[str]:
        """The keys of runs with a subscriber; from any thread."""
        return [key for key in keys if key in self._ids] if self._ids else []

    def mark_changed(self, keys: Collection[str]) -> None:
        self._changed.update(self._ids[key] for key in keys if key in self._ids)
        self.poller.wake()

    def mark_all(self) -> None:
        """Poll every run: another replica has committed."""
        if self._subscribers:
            self._may_have_changed = True
            self.poller.wake()

    async def follow(self, key: str, after: Place | None, idle_s: float) -> AsyncGenerator[Batch, None]:
        """As `Streams.follow_run`."""
        run_id, newest = await run_query(self._engine, partial(_locate, key=key))
        is_lost = after is not None and after[0] > newest[0]
        place = newest if after is None or is_lost else after
        newest_sent = self._places.setdefault(run_id, newest)
        # Later entries go to all subscribers of the run; one drops those it has, or reads those it lacks.
        subscriber: Subscriber[Sequence[Entry]] = Subscriber(missed=place < newest_sent)
        self._subscribers[run_id].add(subscriber)
        self._ids[key] = run_id
        try:
            await self.poller.start()
            yield Batch(_place_to_text(place), is_lost=is_lost)
            while not subscriber.is_ended:
                while subscriber.missed:
                    subscriber.missed = False
                    while page := await run_query(self._engine, _page_after(run_id, place)):
                        place = page[-1].place
                        yield Batch(_place_to_text(place), [Item(_place_to_text(entry.place), entry) for entry in page])
                batches = await subscriber.next_items(idle_s)
                entries = [entry for batch in batches for entry in batch if entry.place > place]
                if entries and entries[0].content.seq > place[0] + 1:
                    subscriber.missed = True
                    continue
                place = entries[-1].place if entries else place
                yield Batch(_place_to_text(place), [Item(_place_to_text(entry.place), entry) for entry in entries])
        finally:
            self._remove(key, run_id, subscriber)

    def _remove(self, key: str, run_id: int, subscriber: Subscriber[Sequence[Entry]]) -> None:
        self._subscribers[run_id].discard(subscriber)
        if not self._subscribers[run_id]:
            del self._subscribers[run_id]
            self._places.pop(run_id, None)
            if self._ids.get(key) == run_id:
                del self._ids[key]

    async def _begin(self) -> None:
        self._polled_at = self._checked_at = asyncio.get_running_loop().time()

    async def _poll(self) -> bool:
        now = asyncio.get_running_loop().time()
        changed, self._changed = self._changed, set()
        # Signals may be lost, so all runs are polled at intervals.
        if self._may_have_changed or now - self._polled_at >= subscribers.POLL_S:
            changed, self._may_have_changed, self._polled_at = set(self._subscribers), False, now
        after = {run_id: self._places[run_id] for run_id in changed if run_id in self._places}
        try:
            entries = await run_query(self._engine, partial(feed.list_run_entries, after=after, limit=PAGE))
        except DatabaseUnavailable:
            self._may_have_changed = True
            raise
        by_run: defaultdict[int, list[Entry]] = defaultdict(list)
        for entry in entries:
            by_run[entry.run_id].append(entry)
        for run_id, items in by_run.items():
            if run_id in self._places:
                self._places[run_id] = items[-1].place
                for subscriber in self._subscribers[run_id]:
                    subscriber.put(items, len(items))
        if now - self._checked_at >= CHECK_S:
            self._checked_at = now
            await self._end_deleted()
        is_full = len(entries) >= PAGE
        if is_full:
            self._changed |= changed
        return is_full

    async def _end_deleted(self) -> None:
        run_ids = list(self._subscribers)
        existing = await run_query(self._engine, lambda connection: feed.list_existing(connection, run_ids))
        for run_id in set(run_ids) - existing:
            for subscriber in self._subscribers.get(run_id, ()):
                subscriber.end()


def _page_after(run_id: int, place: Place) -> "partial[list[Entry]]":
    return partial(feed.list_run_entries, after={run_id: place}, limit=PAGE)


def _locate(connection: Connection, key: str) -> tuple[int, Place]:
    stored = get_stored_run(connection, key)
    return stored.id, (stored.run.seq, int(feed.has_stall(connection, stored.id, stored.run.seq)))


def _place_to_text(place: Place) -> str:
    return f"{place[0]}s" if place[1] else str(place[0])
