"""The writer against what only a server can do: die in the middle, and be shared by replicas."""

import asyncio
import itertools
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from psycopg import sql
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError, IntegrityError

from faults.databases import address, query, through
from faults.proxy import Link, Proxy, passing
from remotelr import rules
from remotelr.rules import AttemptRequest, Decision, Report, Waiting
from remotelr_service.db import driver
from remotelr_service.db.engine import open_database
from remotelr_service.db.writer import writer
from remotelr_service.db.writer.transaction import WriteTransaction
from remotelr_service.errors import DatabaseUnavailable, RunBusy
from remotelr_service.features.runs import runs
from remotelr_service.features.training import attempts, reports
from support.fixtures.processes import Process, patiently, together
from support.rules.run_histories import PLATEAU, spec

TRAINED = {"type": "reduce_on_plateau", "factor": 0.97, "patience": 1, "cooldown": 1}


@pytest.fixture
def replicas(postgres_url: str, start_process: Callable[..., Process]) -> list[Process]:
    """Three processes of the service on one database."""
    return [start_process(postgres_url) for _ in range(3)]


@pytest.fixture
def replica(replicas: list[Process]) -> Process:
    return replicas[0]


def test_a_connection_killed_in_the_middle_of_a_transaction_costs_nothing(replica: Process):
    """
    F13. The action had written already; its transaction is gone, and it is done again on a new connection.
    """
    replica.put("run")
    killed: list[int] = []

    def action(tx: WriteTransaction) -> Any:
        stored = tx.get("run")
        outcome = rules.report(stored.run, Report(epoch=0, metrics={"val_loss": 0.5}), tx.log("run"))
        tx.append(stored, outcome)
        tx.flush()
        if not killed:
            killed.append(tx._connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one())
            administrate(replica, "SELECT pg_terminate_backend(%s)", killed[0])
        return outcome.answer

    answer = replica.ask(replica.writer.submit(action, "run"))

    assert (1, False) == (answer.epoch, answer.replayed)
    assert [1, 2] == [event.seq for event in replica.events("run")]
    assert 2 == replica.report("run", 1, 0.5).epoch


def test_a_report_costs_postgresql_two_messages(
    replica: Process, postgres_url: str, start_process: Callable[..., Process]
):
    """One to lock and read its run, one to store what came of it: so a trainer alone waits for the network twice."""
    replica.put("run")
    with Proxy(address(postgres_url), counting) as counted:
        near = start_process(through(postgres_url, counted.address))
        near.report("run", 0, 0.5)
        before = counted.happened["message"]
        for epoch in range(1, 11):
            near.report("run", epoch, 0.5)
        messages = counted.happened["message"] - before
        near.close()

    assert 20 == messages


@pytest.mark.parametrize("aggregate", ["rank0", "all"])
@pytest.mark.parametrize("again", ["lone trainers", "ranks that wait", "ranks of one run", "ranks of a decided epoch"])
def test_the_number_of_messages_of_a_group_does_not_depend_on_the_number_of_retries(
    replica: Process, postgres_url: str, start_process: Callable[..., Process], again: str, aggregate: str
):
    """With one for each, a slow database would hold the runs for longer than trainers wait, and they ask for ever."""
    world = 1 if again == "lone trainers" else 41
    one_run = again in ("ranks of one run", "ranks of a decided epoch")
    reported = [("run", 1 + number) if one_run else (f"run-{number}", min(world, 2) - 1) for number in range(40)]
    for key in {key for key, _ in reported}:
        replica.put(key, policy={"schedule": PLATEAU, "aggregate": {"ranks": aggregate}}, world_size=world)
    replica.ask_all(*(report(replica, key, 0, rank=rank) for key, rank in reported))
    if again == "ranks of a decided epoch":
        replica.report("run", 0, 0.5, rank=0)

    def send_again(near: Process, many: int) -> None:
        answers = together(near, *(report(near, key, 0, rank=rank) for key, rank in reported[:many]))
        decided = again in ("lone trainers", "ranks of a decided epoch")
        assert {Decision if decided else Waiting} == {type(answer) for answer in answers}

    few, many = messages_of(send_again, (2, 40), postgres_url, start_process)
    assert few == many


def test_a_batch_that_waits_for_other_ranks_is_sent_again_for_the_same_messages_however_long_it_is(
    replica: Process, postgres_url: str, start_process: Callable[..., Process]
):
    replica.put("run", world_size=2)
    batch = [Report(epoch=epoch, metrics={"val_loss": 0.5}, rank=1) for epoch in range(100)]
    replica.ask(reports.report_batch(replica.writer, "run", batch))

    def send_again(near: Process, many: int) -> None:
        answers = near.ask(reports.report_batch(near.writer, "run", batch[:many]))
        assert many * [Waiting] == [type(answer) for answer in answers]

    short, long = messages_of(send_again, (5, 100), postgres_url, start_process)
    assert short == long


def test_the_ranks_of_a_run_that_is_made_with_them_cost_the_same_messages_however_many_they_are(
    replica: Process, postgres_url: str, start_process: Callable[..., Process]
):
    made = itertools.count()

    def make(near: Process, many: int) -> None:
        key = f"run-{next(made)}"
        new = runs.put_run(near.writer, key, spec({"schedule": PLATEAU}, world_size=41), on_conflict="error")
        _, *answers = together(near, new, *(report(near, key, 0, rank=rank) for rank in range(1, 1 + many)))
        assert many * [Waiting] == [type(answer) for answer in answers]

    few, many = messages_of(make, (2, 40), postgres_url, start_process)
    assert few == many


def test_late_ranks_cost_the_same_messages_however_many_they_are_also_where_ranks_are_waited_for_a_time(
    replica: Process, postgres_url: str, start_process: Callable[..., Process]
):
    replica.put("run", policy={"schedule": PLATEAU, "aggregate": {"timeout_s": 30}}, world_size=100)
    replica.report("run", 0, 0.5)
    ranks = itertools.count(1)

    def come_late(near: Process, many: int) -> None:
        answers = together(near, *(report(near, "run", 0, rank=next(ranks)) for _ in range(many)))
        assert many * [1] == [answer.epoch for answer in answers]

    few, many = messages_of(come_late, (2, 40), postgres_url, start_process)
    assert few == many


def test_ranks_that_begin_together_cost_the_same_messages_however_many_they_are(
    replica: Process, postgres_url: str, start_process: Callable[..., Process]
):
    """Each of them makes the run, and begins the attempt of all, as the Keras callback does."""
    wanted = spec({"schedule": PLATEAU}, world_size=40)
    replica.put("run", policy={"schedule": PLATEAU}, world_size=40)
    replica.attempt("run", "job-1", 0)

    def begin(near: Process, many: int) -> None:
        made = [runs.put_run(near.writer, "run", wanted, on_conflict="error") for _ in range(many)]
        begun = [attempts.begin_attempt(near.writer, "run", AttemptRequest(key="job-1", epoch=0)) for _ in range(many)]
        answers = together(near, *made, *begun)
        assert many * [1] == [answer.attempt for answer in answers[many:]]

    few, many = messages_of(begin, (2, 40), postgres_url, start_process)
    assert few == many


def messages_of(
    ask: Callable[[Process, int], None], sizes: Sequence[int], url: str, start_process: Callable[..., Process]
) -> list[int]:
    """The number of messages that a process sends to its database for so many reports."""
    said = []
    with Proxy(address(url), counting) as counted:
        near = start_process(through(url, counted.address))
        # The first of a process knows no run yet, and no type of the database.
        ask(near, sizes[0])
        for size in sizes:
            before = counted.happened["message"]
            ask(near, size)
            said.append(counted.happened["message"] - before)
        near.close()
    return said


def delete_all_and(connection: Connection, statement: str) -> None:
    with connection.begin():
        driver.execute(connection, "DELETE FROM runs")
        # Half a character cannot be said.
        driver.execute(connection, statement, ("\ud800",) if "%s" in statement else ())


def test_a_last_message_that_fails_for_one_costs_the_others_of_its_group_nothing(replica: Process):
    """An event of that number exists already: the writer's insert fails, and the connection can be used again."""
    for key in ("good", "bad"):
        replica.put(key)
    query(replica.url, "UPDATE events SET seq = 2 WHERE run_id = (SELECT id FROM runs WHERE key = 'bad')")
    good, bad = together(replica, report(replica, "good", 0), report(replica, "bad", 0))

    assert (1, False) == (good.epoch, good.replayed)
    assert isinstance(bad, IntegrityError)
    assert 2 == replica.report("good", 1, 0.5).epoch


async def counting(link: Link) -> None:
    """Passes everything on, and counts the messages of the client."""

    async def counted(chunk: bytes) -> bytes:
        link.happened["message"] += 1
        return chunk

    await passing(link, counted)


def test_pending_statements_are_visible_to_the_next_query(replica: Process):
    replica.put("run")

    def action(tx: WriteTransaction) -> list[int]:
        stored = tx.get("run")
        tx.append(stored, rules.report(stored.run, Report(epoch=0, metrics={"val_loss": 0.5}), tx.log("run")))
        tx.flush()
        return list(tx.connection.exec_driver_sql("SELECT seq FROM events ORDER BY seq").scalars())

    assert [1, 2] == replica.ask(replica.writer.submit(action, "run"))


def test_pending_statements_are_discarded_by_a_rollback(replica: Process):
    """Also where nothing of it was said yet; and the connection is as good as before."""
    replica.put("run")
    with replica.database.writes.connect() as connection:
        for statement in ("DELETE FROM runs", "this is no SQL"):
            with connection.begin() as transaction:
                driver.execute(connection, statement)
                transaction.rollback()
        for wrong, says in (
            ("this is no SQL", "syntax error"),
            ("SELECT 1 / 0", "division"),
            ("SELECT %s", "surrogate"),
        ):
            with pytest.raises(DBAPIError, match=says):
                delete_all_and(connection, wrong)
        assert 1 == connection.exec_driver_sql("SELECT count(*) FROM runs").scalar_one()
        connection.rollback()

    assert 1 == replica.report("run", 0, 0.5).epoch


def test_texts_are_stored_as_they_are_whatever_is_in_them(replica: Process):
    """The driver quotes the values in a message of several statements."""
    odd = "it's; COMMIT; -- \\' \" %s %(rows)s $1 é"
    replica.put("run")
    report = Report(epoch=0, metrics={odd: 1.0, "val_loss": 0.5})
    replica.ask(reports.report(replica.writer, "run", report))

    assert {odd: 1.0, "val_loss": 0.5} == replica.events("run")[-1].payload["metrics"]


def test_connections_killed_between_transactions_are_not_noticed(replica: Process):
    replica.put("run")
    for epoch in range(3):
        kill_all(replica)
        assert epoch + 1 == replica.report("run", epoch, 0.5).epoch


def test_a_database_that_is_gone_is_said_to_be_so_and_comes_back_without_a_restart(replica: Process):
    replica.put("run")
    with closed_database(replica), pytest.raises(DatabaseUnavailable, match="cannot be reached"):
        replica.report("run", 0, 0.5)

    assert 1 == replica.report("run", 0, 0.5).epoch


def test_a_run_that_another_replica_holds_does_not_hold_up_the_others(
    replica: Process, monkeypatch: pytest.MonkeyPatch
):
    """
    F17, F18: a replica was stopped while it held the lock of one run.
    """
    monkeypatch.setattr(writer, "LOCK_WAIT_S", 3.0)
    for key in ("held", "free"):
        replica.put(key)
    with held(replica, "held"):
        (held_at, busy), (free_at, free) = replica.ask_all(
            timed(report(replica, "held", 0)), timed(report(replica, "free", 0))
        )

    assert isinstance(busy, RunBusy)
    assert (1, True) == (free.epoch, free_at < held_at)
    assert 1 == replica.report("held", 0, 0.5).epoch


def test_a_long_batch_for_a_run_that_another_replica_holds_leaves_the_others_their_groups(
    postgres_url: str, start_process: Callable[..., Process], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(writer, "LOCK_WAIT_S", 3.0)
    groups: list[int] = []
    replica = start_process(postgres_url, group_size=10, measured=lambda size, _: groups.append(size))
    for key in ("held", "free"):
        replica.put(key, world_size=11)
    batch = [Report(epoch=epoch, metrics={"val_loss": 0.5}) for epoch in range(20)]
    with held(replica, "held"):
        together(
            replica,
            reports.report_batch(replica.writer, "held", batch),
            *(report(replica, "free", 0, rank=rank) for rank in range(1, 11)),
        )
    replica.close()

    assert max(groups) == 10


def test_a_run_that_another_replica_releases_soon_is_waited_for(replica: Process, monkeypatch: pytest.MonkeyPatch):
    replica.put("held")
    with held(replica, "held") as release:
        monkeypatch.setattr(writer, "LOCK_WAIT_S", 60.0)
        threading.Timer(0.1, release).start()
        assert 1 == replica.report("held", 0, 0.5).epoch


def test_a_transaction_that_stands_still_frees_its_runs(replica: Process):
    """
    F18: after five seconds PostgreSQL ends it, and the run goes on.
    """
    replica.put("run")
    with replica.database.writes.connect() as stopped:
        stopped.exec_driver_sql("SELECT * FROM runs FOR UPDATE")
        assert 1 == replica.ask(patiently(lambda: report(replica, "run", 0))).epoch
        stopped.invalidate()


def test_replicas_that_create_one_run_at_once_create_one_run(replicas: list[Process]):
    answers = at_once(
        replicas,
        lambda process: [patiently(lambda: runs.put_run(process.writer, "run", spec(PLATEAU))) for _ in range(10)],
    )

    assert [True] == [created for _, created in answers if created]
    assert 1 == len({view.stored.created_at for view, _ in answers})
    assert 1 == len(replicas[0].events("run"))


def test_attempts_that_begin_at_once_on_several_replicas_have_numbers_of_their_own(replicas: list[Process]):
    """
    F9: strictly increasing, the same key the same number, and the highest alone is alive.
    """
    replicas[0].put("run")
    answers = at_once(
        replicas,
        lambda process: [
            patiently(
                lambda name=name: attempts.begin_attempt(process.writer, "run", AttemptRequest(key=name, epoch=0))
            )
            for name in [f"{process.writer!r} {number}" for number in range(5)]
        ],
    )
    given = sorted(answer.attempt for answer in answers if isinstance(answer, Decision))
    refused = [answer for answer in answers if not isinstance(answer, Decision)]

    assert not refused
    assert list(range(1, 16)) == given
    assert 15 == replicas[1].stored_run("run").attempt


def test_an_attempt_key_sent_to_every_replica_at_once_is_one_attempt(replicas: list[Process]):
    replicas[0].put("run")
    answers = at_once(
        replicas,
        lambda process: [
            patiently(lambda: attempts.begin_attempt(process.writer, "run", AttemptRequest(key="job 7", epoch=0)))
            for _ in range(5)
        ],
    )

    assert {1} == {answer.attempt for answer in answers}
    assert [False] == [answer.replayed for answer in answers if not answer.replayed]


def test_ranks_that_report_to_different_replicas_get_one_rate(replicas: list[Process]):
    """
    F10, invariant 9: four ranks, every report to a replica by chance, some twice.
    """
    rng = random.Random(7)
    world, epochs = 4, 8
    policy = {"schedule": TRAINED, "aggregate": {"ranks": "all", "reduce": "mean"}}
    replicas[0].put("run", policy, world_size=world)
    losses = {(epoch, rank): rng.choice([1.0, 0.9, 0.5]) for epoch in range(epochs) for rank in range(world)}

    async def rank_reports(process: Process, epoch: int, rank: int) -> Any:
        given = Report(epoch=epoch, rank=rank, metrics={"val_loss": losses[epoch, rank]})
        return await patiently(lambda: reports.report(process.writer, "run", given))

    for epoch in range(epochs):
        chosen = [(rng.choice(replicas), rank) for rank in [*range(world), rng.randrange(world)]]
        at_once(
            replicas,
            lambda process, chosen=chosen, epoch=epoch: [
                rank_reports(process, epoch, rank) for where, rank in chosen if where is process
            ],
        )
        again = [replicas[rank % 3].ask(rank_reports(replicas[rank % 3], epoch, rank)) for rank in range(world)]
        assert 1 == len({(answer.seq, answer.learning_rate) for answer in again})

    assert replicas[0].replayed("run") == replicas[0].stored_run("run")
    assert epochs == sum(1 for event in replicas[0].events("run") if event.kind == "report" and event.decision)


def test_a_trainer_that_changes_replicas_has_the_curve_of_one_that_does_not(replicas: list[Process]):
    """
    A head kept in a process's memory between transactions would be old here.
    """
    rng = random.Random(11)
    losses = [rng.choice([1.0, 0.9, 0.5]) for _ in range(40)]
    for key in ("steady", "wandering"):
        replicas[0].put(key, TRAINED)
    steady = replicas[0].train("steady", losses)
    wandering = [
        rng.choice(replicas).report("wandering", epoch, loss).learning_rate for epoch, loss in enumerate(losses)
    ]

    assert steady == wandering


async def report(process: Process, key: str, epoch: int, rank: int = 0) -> Any:
    return await reports.report(process.writer, key, Report(epoch=epoch, metrics={"val_loss": 0.5}, rank=rank))


async def timed(question: Any) -> tuple[float, Any]:
    """When the answer came, or the refusal, and which."""
    (answer,) = await asyncio.gather(question, return_exceptions=True)
    return time.monotonic(), answer


def at_once(replicas: list[Process], questions: Callable[[Process], list[Any]]) -> list[Any]:
    """The answers of all replicas to their questions, each asked from a thread of its own, all at the same time."""
    answers: list[Any] = []
    gate = threading.Barrier(len(replicas))

    def ask(process: Process) -> None:
        asked = questions(process)
        gate.wait()
        answers.extend(process.ask_all(*asked))

    threads = [threading.Thread(target=ask, args=(process,)) for process in replicas]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


@contextmanager
def held(process: Process, key: str) -> Iterator[Callable[[], None]]:
    """Another client holds the lock of the run until the block ends, or the function is called."""
    with psycopg.connect(plain(process.url)) as other:
        other.execute("SELECT * FROM runs WHERE key = %s FOR UPDATE", [key])
        try:
            yield other.rollback
        finally:
            other.rollback()


@contextmanager
def closed_database(process: Process) -> Iterator[None]:
    """The database takes no connections, and has none."""
    name = sql.Identifier(process.url.rpartition("/")[2])
    administrate(process, sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS false").format(name))
    kill_all(process)
    try:
        yield
    finally:
        administrate(process, sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS true").format(name))


def kill_all(process: Process) -> None:
    """End every connection to the database, as a restart of the server does."""
    kill = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = %s"
    administrate(process, kill, process.url.rpartition("/")[2])


def administrate(process: Process, statement: Any, *values: Any) -> None:
    server = plain(process.url).rpartition("/")[0]
    with psycopg.connect(f"{server}/postgres", autocommit=True) as connection:
        connection.execute(statement, values or None)


def plain(url: str) -> str:
    return url.replace("postgresql+psycopg", "postgresql")


def test_a_report_is_answered_while_a_message_of_another_runs_transaction_is_delayed(
    postgres_url: str, start_process: Callable[..., Process]
):
    delayed, arrived = threading.Event(), threading.Event()

    async def delay_one_commit(link: Link) -> None:
        async def watched(chunk: bytes) -> bytes:
            if armed.is_set() and not delayed.is_set() and b"COMMIT\x00" in chunk:
                delayed.set()
                await asyncio.sleep(2.0)
                arrived.set()
            return chunk

        await passing(link, watched)

    armed = threading.Event()
    with Proxy(address(postgres_url), delay_one_commit) as proxy:
        url = through(postgres_url, proxy.address)
        service = start_process(url, threads=open_database(url).write_connections)
        for key in ("slow", "other"):
            service.put(key)
        armed.set()

        async def ask() -> tuple[Any, Any, bool]:
            slow = asyncio.create_task(reports.report(service.writer, "slow", Report(epoch=0, metrics={"val_loss": 1})))
            assert await asyncio.to_thread(delayed.wait, 60)
            other = await reports.report(service.writer, "other", Report(epoch=0, metrics={"val_loss": 1}))
            was_delayed = not arrived.is_set()
            return await slow, other, was_delayed

        slow, other, was_delayed = service.ask(ask())
        service.close()

    assert was_delayed
    assert (1, 1) == (slow.epoch, other.epoch)
