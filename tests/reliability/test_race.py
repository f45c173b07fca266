"""Several service processes on one PostgreSQL: one decision for each point, for every order of requests.

`failures.md` protocol b. The way to the database has a heavy tail: without it a missing lock shows in no race.
"""

import asyncio
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from faults.databases import address, query, through
from faults.oracle import INITIAL, POLICY
from faults.proxy import Behaviour, Freeze, HeavyTail, Proxy, plain
from faults.ranks import Job, race
from faults.service import Service
from faults.trainers import pages
from support.fixtures.databases import _database

# Only the database frees a run, after five seconds; on a busy machine it may take longer.
FREED_S = 60.0


@dataclass(frozen=True)
class Cluster:
    """Replicas on one database, each with a way of its own to it that may be made to misbehave."""

    url: str
    replicas: list[Service]
    ways: list[Proxy]

    @property
    def urls(self) -> list[str]:
        return [replica.url for replica in self.replicas]

    @contextmanager
    def ways_turned(self, behaviour: Callable[[int], Behaviour]) -> Iterator[Counter[str]]:
        """Each way behaves like this for a while. Gives what happened on all of them, when it is over."""
        happened: Counter[str] = Counter()
        for number, way in enumerate(self.ways):
            way.turn(behaviour(number))
        try:
            yield happened
        finally:
            for way in self.ways:
                happened.update(way.happened)
                way.happened.clear()
                way.turn(plain)


@pytest.fixture(scope="module")
def cluster(
    postgres_server: str, postgres_template: str, tmp_path_factory: pytest.TempPathFactory, long: bool
) -> Iterator[Cluster]:
    """Three replicas (four in the long form) that all tests of this file share: use a run key of your own."""
    folder = tmp_path_factory.mktemp("cluster")
    for url in _database(postgres_server, template=postgres_template):
        with ExitStack() as opened:
            ways = [opened.enter_context(Proxy(address(url))) for _ in range(4 if long else 3)]
            replicas = [
                Service(through(url, way.address), folder, name=f"replica-{number}") for number, way in enumerate(ways)
            ]
            for replica in replicas:
                opened.callback(replica.kill)
                replica.begin()
            for replica in replicas:
                replica.await_ready()
            yield Cluster(url, replicas, ways)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("ranks", [4, 32])
def test_every_rank_gets_the_same_rate_from_every_replica_despite_delays_retries_and_pauses(
    cluster: Cluster, ranks: int, long: bool, tell: Callable[[str], None]
):
    """
    Some ranks decide alone (rank 0), some runs wait for all; half of the runs are taken over by another attempt,
    while the old one goes on posting.
    """
    # One process commits through one connection, so a stall holds up all its runs: the tail is shorter than the
    # protocol's two seconds, and still hundreds of times what a transaction takes.
    epochs, runs, late_s = (20, 8, 1.0) if long else (5, 4, 0.5)
    if ranks == 32:
        # Each epoch of a run is eight times as many reports. The long form is a storm: 128 ranks, each more impatient
        # than a message is late, that do little but ask again. Every one of them is answered all the same.
        epochs, runs, late_s = (8, 4, 1.0) if long else (2, 2, 0.5)
    jobs = [
        Job(f"race-{ranks}-{number}", seed=number, ranks=ranks, epochs=epochs, aggregate=("rank0", "all")[number % 2])
        for number in range(runs)
    ]
    with cluster.ways_turned(lambda number: HeavyTail(delay_s=late_s, chance=random.Random(number))) as happened:
        began = time.monotonic()
        with _now_and_then_paused(cluster.replicas):
            race(cluster.urls, jobs, timeout_s=0.5, preempt=lambda number: epochs // 2 if number % 4 < 2 else None)
        took = time.monotonic() - began
    faults = [fault for job in jobs for fault in job.check()]
    with cluster.replicas[0].client() as http:
        faults += [fault for job in jobs for fault in _log_faults(job, http)]
    seen = sum((job.seen for job in jobs), Counter())
    reports = sum(job.reports for job in jobs)
    tell(
        f"{len(cluster.replicas)} replicas, {len(jobs)} runs of {ranks} ranks, {reports} reports in {took:.1f} s, "
        f"{happened['delayed']} messages to the database {late_s:g} s late, slowest decision "
        f"{max(job.slowest_s for job in jobs):.1f} s, {len(faults)} faults; seen {dict(seen)}"
    )

    assert [] == faults
    assert happened["delayed"] > 5
    assert seen["zombie refused"] > 5
    assert {"500"}.isdisjoint(seen)


def test_thirty_two_creations_at_once_make_one_run_and_sixteen_resumes_sixteen_attempts(cluster: Cluster):
    """
    Protocols b2 and b3. Of the attempts only the newest is live.
    """
    urls = [f"{url}/v1/runs/at-once" for url in cluster.urls]
    spec = {"policy": POLICY, "initial_learning_rate": INITIAL}
    created = asyncio.run(_at_once([("PUT", urls[n % len(urls)], spec) for n in range(32)]))
    begun = asyncio.run(
        _at_once([("POST", f"{urls[n % len(urls)]}/attempts", {"key": f"attempt-{n}", "epoch": 0}) for n in range(16)])
    )
    numbers = [answer.json()["attempt"] for answer in begun]
    report = {"epoch": 0, "metrics": {"val_loss": 1.0}}
    answers = asyncio.run(
        _at_once([("POST", f"{urls[n % len(urls)]}/reports", {**report, "attempt": n}) for n in numbers])
    )

    # The one that created it may have been answered late, with 503, and 200 when it asked again.
    assert {answer.status_code for answer in created} <= {200, 201}
    assert [answer.status_code for answer in created].count(201) <= 1
    assert [(1,)] == query(cluster.url, "SELECT count(*) FROM runs WHERE key = 'at-once'")
    assert 1 == len({answer.json()["created_at"] for answer in created})
    assert list(range(1, 17)) == sorted(numbers)
    assert {16: 200} | dict.fromkeys(range(1, 16), 409) == {
        number: answer.status_code for number, answer in zip(numbers, answers, strict=True)
    }


def test_sixty_four_ranks_that_report_at_once_to_all_replicas_make_one_decision(cluster: Cluster):
    """
    Protocol b5.
    """
    job = Job("sixty-four", seed=1, ranks=64, epochs=1, aggregate="all")
    race(cluster.urls, [job], timeout_s=10, preempt=lambda _: None)
    of_run = "FROM events JOIN runs ON id = run_id WHERE runs.key = 'sixty-four' AND kind = 'report'"
    reported = query(cluster.url, f"SELECT count(*), count(events.learning_rate) {of_run}")

    assert [] == job.check()
    assert [(64, 1)] == reported


def test_a_replica_that_freezes_while_it_holds_a_run_frees_it_for_the_others(
    cluster: Cluster, tell: Callable[[str], None]
):
    """
    F18: the database ends its transaction after five seconds, and nothing of it is stored. The replica stays frozen:
    one whose connection alone was slow would be back at once, and take the run again before the others.
    """
    body = {"epoch": 0, "metrics": {"val_loss": 1.0}}
    other, frozen, way = cluster.replicas[0], cluster.replicas[1], cluster.ways[1]
    with other.client() as http, frozen.client() as to_frozen, ThreadPoolExecutor(1) as aside:
        http.put("/v1/runs/frozen", json={"policy": POLICY, "initial_learning_rate": INITIAL}).raise_for_status()
        way.turn(Freeze(b"INSERT INTO events"))
        asked = aside.submit(to_frozen.post, "/v1/runs/frozen/reports", json=body)
        while not way.happened["frozen"]:
            if asked.done():
                # The machine was too slow to come so far in time.
                assert 503 == asked.result().status_code, asked.result().text
                asked = aside.submit(to_frozen.post, "/v1/runs/frozen/reports", json=body)
            time.sleep(0.01)
        began = time.monotonic()
        seen: Counter[int] = Counter()
        while (answer := http.post("/v1/runs/frozen/reports", json=body)).status_code != 200:
            seen[answer.status_code] += 1
            assert time.monotonic() - began < FREED_S, f"after {FREED_S:g} s the run is not free: {answer.text}"
            time.sleep(0.1)
        freed_s = time.monotonic() - began
        frozen_answer = asked.result()
        way.turn(plain)
        recovered_s = frozen.await_says("/readyz", 200)
    tell(
        f"the run was free again after {freed_s:.1f} s, meanwhile {dict(seen)}; "
        f"the replica was well again after {recovered_s:.1f} s"
    )

    assert set(seen) <= {503}
    assert 503 == frozen_answer.status_code
    reports = "SELECT count(*) FROM events JOIN runs ON id = run_id WHERE runs.key = 'frozen' AND kind = 'report'"
    assert INITIAL == answer.json()["learning_rate"]
    assert [(1,)] == query(cluster.url, reports)


@contextmanager
def _now_and_then_paused(replicas: list[Service]) -> Iterator[None]:
    """One replica or another stands still for a while, all the time."""
    stop = threading.Event()
    chance = random.Random(5)

    def pause() -> None:
        while not stop.wait(chance.uniform(0.5, 1.5)):
            replica = chance.choice(replicas)
            replica.pause()
            stop.wait(chance.uniform(0.2, 1.5))
            replica.resume()

    thread = threading.Thread(target=pause, name="pauses")
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


async def _at_once(requests: list[tuple[str, str, dict[str, Any]]]) -> list[httpx.Response]:
    """The answers to requests sent at once, each again while the service says that it cannot now."""

    async def send(http: httpx.AsyncClient, method: str, url: str, body: dict[str, Any]) -> httpx.Response:
        for _ in range(100):
            answer = await http.request(method, url, json=body)
            if answer.status_code != 503:
                return answer
            await asyncio.sleep(0.05)
        raise AssertionError(f"{method} {url} is refused all the time: {answer.text}")

    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(timeout=60, limits=limits, trust_env=False) as http:
        return list(await asyncio.gather(*(send(http, *request) for request in requests)))


def _log_faults(job: Job, http: httpx.Client) -> list[str]:
    """What is wrong in the stored log: points decided twice, numbers missing, rows of attempts taken over."""
    events = pages(http, f"/v1/runs/{job.key}/events", "events")
    decided = [
        event["epoch"]
        for event in events
        if event["kind"] == "report" and event["decision"] and event["superseded_by"] is None
    ]
    faults = []
    if decided != list(range(job.epochs)):
        faults.append(f"{job.key}: the epochs decided are {decided}")
    if [event["seq"] for event in events] != list(range(1, len(events) + 1)):
        faults.append(f"{job.key}: numbers are missing in the log")
    attempts = [event["attempt"] for event in events]
    if attempts != sorted(attempts):
        faults.append(f"{job.key}: an older attempt wrote after a newer one: {attempts}")
    return faults
