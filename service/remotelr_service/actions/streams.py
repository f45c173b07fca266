"""Following runs live: every event once and in order, for as many as want to, at the price of one who looks.

One task looks at the feed (`db/feed.py`) for all who follow it: when this process has committed something, when another
replica says so, and once in a while. What it finds it hands to each follower, who holds neither a thread nor a
connection. Whoever comes back with what they had last, or cannot keep up, reads what is missing, page by page.
"""

import asyncio
import logging
from collections import defaultdict, deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from sqlalchemy import Connection, Engine

from remotelr_service.actions.errors import DatabaseAway, Overloaded
from remotelr_service.actions.finding import stored_run
from remotelr_service.db import feed
from remotelr_service.db.engine import reading
from remotelr_service.db.feed import Cursor, Entry, Hole, Stall
from remotelr_service.db.signals import Signals

__all__ = ["Cursor", "Entry", "Place", "Selection", "Stall", "Step", "Streams", "Told"]

T = TypeVar("T")

log = logging.getLogger(__name__)

# How often the feed is looked at: at once after a rest, and not again before. Without news once in `LOOK_AGAIN_S`.
TICK_S = 0.2
LOOK_AGAIN_S = 1.0
# How long what comes behind a hole is kept back for what may come in it; then it goes first.
PATIENCE_S = 2.0
PAUSE_S = 0.02
# No transaction of ours lasts so long: the database ends it before.
HOLE_LIFE_S = 60.0
# How often it is looked whether the runs that are followed are still there.
CHECK_S = 10.0
PAGE = 500
# More than this waits for nobody: who is so late reads it from the database.
MAX_WAITING = 2_000

# Where an entry stands in its run: the number of its event, and 1 for the stall behind that.
Place = tuple[int, int]


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
class Told:
    """One entry for a follower. id: what to come back with after it."""

    id: str
    entry: Entry


@dataclass(frozen=True, slots=True)
class Step:
    """What a follower is given at once: entries, or the quiet. id: what to come back with after it.

    is_lost: what they had is of another history, such as before a backup was restored; it begins anew here.
    """

    id: str
    told: Sequence[Told] = ()
    is_lost: bool = False


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


@dataclass(slots=True, eq=False)
class _Follower:
    """What waits for one who follows. missed: something is to be read from the database first."""

    waiting: deque[_Batch] = field(default_factory=deque)
    has_news: asyncio.Event = field(default_factory=asyncio.Event)
    missed: bool = True
    is_over: bool = False
    count: int = 0

    def give(self, batch: _Batch) -> None:
        self.has_news.set()
        if self.count + len(batch.entries) > MAX_WAITING:
            self.missed, self.count = True, 0
            self.waiting.clear()
        # What is missed is read from the database, and all that has come since with it.
        if not self.missed:
            self.waiting.append(batch)
            self.count += len(batch.entries)

    def end(self) -> None:
        self.is_over = True
        self.has_news.set()

    async def news(self, rest_s: float) -> list[_Batch]:
        """What has come since, or nothing when nothing does for `rest_s`."""
        with suppress(TimeoutError):
            async with asyncio.timeout(rest_s):
                await self.has_news.wait()
        self.has_news.clear()
        batches, self.count = list(self.waiting), 0
        self.waiting.clear()
        return batches


class Streams:
    """All who follow runs in this process. Used from one event loop, but for `committed`.

    engine: `Database.reads`. limit: how many may follow at once.
    """

    def __init__(self, engine: Engine, limit: int = 1_000) -> None:
        self.limit = limit
        self._engine = engine
        self._of_run: defaultdict[int, set[_Follower]] = defaultdict(set)
        self._of_all: set[_Follower] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._looking: asyncio.Task[None] | None = None
        self._ready: asyncio.Future[None] | None = None
        self._news = asyncio.Event()
        self._is_told = False
        self._signals = Signals(engine, self._heard)
        self._cursor = Cursor(0)
        self._doubts: dict[Hole, _Doubt] = {}

    @property
    def count(self) -> int:
        """How many follow."""
        return len(self._of_all) + sum(len(followers) for followers in self._of_run.values())

    @asynccontextmanager
    async def kept(self) -> AsyncIterator[None]:
        """Within this block other replicas are heard, and hear of us. At its end nobody is told any more."""
        self._loop = asyncio.get_running_loop()
        try:
            async with self._signals.kept():
                yield
        finally:
            if self._looking is not None:
                self._looking.cancel()
                with suppress(asyncio.CancelledError):
                    await self._looking

    def committed(self) -> None:
        """Say that runs have moved; after the commit, from any thread."""
        self._signals.committed()
        if self._loop is None or self._is_told or not (self._of_all or self._of_run):
            return
        self._is_told = True
        # A loop that is closed has nobody left who follows.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._heard)

    async def follow_run(self, key: str, after: Place | None, rest_s: float) -> AsyncGenerator[Step, None]:
        """What happens to the run `key` behind `after`, or from now on; a quiet step when nothing does for `rest_s`.

        It ends when the run is deleted. Its first step says where it begins, or raises RunNotFound, Overloaded or
        DatabaseAway.
        """
        run_id, newest = await self._ask(lambda connection: _standing(connection, key))
        is_lost = after is not None and after[0] > newest[0]
        place = newest if after is None or is_lost else after
        follower = _Follower()
        async with self._following(self._of_run[run_id], follower):
            yield Step(_written(place), is_lost=is_lost)
            while not follower.is_over:
                while follower.missed:
                    follower.missed = False
                    while page := await self._page_of_run(run_id, place):
                        place = page[-1].place
                        yield Step(_written(place), [Told(_written(entry.place), entry) for entry in page])
                batches = await follower.news(rest_s)
                entries = [entry for batch in batches for entry in batch.entries if entry.place > place]
                # The log of a run has no holes. Here one shows what a look has missed.
                if entries and entries[0].what.seq > place[0] + 1:
                    follower.missed = True
                    continue
                place = entries[-1].place if entries else place
                yield Step(_written(place), [Told(_written(entry.place), entry) for entry in entries])

    async def follow_all(self, selection: Selection, after: Cursor | None, rest_s: float) -> AsyncGenerator[Step, None]:
        """What happens to the runs that `selection` takes, behind `after` or from now on; else as `follow_run`."""
        is_lost = after is not None and after.high > await self._ask(feed.handed_out)
        follower = _Follower(missed=after is not None and not is_lost)
        async with self._following(self._of_all, follower):
            cursor = self._cursor if after is None or is_lost else after
            clock = asyncio.get_running_loop().time
            told_at = clock()
            yield Step(cursor.written(), is_lost=is_lost)
            while True:
                while follower.missed:
                    follower.missed = False
                    while page := await self._page(cursor):
                        told, cursor = _caught_up(page, cursor, self._cursor, selection)
                        yield Step(cursor.written(), told)
                    cursor = cursor.settled_by(self._cursor)
                for batch in await follower.news(rest_s):
                    told, cursor = _taken(batch, cursor, selection)
                    if told:
                        told_at = clock()
                        yield Step(cursor.written(), told)
                # Much may happen that is not for this one.
                if clock() - told_at >= rest_s:
                    told_at = clock()
                    yield Step(cursor.written())

    def _heard(self) -> None:
        self._is_told = False
        self._news.set()

    async def _ask(self, question: Callable[[Connection], T]) -> T:
        def asked() -> T:
            with reading(self._engine) as connection:
                return question(connection)

        return await asyncio.to_thread(asked)

    async def _page(self, cursor: Cursor) -> list[Entry]:
        return await self._ask(lambda connection: feed.list_feed(connection, cursor, PAGE))

    async def _page_of_run(self, run_id: int, place: Place) -> list[Entry]:
        return await self._ask(lambda connection: feed.list_of_run(connection, run_id, place, PAGE))

    @asynccontextmanager
    async def _following(self, others: set[_Follower], follower: _Follower) -> AsyncIterator[None]:
        if self.count >= self.limit:
            raise Overloaded(f"{self.limit} streams are open, and no more are")
        others.add(follower)
        try:
            await self._begun()
            yield
        finally:
            others.discard(follower)
            for run_id in [run_id for run_id, left in self._of_run.items() if not left]:
                del self._of_run[run_id]

    async def _begun(self) -> None:
        """Until somebody looks for all who follow."""
        if self._looking is None or self._looking.done():
            loop = asyncio.get_running_loop()
            self._ready = loop.create_future()
            self._looking = loop.create_task(self._look_on(self._ready))
        assert self._ready is not None
        await asyncio.shield(self._ready)

    async def _look_on(self, ready: asyncio.Future[None]) -> None:
        """Look, and tell, as long as anybody follows."""
        try:
            await self._begin()
        except Exception as error:  # noqa: BLE001  # whatever it was is told to all who wait for it
            ready.set_exception(error)
            return
        ready.set_result(None)
        clock = asyncio.get_running_loop().time
        check_at = clock() + CHECK_S
        rest_s = LOOK_AGAIN_S
        while self.count:
            with suppress(TimeoutError):
                async with asyncio.timeout(rest_s):
                    await self._news.wait()
            self._news.clear()
            try:
                rest_s = await self._look()
                if clock() >= check_at:
                    check_at = clock() + CHECK_S
                    await self._end_gone()
            except DatabaseAway as away:
                log.debug("no look at the feed, because: %s", away)
            except Exception:
                # One look that fails must not be the last.
                log.exception("the look at the feed failed")
            await asyncio.sleep(TICK_S)

    async def _begin(self) -> None:
        """Begin at the newest entry. Those that are being committed below it have to be over, or known as holes."""
        high, bound = await self._ask(
            lambda connection: (feed.newest_position(connection), feed.take_transaction_id(connection))
        )
        self._cursor, self._doubts = Cursor(high), {}
        clock = asyncio.get_running_loop().time
        began = clock()
        while bound is not None:
            running = await self._ask(feed.oldest_running)
            if running is None or running >= bound:
                return
            if clock() - began > PATIENCE_S:
                break
            await asyncio.sleep(PAUSE_S)
        else:
            return
        holes = await self._ask(lambda connection: feed.holes_below(connection, high))
        self._cursor = Cursor(high, holes)
        self._doubts = dict.fromkeys(holes, _Doubt(bound, began))

    async def _look(self) -> float:
        """Tell what is new; gives for how long to rest."""
        while True:
            entries, running, bound = await self._ask(partial(_read, cursor=self._cursor))
            batch, is_kept_back = self._batch(entries, running, bound)
            self._cursor = batch.after
            if batch.entries:
                self._tell(batch)
            if is_kept_back:
                return PAUSE_S
            if len(entries) < PAGE:
                return LOOK_AGAIN_S

    def _batch(self, entries: Sequence[Entry], running: int | None, bound: int | None) -> tuple[_Batch, bool]:
        """What of the entries can be told now, and whether some are kept back for what may come before them."""
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
            ids.append(cursor.written() if self._of_all else "")
        # Only now: what has come in a hole has been taken out of it.
        for hole, doubt in list(self._doubts.items()):
            if _is_over(doubt, running, now):
                cursor = cursor.closed(hole)
                if hole[0] <= cursor.high:
                    del self._doubts[hole]
        return _Batch(before, told, ids, cursor), len(told) < len(entries)

    def _tell(self, batch: _Batch) -> None:
        for follower in self._of_all:
            follower.give(batch)
        if not self._of_run:
            return
        by_run: defaultdict[int, list[Entry]] = defaultdict(list)
        for entry in batch.entries:
            if entry.run_id in self._of_run:
                by_run[entry.run_id].append(entry)
        for run_id, entries in by_run.items():
            own = _Batch(batch.before, entries, (), batch.after)
            for follower in self._of_run[run_id]:
                follower.give(own)

    async def _end_gone(self) -> None:
        followed = list(self._of_run)
        if not followed:
            return
        present = await self._ask(lambda connection: feed.list_present(connection, followed))
        for run_id in set(followed) - present:
            for follower in self._of_run.get(run_id, ()):
                follower.end()


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


def _standing(connection: Connection, key: str) -> tuple[int, Place]:
    head = stored_run(connection, key)
    return head.id, (head.run.seq, int(feed.has_stall(connection, head.id, head.run.seq)))


def _taken(batch: _Batch, cursor: Cursor, selection: Selection) -> tuple[list[Told], Cursor]:
    """What of a batch is for a follower who has `cursor`, and what they have then."""
    if cursor == batch.before:
        told = [
            Told(written, entry)
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
            told.append(Told(cursor.written(), entry))
    return told, cursor.settled_by(batch.after)


def _caught_up(page: Sequence[Entry], cursor: Cursor, known: Cursor, selection: Selection) -> tuple[list[Told], Cursor]:
    """The same for a page of the database. known: what those who follow live had at that time, or before."""
    told = []
    for entry in page:
        assert entry.position is not None
        cursor = cursor.passed(entry.position, known)
        if selection.takes(entry):
            told.append(Told(cursor.written(), entry))
    return told, cursor


def _written(place: Place) -> str:
    return f"{place[0]}s" if place[1] else str(place[0])
