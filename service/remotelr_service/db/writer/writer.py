"""The writer: the threads of a process that write, and commit many actions in one transaction.

A commit waits for the disk, whatever its size. The writer takes all actions that were queued during the last
transaction, and commits them as the next one:

    BEGIN                         SQLite: takes the write lock
    lock and read the runs        one SELECT
    prefetch stored reports       only if some may be stored already: one SELECT, and one for counts
    each action, in order         decides in memory; a failed action leaves no trace
    append the events             one INSERT
    save the runs                 one UPDATE for each set of changed columns
    COMMIT                        waits for the disk
    answer the actions            no answer leaves before this line

A single trainer is answered after one commit; a thousand trainers share a few commits.

If a transaction fails, the action at fault is unknown. If the connection is lost at COMMIT, it is also unknown whether
the transaction was committed. The writer then runs each action again in its own transaction. This is safe because
every action is idempotent by its key: a committed action returns its first answer.

Transactions follow each other. On PostgreSQL, a transaction that takes longer than `STALL_S` is not waited for: another
thread begins the next one on its own connection, so one delayed message does not delay the runs of all trainers. These
transactions exclude each other as those of two replicas do. On SQLite there is one thread.

A run that another transaction holds is not waited for in a transaction, which would delay all other actions. The
actions that need it are retried in the next transactions for `LOCK_WAIT_S`.
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

from remotelr.rules import Policy
from remotelr_service.db.engine import error_text, transaction_limit_s
from remotelr_service.db.faults import Fault, classify_error
from remotelr_service.db.queries import runs
from remotelr_service.db.sqlite_file import damaged
from remotelr_service.db.writer.expensive_runs import ExpensiveRuns
from remotelr_service.db.writer.prefetch import Point
from remotelr_service.db.writer.run_cache import RunCache
from remotelr_service.db.writer.transaction import WriteTransaction
from remotelr_service.errors import DatabaseDamaged, DatabaseUnavailable, Overloaded, RunBusy

T = TypeVar("T")

log = logging.getLogger(__name__)

# Queued actions, and reports in one transaction: about 1 s and 0.1 s of work.
CAPACITY = 2_048
GROUP_SIZE = 256
# How long the next transaction waits for the one before it: about twice the time of a full one.
STALL_S = 0.2
# How long an action waits for a run that another transaction holds, and the pause between two tries.
LOCK_WAIT_S = 0.3
LOCK_PAUSE_S = 0.01
# How long an action of an expensive run waits for its share of the writer.
SHARE_WAIT_S = 2.0
# Tries of an action that lost a race or its connection.
TRIES = 3
# The writer is failing for this long after a failed commit, unless a later commit succeeds.
FAILING_S = 10.0

STOPPING = "the service is stopping; retry the request"
_HELD = "another transaction holds this run; retry the request"
_SHARE_USED = "the run's policy is expensive, and its share of the service is used; retry the request"


@dataclass(slots=True, eq=False)
class _Job:
    """A submitted action and its result."""

    keys: tuple[str, ...]
    action: Callable[[WriteTransaction], Any]
    prefetch: Sequence[Point]
    policy: Policy | None
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Any]
    submitted_at: float
    result: Any = None
    error: Exception | None = None
    is_expensive: bool = False

    @property
    def size(self) -> int:
        """The number of its reports; 1 for another action."""
        return len(self.prefetch) or 1

    def answer(self) -> None:
        # The request may have been cancelled; its action stays committed.
        if self.future.done():
            return
        if self.error is None:
            self.future.set_result(self.result)
        else:
            self.future.set_exception(self.error)


class _Own(threading.local):
    """What each thread has for itself. SQLAlchemy reconnects a lost connection at its next use."""

    def __init__(self) -> None:
        self.connection: Connection | None = None
        self.postponed: list[_Job] = []


class Writer:
    """Runs all write actions of the process.

    engine: `Database.writes`.
    threads: the maximal number of transactions at a time; a second one begins if the first takes longer than
        `STALL_S`.
    committed: called in a thread of the writer after each commit, with the keys of the changed runs.
    measured: called in a thread of the writer after each commit, with the number of actions and the seconds taken.
    capacity: the maximal number of queued actions.
    group_size: a transaction with this many reports takes no more actions.
    answer_within_s: how long `submit` waits for the database; by default slightly longer than the database's own
        limit for a transaction.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        threads: int = 1,
        committed: Callable[[frozenset[str]], None] | None = None,
        measured: Callable[[int, float], None] | None = None,
        capacity: int = CAPACITY,
        group_size: int = GROUP_SIZE,
        answer_within_s: float | None = None,
    ) -> None:
        self._engine = engine
        self._committed = committed
        self._measured = measured
        self._answer_within_s = transaction_limit_s(engine) if answer_within_s is None else answer_within_s
        self._capacity = capacity
        self._group_size = group_size
        # Not `queue.Queue`, which checks its bound in Python code on each call.
        self._queue: queue.SimpleQueue[_Job | Literal["end"]] = queue.SimpleQueue()
        self._ending = False
        self._ended = False
        # The thread that has the turn takes the next group. `_previous` is set when the last transaction has ended.
        self._turn = threading.Lock()
        self._previous = threading.Event()
        self._previous.set()
        self._failed: tuple[float, str] | None = None
        self._own = _Own()
        self._cache = RunCache()
        self._expensive = ExpensiveRuns()
        self._threads = [
            threading.Thread(target=self._work, name=f"remotelr-writer-{number}", daemon=True)
            for number in range(1, threads + 1)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Reject new actions, commit and answer the queued ones, and end the threads."""
        self._ending = True
        self._queue.put("end")
        for thread in self._threads:
            if thread.is_alive():
                thread.join()
        for job in self._take_all():
            job.error = Overloaded(STOPPING)
            _answer([job])

    @property
    def waiting(self) -> int:
        """The number of queued actions."""
        return self._queue.qsize()

    @property
    def failing(self) -> str | None:
        """The error of the last commit, if it failed less than `FAILING_S` ago; else None."""
        failed = self._failed
        return failed[1] if failed is not None and time.monotonic() - failed[0] < FAILING_S else None

    async def submit(
        self,
        action: Callable[[WriteTransaction], T],
        *keys: str,
        prefetch: Sequence[Point] = (),
        policy: Policy | None = None,
    ) -> T:
        """The result of `action`, after its transaction is committed.

        keys: the runs that the action uses.
        prefetch: the reports, by epoch and rank, that it looks up in the log of the first run.
        policy: the policy that it gives to a run.

        The action runs in a thread of the writer, may run more than once, and must wait for nothing but its database.

        Raises what the action raises; the other actions of the transaction are not affected.
        Raises Overloaded if the queue is full or the service is stopping.
        Raises RunBusy if another transaction holds the run.
        Raises DatabaseUnavailable if the database cannot be reached, cannot write or does not answer; the action may
            still be carried out.
        """
        if self._ending:
            raise Overloaded(STOPPING)
        if self.waiting >= self._capacity:
            raise Overloaded(f"the write queue is full with {self.waiting} requests; retry the request")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._queue.put(_Job(keys, action, prefetch, policy, loop, future, time.monotonic()))
        timeout = loop.call_later(self._answer_within_s, _time_out, future)
        try:
            return await future
        finally:
            timeout.cancel()

    def _work(self) -> None:
        while not self._ended or self._own.postponed:
            self._take_turn()
        if self._own.connection is not None:
            self._own.connection.close()

    def _take_turn(self) -> None:
        """Commit the next group, after the transaction before it has ended or stalled."""
        # The thread that has the turn may wait for a first action; meanwhile the postponed ones are tried alone.
        if not self._turn.acquire(timeout=LOCK_PAUSE_S if self._own.postponed else -1):
            jobs, self._own.postponed = self._own.postponed, []
            self._commit(jobs)
            return
        ended = threading.Event()
        try:
            self._previous.wait(STALL_S)
            jobs = self._next_group()
            self._previous = ended
        finally:
            self._turn.release()
        try:
            if jobs:
                self._commit(jobs)
        finally:
            ended.set()

    def _next_group(self) -> list[_Job]:
        """The queued actions, or the first that is submitted; none after the end."""
        jobs, self._own.postponed = self._own.postponed, []
        if self._ended:
            time.sleep(LOCK_PAUSE_S)
            return jobs
        # Postponed actions are not counted: new actions must not be committed one by one because of them.
        size = 0
        with suppress(queue.Empty):
            item = self._queue.get(timeout=LOCK_PAUSE_S) if jobs else self._queue.get()
            while item != "end":
                # An abandoned request is skipped: under overload the time goes to the others.
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
        except Exception as error:  # noqa: BLE001  # the action that raised it raises it again, alone
            log.info(
                "the transaction failed; each action is retried alone",
                extra={"actions": len(jobs), "error": str(error)},
            )
            self._commit_apart(jobs)

    def _transact(self, jobs: list[_Job]) -> None:
        """Run the actions in one transaction, then answer. Raises the error that rolled it back."""
        began = time.monotonic()
        keys = {key for job in jobs for key in job.keys}
        connection = self._own.connection = self._own.connection or self._engine.connect()
        with connection.begin():
            locked = runs.lock_runs(connection, keys)
            tx = WriteTransaction(connection, locked, self._cache)
            ready, waiting = self._by_share([job for job in jobs if locked.busy.isdisjoint(job.keys)], tx)
            for job in ready:
                if job.prefetch:
                    tx.register(job.keys[0], job.prefetch)
            tx.prefetch()
            for job in ready:
                if job.is_expensive:
                    self._run_expensive(job, tx)
                else:
                    _run(job, tx)
            changed = tx.save()
        self._failed = None
        _answer(ready)
        if self._measured is not None:
            self._measured(len(ready), time.monotonic() - began)
        if self._committed is not None:
            self._committed(changed)
        self._postpone((job for job in jobs if not locked.busy.isdisjoint(job.keys)), _HELD, LOCK_WAIT_S)
        self._postpone(waiting, _SHARE_USED, SHARE_WAIT_S)

    def _by_share(self, jobs: list[_Job], tx: WriteTransaction) -> tuple[list[_Job], list[_Job]]:
        """The actions to run, and those of expensive runs that wait: of these at most one is run, if it may be."""
        ready, waiting, may_run = [], [], True
        find, is_expensive = tx.find, self._expensive.is_expensive
        for job in jobs:
            job.is_expensive = job.policy is not None and is_expensive(job.policy)
            for key in job.keys:
                stored = find(key)
                if stored is not None and is_expensive(stored.run.policy):
                    job.is_expensive = True
            if job.is_expensive:
                if not (may_run and self._expensive.may_run()):
                    waiting.append(job)
                    continue
                may_run = False
            ready.append(job)
        return ready, waiting

    def _run_expensive(self, job: _Job, tx: WriteTransaction) -> None:
        # The time of this thread alone: waiting for the database is not the policy's cost.
        began_s = time.thread_time()
        _run(job, tx)
        self._expensive.charge(time.thread_time() - began_s)

    def _postpone(self, jobs: Iterable[_Job], reason: str, wait_s: float) -> None:
        """Retry actions in the next transaction, until they have waited this long."""
        late = []
        for job in jobs:
            if time.monotonic() < job.submitted_at + wait_s:
                self._own.postponed.append(job)
                continue
            job.error = RunBusy(reason)
            late.append(job)
        _answer(late)

    def _commit_apart(self, jobs: list[_Job]) -> None:
        for index, job in enumerate(jobs):
            try:
                self._commit_alone(job)
            except (DatabaseUnavailable, DatabaseDamaged) as error:
                # Once, and without the driver's traceback of 40 lines, until a transaction succeeds.
                if self.failing != error.message:
                    fields = {"code": error.code, "detail": error.message, "cause": str(error.__cause__)}
                    log.error("the database cannot be used", extra=fields)  # noqa: TRY400
                # The next actions would not reach it either, after one timeout each.
                self._failed = (time.monotonic(), error.message)
                self._fail([*jobs[index:], *self._take_all()], error)
                return

    def _commit_alone(self, job: _Job) -> None:
        """Run one action in its own transaction. Raises DatabaseUnavailable or DatabaseDamaged if none is possible."""
        for left in reversed(range(TRIES)):
            try:
                self._transact([job])
                return  # noqa: TRY300  # an `else` would be far from its `try`
            except Exception as error:
                fault = classify_error(error)
                if isinstance(error, DatabaseUnavailable):
                    # The file was removed or replaced.
                    raise
                if job.future.done():
                    # The request was abandoned, and a retry would delay the others.
                    return
                if fault in ("race", "lost") and left:
                    continue
                if fault == "damaged":
                    raise damaged(self._engine.url.database or "the database", error_text(error)) from error
                if fault in ("lost", "unavailable"):
                    raise DatabaseUnavailable(
                        "the database cannot be reached or cannot write; retry the request"
                    ) from error
                job.error = _to_service_error(error, fault)
                _answer([job])
                return

    def _take_all(self) -> list[_Job]:
        jobs, self._own.postponed = self._own.postponed, []
        ends = False
        with suppress(queue.Empty):
            while True:
                item = self._queue.get_nowait()
                if item == "end":
                    ends = True
                else:
                    jobs.append(item)
        if ends:
            # For the thread that has the turn, which may be waiting for it.
            self._queue.put("end")
        return jobs

    def _fail(self, jobs: list[_Job], error: DatabaseUnavailable | DatabaseDamaged) -> None:
        for job in jobs:
            job.error = type(error)(error.message)
        _answer(jobs)


def _run(job: _Job, tx: WriteTransaction) -> None:
    """Run one action. Raises its error if it had written: the transaction must be rolled back."""
    writes = tx.writes
    try:
        job.result, job.error = job.action(tx), None
    except DBAPIError:
        raise
    except Exception as error:
        if tx.writes != writes:
            raise
        job.error = error


def _time_out(future: asyncio.Future[Any]) -> None:
    if not future.done():
        future.set_exception(DatabaseUnavailable("the database does not answer; retry the request"))


def _to_service_error(error: Exception, fault: Fault) -> Exception:
    """The error that `submit` raises for an action that failed alone."""
    if fault == "slow":
        return DatabaseUnavailable("the database took too long; retry the request")
    if fault == "race" and not isinstance(error, IntegrityError):
        return RunBusy("the run was modified concurrently; retry the request")
    return error


def _answer(jobs: Iterable[_Job]) -> None:
    """Hand the results to the event loops that wait for them, in one call for each loop."""
    by_loop: defaultdict[asyncio.AbstractEventLoop, list[_Job]] = defaultdict(list)
    for job in jobs:
        by_loop[job.loop].append(job)
    for loop, done in by_loop.items():
        # A closed loop has no waiting requests.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(_answer_all, done)


def _answer_all(jobs: list[_Job]) -> None:
    for job in jobs:
        job.answer()
