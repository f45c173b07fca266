"""Subscriptions to many runs, in one order for all replicas. `db/queries/feed.py` describes the order."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from functools import partial

from sqlalchemy import Connection, Engine

from remotelr_service.db.engine import run_query
from remotelr_service.db.queries import feed
from remotelr_service.db.queries.feed import Cursor, Entry, Hole
from remotelr_service.live.messages import Batch, Item
from remotelr_service.live.subscribers import Poller, Subscriber

PAUSE_S, PAGE = 0.02, 500
# How long entries above a hole are held back for an entry in it, and the age before which the database ends every
# transaction of the service.
HOLE_WAIT_S, HOLE_MAX_AGE_S = 2.0, 60.0


@dataclass(frozen=True, slots=True)
class Selection:
    """Conditions for runs, all of which must hold. None is no condition."""

    experiment: str | None = None
    status: str | None = None
    tag: tuple[str, str] | None = None

    def includes(self, entry: Entry) -> bool:
        if self.experiment is not None and entry.experiment != self.experiment:
            return False
        if self.status is not None and entry.status != self.status:
            return False
        return self.tag is None or feed.tags_of(entry).get(self.tag[0]) == self.tag[1]


@dataclass(frozen=True, slots=True)
class _Batch:
    """The entries of one poll. ids: the cursor after each entry. before, after: the cursors around all of them."""

    before: Cursor
    entries: Sequence[Entry]
    ids: Sequence[str]
    after: Cursor


@dataclass(frozen=True, slots=True)
class _OpenHole:
    """An entry may come while transactions below `bound` are open. since: by the loop's clock."""

    bound: int | None
    since: float


class AllStreams:
    """Subscriptions to many runs. engine: `Database.reads`."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._subscribers: set[Subscriber[_Batch]] = set()
        self._cursor = Cursor(0)
        self._open_holes: dict[Hole, _OpenHole] = {}
        self.poller = Poller(self._begin, self._poll, lambda: bool(self._subscribers))

    @property
    def count(self) -> int:
        return len(self._subscribers)

    def wake(self) -> None:
        """Poll soon: this replica or another one has committed."""
        if self._subscribers:
            self.poller.wake()

    async def follow(self, selection: Selection, after: Cursor | None, idle_s: float) -> AsyncGenerator[Batch, None]:
        """As `Streams.follow_all`."""
        is_lost = after is not None and after.high > await run_query(self._engine, feed.highest_position_taken)
        subscriber: Subscriber[_Batch] = Subscriber(missed=after is not None and not is_lost)
        self._subscribers.add(subscriber)
        clock = asyncio.get_running_loop().time
        try:
            await self.poller.start()
            cursor = self._cursor if after is None or is_lost else after
            # A heartbeat is due also when many entries are not selected.
            sent_at = clock()
            yield Batch(cursor.to_text(), is_lost=is_lost)
            while True:
                while subscriber.missed:
                    subscriber.missed = False
                    while True:
                        # Read before the page, which may lack entries that are polled meanwhile.
                        known = self._cursor
                        page = await run_query(self._engine, partial(feed.list_feed, cursor=cursor, limit=PAGE))
                        if not page:
                            break
                        items, cursor = _advance(page, cursor, known, selection)
                        yield Batch(cursor.to_text(), items)
                    cursor = cursor.settle(known)
                for batch in await subscriber.next_items(idle_s):
                    items, cursor = _advance_live(batch, cursor, selection)
                    if items:
                        sent_at = clock()
                        yield Batch(cursor.to_text(), items)
                if clock() - sent_at >= idle_s:
                    sent_at = clock()
                    yield Batch(cursor.to_text())
        finally:
            self._subscribers.discard(subscriber)

    async def _begin(self) -> None:
        """Begin at the newest entry. Open transactions below it must end first, or their positions become holes."""
        high, bound = await run_query(
            self._engine, lambda connection: (feed.newest_position(connection), feed.take_transaction_id(connection))
        )
        self._cursor, self._open_holes = Cursor(high), {}
        clock = asyncio.get_running_loop().time
        began = clock()
        while bound is not None:
            running = await run_query(self._engine, feed.oldest_open_transaction)
            if running is None or running >= bound:
                return
            if clock() - began > HOLE_WAIT_S:
                break
            await asyncio.sleep(PAUSE_S)
        else:
            return
        holes = await run_query(self._engine, partial(feed.list_holes, high=high))
        self._cursor = Cursor(high, holes)
        self._open_holes = dict.fromkeys(holes, _OpenHole(bound, began))

    async def _poll(self) -> bool:
        entries, running, bound = await run_query(self._engine, partial(_read, cursor=self._cursor))
        batch = self._batch(entries, running, bound)
        self._cursor = batch.after
        if batch.entries:
            for subscriber in self._subscribers:
                subscriber.put(batch, len(batch.entries))
        # Entries are held back, or the page is full.
        return len(batch.entries) < len(entries) or len(entries) >= PAGE

    def _batch(self, entries: Sequence[Entry], running: int | None, bound: int | None) -> _Batch:
        """The entries that can be sent now; those above a hole are held back."""
        now = asyncio.get_running_loop().time()
        before = cursor = self._cursor
        items: list[Entry] = []
        ids: list[str] = []
        for entry in entries:
            assert entry.position is not None
            hole = (cursor.high + 1, entry.position - 1)
            # Without a bound no transaction can fill the hole.
            may_come = hole[0] <= hole[1] and bound is not None
            if may_come:
                open_hole = self._open_holes.setdefault(hole, _OpenHole(bound, now))
                may_come = not _is_over(open_hole, running, now)
                if may_come and now - open_hole.since < HOLE_WAIT_S:
                    break
            cursor = cursor.advance(entry.position, None if may_come else Cursor(entry.position))
            items.append(entry)
            ids.append(cursor.to_text())
        # Only now: the entries that came have been taken out of their holes.
        for hole, open_hole in list(self._open_holes.items()):
            if _is_over(open_hole, running, now):
                cursor = cursor.close(hole)
                if hole[0] <= cursor.high:
                    del self._open_holes[hole]
        return _Batch(before, items, ids, cursor)


def _read(connection: Connection, cursor: Cursor) -> tuple[list[Entry], int | None, int | None]:
    """The new entries, an id below which all transactions ended before, and one above all that may fill the holes."""
    # In this order: each statement sees what was committed before it.
    running = feed.oldest_open_transaction(connection)
    entries = feed.list_feed(connection, cursor, PAGE)
    positions = [entry.position for entry in entries if entry.position is not None and entry.position > cursor.high]
    has_hole = bool(positions) and positions[-1] - cursor.high != len(positions)
    bound = feed.take_transaction_id(connection) if has_hole else None
    return entries, running, bound


def _is_over(open_hole: _OpenHole, running: int | None, now: float) -> bool:
    is_settled = running is not None and open_hole.bound is not None and running >= open_hole.bound
    return is_settled or now - open_hole.since > HOLE_MAX_AGE_S


def _advance_live(batch: _Batch, cursor: Cursor, selection: Selection) -> tuple[list[Item], Cursor]:
    """The selected entries of a batch that a subscriber at `cursor` lacks, and its new cursor."""
    if cursor == batch.before:
        pairs = zip(batch.ids, batch.entries, strict=True)
        return [Item(cursor_id, entry) for cursor_id, entry in pairs if selection.includes(entry)], batch.after
    # A subscriber that has read from the database has some of the entries.
    items, cursor = _advance(batch.entries, cursor, None, selection)
    return items, cursor.settle(batch.after)


def _advance(
    entries: Sequence[Entry], cursor: Cursor, known: Cursor | None, selection: Selection
) -> tuple[list[Item], Cursor]:
    """The selected entries that a subscriber at `cursor` lacks, and its new cursor. known: see `Cursor.advance`."""
    items = []
    for entry in entries:
        assert entry.position is not None
        if not cursor.contains(entry.position):
            cursor = cursor.advance(entry.position, known)
            if selection.includes(entry):
                items.append(Item(cursor.to_text(), entry))
    return items, cursor
