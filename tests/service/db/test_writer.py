"""The writer: many actions in one transaction, none answered before it is committed, none hurt by another."""

import asyncio
import itertools
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import Connection, event
from sqlalchemy.exc import OperationalError

from remotelr.rules import Command, Decision, Report, ReportConflict, create
from remotelr_service.db import engine
from remotelr_service.db.writer.transaction import WriteTransaction
from remotelr_service.errors import CommandNotFound, DatabaseUnavailable, Overloaded
from remotelr_service.features.bulk import bulk
from remotelr_service.features.bulk.selector import Selector
from remotelr_service.features.commands import commands
from remotelr_service.features.runs import runs
from remotelr_service.features.training import reports
from support.fixtures.processes import Process, busy, together
from support.rules.run_histories import PLATEAU, spec


def test_actions_that_wait_together_share_one_transaction(process: Process):
    for number in range(20):
        process.put(f"run {number}")
    with counted_commits(process) as commits:
        answers = together(process, *(report(process, f"run {number}") for number in range(20)))

    assert all(isinstance(answer, Decision) for answer in answers)
    assert len(commits) == 2  # the one that kept the writer busy, and the group


def test_a_transaction_is_full_by_its_reports_and_not_by_the_requests_they_came_in(
    database_url: str, start_process: Callable[..., Process]
):
    groups: list[int] = []
    process = start_process(database_url, group_size=10, measured=lambda size, _: groups.append(size))
    keys = ("one", "two", "three")
    for key in keys:
        process.put(key)
    batch = [Report(epoch=epoch, metrics={"val_loss": 0.5}) for epoch in range(6)]
    together(process, *(reports.report_batch(process.writer, key, batch) for key in keys))

    process.close()

    # Before them the transaction that they wait for.
    assert [1, 2, 1] == groups[-3:]


def test_no_answer_leaves_before_its_commit(process: Process):
    """
    Invariant 1. The commit is delayed; no action is answered before its end.
    """
    process.put("run")
    early: list[bool] = []

    async def ask() -> Any:
        answer = asyncio.ensure_future(report(process, "run"))

        def hold_up(connection: Connection) -> None:
            time.sleep(0.1)
            early.append(answer.done())

        with hooked(process, hold_up):
            return await answer

    assert isinstance(process.ask(ask()), Decision)
    assert early == [False]


def test_a_refused_action_does_not_hurt_its_neighbours(process: Process):
    for key in ("one", "two", "three"):
        process.put(key)
    process.report("two", 0, 0.5)
    answers = together(process, report(process, "one"), report(process, "two", 0.7), report(process, "three"))

    assert [Decision, ReportConflict, Decision] == [type(answer) for answer in answers]
    assert [1, 1, 1] == [process.stored_run(key).epoch for key in ("one", "two", "three")]


def test_a_fault_in_one_action_is_raised_to_its_caller_alone(process: Process):
    process.put("run")

    def faulty(tx: WriteTransaction) -> None:
        raise ZeroDivisionError

    answers = together(process, process.writer.submit(faulty), report(process, "run"))

    assert [ZeroDivisionError, Decision] == [type(answer) for answer in answers]


def test_an_action_that_fails_after_a_write_leaves_no_trace_and_does_not_affect_the_others(process: Process):
    process.put("run")

    def half_done(tx: WriteTransaction) -> None:
        tx.create(create("half done", spec(PLATEAU)), experiment=None, tags={})
        raise ZeroDivisionError

    answers = together(process, process.writer.submit(half_done, "half done"), report(process, "run"))

    assert [ZeroDivisionError, Decision] == [type(answer) for answer in answers]
    assert ["run"] == [view.run.key for view in runs.list_runs(process.reads).runs]


def test_a_failed_commit_is_tried_again_for_each_action_alone(process: Process):
    keys = put_runs(process, 5)
    with failing_commits(process, times=1, committed=False):
        answers = together(process, *(report(process, key) for key in keys))

    assert all(isinstance(answer, Decision) for answer in answers)
    assert [2] * 5 == [len(process.events(key)) for key in keys]


def test_a_commit_whose_answer_is_lost_counts_once(process: Process):
    """
    The commit succeeded, but the connection broke before it said so: every action is run again, finds
    that it was stored, and gives the answer of the first time.
    """
    keys = put_runs(process, 5)
    with failing_commits(process, times=1, committed=True):
        *answers, command = together(process, *(report(process, key) for key in keys), scaled(process, "run 0"))

    assert all(answer.replayed for answer in answers)
    assert 3 == command
    assert [3, 2, 2, 2, 2] == [len(process.events(key)) for key in keys]


def test_a_bulk_command_whose_commit_is_not_answered_is_stored_once(process: Process):
    """
    Also a bulk command without a key.
    """
    process.put("run")
    order = Command(type="scale", factor=0.5)
    running = Selector(status="running")
    with failing_commits(process, times=1, committed=True):
        ((noted, _),) = together(process, bulk.create_bulk(process.writer, process.reads, running, order))

    assert ("run",) == tuple(bulk.get_bulk(process.reads, noted.id).bulk.runs)
    with pytest.raises(CommandNotFound):
        bulk.get_bulk(process.reads, noted.id - 1)


def test_a_connection_lost_twice_is_not_yet_a_database_that_is_away(process: Process):
    """
    The second is lost while the actions of the group are run again, each alone.
    """
    keys = put_runs(process, 3)
    with failing_commits(process, times=2, committed=True):
        answers = together(process, *(report(process, key) for key in keys))

    assert [Decision] * 3 == [type(answer) for answer in answers]
    assert [2] * 3 == [len(process.events(key)) for key in keys]


def test_every_waiting_action_fails_if_the_database_stays_unavailable(process: Process):
    keys = put_runs(process, 5)
    with failing_commits(process, times=1_000, committed=False):
        answers = together(process, *(report(process, key) for key in keys))
        failing = process.writer.failing

    assert [DatabaseUnavailable] * 5 == [type(answer) for answer in answers]
    assert failing is not None
    assert isinstance(process.report("run 0", 0, 0.5), Decision)
    assert process.writer.failing is None


def test_more_than_the_queue_takes_is_refused_at_once(database_url: str, start_process: Callable[..., Process]):
    process = start_process(database_url, capacity=3)
    process.put("run")
    answers = together(process, *(report(process, "run") for _ in range(5)))

    assert [Overloaded] * 2 == [type(answer) for answer in answers if not isinstance(answer, Decision)]


def test_queued_actions_are_committed_and_answered_before_the_writer_ends(process: Process):
    process.put("run")

    async def ask_and_close() -> Any:
        async with busy(process):
            asked = [asyncio.ensure_future(report(process, "run")) for _ in range(3)]
            await asyncio.sleep(0.05)
            closing = asyncio.create_task(asyncio.to_thread(process.writer.close))
        await closing
        return await asyncio.gather(*asked)

    assert all(isinstance(answer, Decision) for answer in process.ask(ask_and_close()))
    with pytest.raises(Overloaded, match="stopping"):
        process.report("run", 1, 0.5)


def test_an_action_does_not_wait_for_ever_for_a_stuck_database(
    database_url: str, start_process: Callable[..., Process]
):
    process = start_process(database_url, answer_within_s=0.2)
    over = threading.Event()
    with pytest.raises(DatabaseUnavailable, match="does not answer"):
        process.ask(process.writer.submit(lambda tx: over.wait(60)))
    over.set()


def test_an_abandoned_action_is_not_run(process: Process):
    process.put("run")

    async def ask_and_go() -> None:
        async with busy(process):
            asked = asyncio.ensure_future(report(process, "run"))
            await asyncio.sleep(0.05)
            asked.cancel()
            await asyncio.sleep(0)

    process.ask(ask_and_go())
    process.put("another")

    assert len(process.events("run")) == 1


def test_actions_of_one_group_see_the_changes_of_the_earlier_ones(process: Process):
    answers = together(
        process,
        runs.put_run(process.writer, "run", spec(PLATEAU)),
        runs.put_run(process.writer, "run", spec(PLATEAU)),
        report(process, "run", 0.5, epoch=0),
        report(process, "run", 0.5, epoch=1),
        report(process, "run", 0.5, epoch=0),
        runs.delete_run(process.writer, "run"),
        runs.put_run(process.writer, "run", spec(PLATEAU)),
    )

    assert [True, False, True] == [answers[index][1] for index in (0, 1, 6)]
    assert [1, 2, 1] == [answers[index].epoch for index in (2, 3, 4)]
    assert answers[4].replayed
    assert len(process.events("run")) == 1


def test_a_lock_on_the_sqlite_file_is_waited_for(sqlite_url: str, start_process: Callable[..., Process]):
    """
    F16: a backup, or a sqlite3 shell of an operator.
    """
    process = start_process(sqlite_url)
    process.put("run")
    with locked_file(process) as release:
        threading.Timer(0.3, release).start()
        assert isinstance(process.report("run", 0, 0.5), Decision)


def test_a_lock_on_the_sqlite_file_that_stays_is_answered_in_time(
    sqlite_url: str, start_process: Callable[..., Process], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(engine, "SQLITE_BUSY_TIMEOUT_MS", 200)
    process = start_process(sqlite_url)
    process.put("run")
    with locked_file(process), pytest.raises(DatabaseUnavailable):
        process.report("run", 0, 0.5)

    assert isinstance(process.report("run", 0, 0.5), Decision)


def test_a_full_disk_loses_nothing_that_was_answered(sqlite_url: str, start_process: Callable[..., Process]):
    """
    F15: reads go on, writes are refused and said to fail, and all goes on when there is space again.
    """
    process = start_process(sqlite_url)
    process.put("run")
    pages = process.ask(process.writer.submit(pragma("page_count")))
    process.ask(process.writer.submit(pragma(f"max_page_count = {pages + 2}")))
    answered = train_until_refused(process, "run")
    failing, stored = process.writer.failing, runs.get_run(process.reads, "run").run.epoch
    process.ask(process.writer.submit(pragma("max_page_count = 1000000")))

    assert failing is not None
    assert answered == stored
    assert answered + 1 == process.report("run", answered, 0.5).epoch


def put_runs(process: Process, count: int) -> list[str]:
    """The keys of new runs."""
    keys = [f"run {number}" for number in range(count)]
    for key in keys:
        process.put(key)
    return keys


async def report(process: Process, key: str, value: float = 0.5, epoch: int = 0) -> Any:
    return await reports.report(process.writer, key, Report(epoch=epoch, metrics={"val_loss": value}))


async def scaled(process: Process, key: str) -> Any:
    return await commands.command(process.writer, key, Command(type="scale", value=0.5))


def train_until_refused(process: Process, key: str) -> int:
    """How many epochs were answered before the first refusal."""
    for epoch in range(1_000):
        try:
            process.report(key, epoch, 0.5)
        except DatabaseUnavailable:
            return epoch
    raise AssertionError("the disk was never full")


@contextmanager
def hooked(process: Process, hook: Callable[[Connection], None]) -> Iterator[None]:
    """`hook` runs right before every COMMIT of the writer."""
    event.listen(process.database.writes, "commit", hook)
    try:
        yield
    finally:
        event.remove(process.database.writes, "commit", hook)


@contextmanager
def counted_commits(process: Process) -> Iterator[list[None]]:
    commits: list[None] = []
    with hooked(process, lambda connection: commits.append(None)):
        yield commits


@contextmanager
def failing_commits(process: Process, *, times: int, committed: bool) -> Iterator[None]:
    """Commits break the connection, after or before they are carried out; not yet the one that kept the writer busy."""
    commits = itertools.count()

    def lose(connection: Connection) -> None:
        number = next(commits)
        if not 1 <= number <= times:
            return
        if committed:
            raw = connection.connection.driver_connection
            assert raw is not None
            raw.execute("COMMIT")
        connection.invalidate()
        raise OperationalError("COMMIT", {}, Exception("the connection is lost"), connection_invalidated=True)

    with hooked(process, lose):
        yield


@contextmanager
def locked_file(process: Process) -> Iterator[Callable[[], None]]:
    """Another connection has the write lock of the SQLite file until the block ends or the function is called."""
    other = sqlite3.connect(process.database.writes.url.database or "", check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    try:
        yield other.rollback
    finally:
        other.rollback()
        other.close()


def pragma(setting: str) -> Callable[[WriteTransaction], Any]:
    return lambda tx: tx._connection.exec_driver_sql(f"PRAGMA {setting}").scalar()
