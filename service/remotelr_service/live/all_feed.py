"""Following all runs, or many, in one order that the replicas share; see `db/feed.py` for how that can be."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from functools import partial

from sqlalchemy import Connection, Engine

from remotelr_service.db.queries import feed
from remotelr_service.db.queries.feed import Cursor, Entry, Hole
from remotelr_service.live.messages import Batch, Item
from remotelr_service.live.subscribers import Poller, Subscriber, ask

# How long what comes behind a hole is kept back for what may come in it; then it goes first.
PATIENCE_S = 2.0
PAUSE_S = 0.02
# No transaction of ours lasts so long: the database ends it before.
HOLE_LIFE_S = 60.0
PAGE = 500


@dataclass(frozen=True, slots=True)
class Selection:
    """Which runs to follow: those that have all that is given."""

    experiment: str | None = None
    status: str | None = None
    tag: tuple[str, str] | None = None

    def takes(self, entry: Entry) -> bool:
        if self.experiment is not None and entry.experiment != self.experiment:
            return False
        if self.status is not None and entry.status != self.status:
            return False
        return self.tag is None or feed.tags_of(entry).get(self.tag[0]) == self.tag[1]


@dataclass(frozen=True, slots=True)
class _Batch:
    """What one look has found. ids: of each entry, the cursor behind it; `before` and `after` are those around all."""

    before: Cursor
    entries: Sequence[Entry]
    ids: Sequence[str]
    after: Cursor


@dataclass(frozen=True, slots=True)
class _Doubt:
    """Something may still come here, as long as there are transactions below `bound`. since: by the loop's clock."""

    bound: int | None
    since: float


class AllStreams:
    """Those who follow all runs, or many. engine: `Database.reads`."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._followers: set[Subscriber[_Batch]] = set()
        self._cursor = Cursor(0)
        # What is not known to be over.
        self._doubts: dict[Hole, _Doubt] = {}
        self.looking = Poller(self._begin, self._look, lambda: bool(self._followers))

    @property
    def count(self) -> int:
        return len(self._followers)

    def heard(self) -> None:
        """Something was committed, here or elsewhere."""
        if self._followers:
            self.looking.wake()

    async def follow(self, selection: Selection, after: Cursor | None, rest_s: float) -> AsyncGenerator[Batch, None]:
        """As `Streams.follow_all`."""
        is_lost = after is not None and after.high > await ask(self._engine, feed.handed_out)
        follower: Subscriber[_Batch] = Subscriber(missed=after is not None and not is_lost)
        self._followers.add(follower)
        clock = asyncio.get_running_loop().time
        try:
            await self.looking.begun()
            cursor = self._cursor if after is None or is_lost else after
            # Nobody shall be silent for long, also when much happens that is not for them.
            told_at = clock()
            yield Batch(cursor.written(), is_lost=is_lost)
            while True:
                while follower.missed:
                    follower.missed = False
                    while True:
                        # Before the page is read: what is seen live meanwhile may not be in it.
                        known = self._cursor
                        page = await ask(self._engine, partial(feed.list_feed, cursor=cursor, limit=PAGE))
                        if not page:
                            break
                        told, cursor = _caught_up(page, cursor, known, selection)
                        yield Batch(cursor.written(), told)
                    cursor = cursor.settled_by(known)
                for batch in await follower.news(rest_s):
                    told, cursor = _taken(batch, cursor, selection)
                    if told:
                        told_at = clock()
                        yield Batch(cursor.written(), told)
                if clock() - told_at >= rest_s:
                    told_at = clock()
                    yield Batch(cursor.written())
        finally:
            self._followers.discard(follower)

    async def _begin(self) -> None:
        """Begin at the newest entry. Those that are being committed below it have to be over, or known as holes."""
        high, bound = await ask(
            self._engine, lambda connection: (feed.newest_position(connection), feed.take_transaction_id(connection))
        )
        self._cursor, self._doubts = Cursor(high), {}
        clock = asyncio.get_running_loop().time
        began = clock()
        while bound is not None:
            running = await ask(self._engine, feed.oldest_running)
            if running is None or running >= bound:
                return
            if clock() - began > PATIENCE_S:
                break
            await asyncio.sleep(PAUSE_S)
        else:
            return
        holes = await ask(self._engine, partial(feed.holes_below, high=high))
        self._cursor = Cursor(high, holes)
        self._doubts = dict.fromkeys(holes, _Doubt(bound, began))

    async def _look(self) -> bool:
        entries, running, bound = await ask(self._engine, partial(_read, cursor=self._cursor))
        batch = self._batch(entries, running, bound)
        self._cursor = batch.after
        if batch.entries:
            for follower in self._followers:
                follower.give(batch, len(batch.entries))
        # Some are kept back for what may come before them, or there are more than a page holds.
        return len(batch.entries) < len(entries) or len(entries) >= PAGE

    def _batch(self, entries: Sequence[Entry], running: int | None, bound: int | None) -> _Batch:
        """What of the entries can be told now; the others are kept back for what may come before them."""
        now = asyncio.get_running_loop().time()
        before = cursor = self._cursor
        told: list[Entry] = []
        ids: list[str] = []
        for entry in entries:
            assert entry.position is not None
            hole = (cursor.high + 1, entry.position - 1)
            # Without a bound there is no hole in which anything could come.
            may_come = hole[0] <= hole[1] and bound is not None
            if may_come:
                doubt = self._doubts.setdefault(hole, _Doubt(bound, now))
                may_come = not _is_over(doubt, running, now)
                if may_come and now - doubt.since < PATIENCE_S:
                    break
            cursor = cursor.passed(entry.position, None if may_come else Cursor(entry.position))
            told.append(entry)
            ids.append(cursor.written())
        # Only now: what has come in a hole has been taken out of it.
        for hole, doubt in list(self._doubts.items()):
            if _is_over(doubt, running, now):
                cursor = cursor.closed(hole)
                if hole[0] <= cursor.high:
                    del self._doubts[hole]
        return _Batch(before, told, ids, cursor)


def _read(connection: Connection, cursor: Cursor) -> tuple[list[Entry], int | None, int | None]:
    """What is new, an id below which all was over before that was read, and one above all that could fill its holes."""
    # In this order. Each statement sees what was committed before it; see the top of `db/feed.py`.
    running = feed.oldest_running(connection)
    entries = feed.list_feed(connection, cursor, PAGE)
    positions = [entry.position for entry in entries if entry.position is not None and entry.position > cursor.high]
    has_hole = bool(positions) and positions[-1] - cursor.high != len(positions)
    bound = feed.take_transaction_id(connection) if has_hole else None
    return entries, running, bound


def _is_over(doubt: _Doubt, running: int | None, now: float) -> bool:
    is_settled = running is not None and doubt.bound is not None and running >= doubt.bound
    return is_settled or now - doubt.since > HOLE_LIFE_S


def _taken(batch: _Batch, cursor: Cursor, selection: Selection) -> tuple[list[Item], Cursor]:
    """What of a batch is for a follower who has `cursor`, and what they have then."""
    if cursor == batch.before:
        told = [
            Item(written, entry)
            for written, entry in zip(batch.ids, batch.entries, strict=True)
            if selection.takes(entry)
        ]
        return told, batch.after
    # Somebody who has read from the database has some of it already.
    told = []
    for entry in batch.entries:
        assert entry.position is not None
        if cursor.has(entry.position):
            continue
        cursor = cursor.passed(entry.position)
        if selection.takes(entry):
            told.append(Item(cursor.written(), entry))
    return told, cursor.settled_by(batch.after)


def _caught_up(page: Sequence[Entry], cursor: Cursor, known: Cursor, selection: Selection) -> tuple[list[Item], Cursor]:
    """The same for a page of the database. known: what those who follow live had at that time, or before."""
    told = []
    for entry in page:
        assert entry.position is not None
        cursor = cursor.passed(entry.position, known)
        if selection.takes(entry):
            told.append(Item(cursor.written(), entry))
    return told, cursor
