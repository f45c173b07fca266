"""The one thread of a process that writes, and how it commits many actions for the price of one.

A commit costs a wait for the disk, whatever is in it. So the writer takes whatever has gathered in its
queue while it was busy with the last transaction, and commits it as the next one:

    BEGIN                         SQLite: takes the write lock at once
    lock and read the heads       one SELECT for all runs of the group
    read what they will ask for   of reports that may have been stored: one SELECT for all, and one for counts
    each action, in order         decides in memory on the heads; a refused one leaves no trace
    append the events             one INSERT
    save the heads                one UPDATE, or one for each choice of columns that changed
    COMMIT                        the wait for the disk
    answer everybody              not one answer leaves before this line

A trainer alone gets its answer after one commit; a thousand trainers share a few commits.

When a transaction fails, nobody knows whose fault it was, and after a connection lost at COMMIT not even
whether it was stored. Then each action is run again in a transaction of its own. That is safe because every
action is idempotent by its key: one that had been stored after all gives the answer it gave then.

A run that another replica holds is not waited for inside a transaction, where it would hold up everybody:
the actions that need it are tried again with the next groups, for as long as `LOCK_WAIT_S`.
"""

import asyncio
import logging
import queue
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError, IntegrityError

from remotelr_service.db.engine import Fault, answer_limit_s, fault_of
from remotelr_service.db.queries import runs
from remotelr_service.db.writer.prefetch import Point
from remotelr_service.db.writer.transaction import WriteTransaction
from remotelr_service.errors import DatabaseUnavailable, Overloaded, RunBusy

T = TypeVar("T")

log = logging.getLogger(__name__)

# How many may wait, and how many share a transaction: about a second of work, and a tenth of one.
CAPACITY = 2_048
GROUP_SIZE = 256
# How long an action waits for a run that another replica holds, and how often it looks.
LOCK_WAIT_S = 0.3
LOCK_PAUSE_S = 0.01
# Runs of one action that lost a race, or its connection.
TRIES = 3
# For so long after its last failed commit, and no good one since, the writer counts as failing.
FAILING_S = 10.0


@dataclass(slots=True, eq=False)
class _Job:
    """An action on its way through the writer."""

    keys: tuple[str, ...]
    action: Callable[[WriteTransaction], Any]
    prefetch: Sequence[Point]
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Any]
    waits_until: float
    result: Any = None
    error: Exception | None = None

    @property
    def size(self) -> int:
        """How many reports it has; one, for all else."""
        return len(self.prefetch) or 1

    def answer(self) -> None:
        # Who asked may have gone; what was done stays done.
        if self.future.done():
            return
        if self.error is None:
            self.future.set_result(self.result)
        else:
            self.future.set_exception(self.error)


class Writer:
    """Everything that writes goes through here.

    engine: `Database.writes`.
    committed: told the keys of the runs that moved, after their commit, in the writer's thread.
    measured: told how many actions a committed transaction held and the seconds it took, there too.
    capacity: how many actions may wait. group_size: with so many, each report of a batch counted, a transaction
        takes in no more.
    answer_within_s: when to stop waiting for a database that is stuck; by default somewhat longer than the
        database's own limits allow a transaction to take.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        committed: Callable[[frozenset[str]], None] | None = None,
        measured: Callable[[int, float], None] | None = None,
        capacity: int = CAPACITY,
        group_size: int = GROUP_SIZE,
        answer_within_s: float | None = None,
    ) -> None:
        self._engine = engine
        self._committed = committed
        self._measured = measured
        self._answer_within_s = answer_limit_s(engine) if answer_within_s is None else answer_within_s
        self._capacity = capacity
        self._group_size = group_size
        # Not `queue.Queue`, whose bound is kept by Python code at every step.
        self._queue: queue.SimpleQueue[_Job | Literal["end"]] = queue.SimpleQueue()
        self._held_up: list[_Job] = []
        self._ending = False
        self._ended = False
        self._failed: tuple[float, str] | None = None
        # Kept from one transaction to the next. One that is lost is made anew by itself, when it is next used.
        self._connection: Connection | None = None
        self._thread = threading.Thread(target=self._work, name="remotelr-writer", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Take nothing more, commit and answer what is waiting, and end."""
        self._ending = True
        if self._thread.is_alive():
            self._queue.put("end")
            self._thread.join()

    @property
    def waiting(self) -> int:
        """How many actions wait to be taken up."""
        return self._queue.qsize()

    @property
    def failing(self) -> str | None:
        """What the last commit failed of, when that was lately and none succeeded since; else None."""
        failed = self._failed
        return failed[1] if failed is not None and time.monotonic() - failed[0] < FAILING_S else None

    async def submit(self, action: Callable[[WriteTransaction], T], *keys: str, prefetch: Sequence[Point] = ()) -> T:
        """What `action` gives, after its transaction is committed.

        keys: the runs it touches. asks: the reports, by epoch and rank, that it will ask the log of the first of
        them for, so that they are read for all actions of a group at once. The action runs in the writer's
        thread, may run more than once, and must not wait for anything but its database. An exception of its own
        is raised here and leaves the actions it shared the transaction with as they are.

        Raises Overloaded when too many wait, RunBusy when another replica holds the run, DatabaseUnavailable
        when the database cannot be reached, cannot write or does not answer: then the action may still
        be carried out.
        """
        if self._ending:
            raise Overloaded("the service is stopping")
        if self.waiting >= self._capacity:
            raise Overloaded(f"{self.waiting} requests wait to be written, and no more fit")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._queue.put(_Job(keys, action, prefetch, loop, future, time.monotonic() + LOCK_WAIT_S))
        giving_up = loop.call_later(self._answer_within_s, _give_up_on, future)
        try:
            return await future
        finally:
            giving_up.cancel()

    def _work(self) -> None:
        while not self._ended or self._held_up:
            jobs = self._next_group()
            if jobs:
                self._commit(jobs)
        for job in self._take_all():
            job.error = Overloaded("the service is stopping")
            _answer([job])
        if self._connection is not None:
            self._connection.close()

    def _next_group(self) -> list[_Job]:
        """Whatever waits, or the first that comes."""
        jobs, self._held_up = self._held_up, []
        # What was held up is not counted: whoever comes meanwhile shall not go one by one because of it.
        size = 0
        with suppress(queue.Empty):
            item = self._queue.get(timeout=LOCK_PAUSE_S) if jobs else self._queue.get()
            while item != "end":
                # Who has given up waiting is not served: under overload that leaves the time to those who wait.
                if not item.future.done():
                    jobs.append(item)
                    size += item.size
                if size >= self._group_size:
                    return jobs
                item = self._queue.get_nowait()
            self._ended = True
        return jobs

    def _commit(self, jobs: list[_Job]) -> None:
        try:
            self._transact(jobs)
        except Exception as error:  # noqa: BLE001  # whatever it was, it meets the one it belongs to when run apart
            log.info("a group of %d is run apart, because: %s", len(jobs), error)
            self._commit_apart(jobs)

    def _transact(self, jobs: list[_Job]) -> None:
        """Run the actions in one transaction, then answer. Raises what spoils the transaction."""
        began = time.monotonic()
        keys = {key for job in jobs for key in job.keys}
        connection = self._connection = self._connection or self._engine.connect()
        with connection.begin():
            locked = runs.lock_runs(connection, keys)
            tx = WriteTransaction(connection, locked)
            ready = [job for job in jobs if locked.busy.isdisjoint(job.keys)]
            for job in ready:
                if job.prefetch:
                    tx.register(job.keys[0], job.prefetch)
            tx.prefetch()
            for job in ready:
                _run(job, tx)
            moved = tx.save()
        self._failed = None
        _answer(ready)
        if self._measured is not None:
            self._measured(len(ready), time.monotonic() - began)
        if self._committed is not None:
            self._committed(moved)
        self._hold_up(job for job in jobs if not locked.busy.isdisjoint(job.keys))

    def _hold_up(self, jobs: Iterable[_Job]) -> None:
        """Let those whose run another replica holds try with the next group, as long as they may wait."""
        late = []
        for job in jobs:
            if time.monotonic() < job.waits_until:
                self._held_up.append(job)
                continue
            job.error = RunBusy("another replica holds this run: send the same again")
            late.append(job)
        _answer(late)

    def _commit_apart(self, jobs: list[_Job]) -> None:
        for index, job in enumerate(jobs):
            try:
                self._commit_alone(job)
            except DatabaseUnavailable as away:
                # Nobody behind this one will reach it either, and a queue shall not wait one timeout each.
                self._failed = (time.monotonic(), away.message)
                # The cause says it all: forty lines of a driver's traceback for every group tell nobody more.
                log.error("the database is away: %s", away.__cause__)  # noqa: TRY400
                self._give_up([*jobs[index:], *self._take_all()], away)
                return

    def _commit_alone(self, job: _Job) -> None:
        """Run one action in its own transaction. Raises DatabaseUnavailable when nobody can have one."""
        for left in reversed(range(TRIES)):
            try:
                self._transact([job])
                return  # noqa: TRY300  # an `else` would stand behind four cases of failure
            except Exception as error:
                fault = fault_of(error)
                if job.future.done():
                    # Nobody waits for it any more, and another try might take the run from somebody who does.
                    return
                if fault in ("race", "lost") and left:
                    continue
                if fault in ("lost", "away"):
                    raise DatabaseUnavailable(
                        "the database cannot be reached, or cannot write: send the same again"
                    ) from error
                job.error = _refusal(error, fault)
                _answer([job])
                return

    def _take_all(self) -> list[_Job]:
        jobs, self._held_up = self._held_up, []
        with suppress(queue.Empty):
            while True:
                item = self._queue.get_nowait()
                if item == "end":
                    self._ended = True
                else:
                    jobs.append(item)
        return jobs

    def _give_up(self, jobs: list[_Job], away: DatabaseUnavailable) -> None:
        for job in jobs:
            job.error = DatabaseUnavailable(away.message)
        _answer(jobs)


def _run(job: _Job, tx: WriteTransaction) -> None:
    """Run one action. A refusal stays its own, unless it had written: then the transaction is spoilt."""
    writes = tx.writes
    try:
        job.result, job.error = job.action(tx), None
    except DBAPIError:
        raise
    except Exception as error:
        if tx.writes != writes:
            raise
        job.error = error


def _give_up_on(future: asyncio.Future[Any]) -> None:
    if not future.done():
        future.set_exception(DatabaseUnavailable("the database does not answer: send the same again"))


def _refusal(error: Exception, fault: Fault) -> Exception:
    """What is told to who submitted an action that failed alone."""
    if fault == "slow":
        return DatabaseUnavailable("the database took too long: send the same again")
    if fault == "race" and not isinstance(error, IntegrityError):
        return RunBusy("this run is being changed by others all the time: send the same again")
    return error


def _answer(jobs: Iterable[_Job]) -> None:
    """Hand every result to the event loop that waits for it, in one call for each loop."""
    by_loop: defaultdict[asyncio.AbstractEventLoop, list[_Job]] = defaultdict(list)
    for job in jobs:
        by_loop[job.loop].append(job)
    for loop, done in by_loop.items():
        # A loop that is closed has nobody left who waits.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(_answer_all, done)


def _answer_all(jobs: list[_Job]) -> None:
    for job in jobs:
        job.answer()
