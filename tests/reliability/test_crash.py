"""After a kill of any process at any time, acknowledged reports are stored and counted once, and the service recovers.

`failures.md` protocols a1 and a7. Every trainer retries the same bytes, sends some things twice and some much
later, and compares each rate with an oracle of its own by `==`.
"""

import random
import time
from collections.abc import Callable

import pytest

from faults.databases import Server, integrity
from faults.service import Service
from faults.trainers import Fleet

TRAINERS = 16
# The time from the service being ready to the next kill.
ALIVE_S = (0.3, 1.2)


@pytest.mark.timeout(1200)
def test_a_service_killed_under_load_has_lost_nothing_and_counted_nothing_twice(
    database_url: str, start_service: Callable[..., Service], long: bool, tell: Callable[[str], None]
):
    """
    Protocol a1. A report that was stored but not yet answered when the service died is sent again by its
    trainer: counting it twice would bend every rate behind it, for the policy never saturates.
    """
    service = start_service(database_url)
    chance = random.Random(1)
    restarts = []
    with Fleet([service.url], trainers=TRAINERS, seed=1, least=150 if long else 20) as fleet:
        for _ in range(25 if long else 5):
            time.sleep(chance.uniform(*ALIVE_S))
            service.kill()
            restarts.append(service.start())
            fleet.reach(1)
        fleet.reach(10)

    with service.client() as http:
        faults = fleet.check(http)
    assert 0 == service.stop()
    tell(
        f"{len(restarts)} kills, {fleet.acknowledged} reports acknowledged, {fleet.duplicates} sent again later, "
        f"{len(faults)} faults, back after {sorted(restarts)[len(restarts) // 2]:.2f} s "
        f"(at worst {max(restarts):.2f} s); seen {dict(fleet.seen)}"
    )

    assert [] == faults
    assert "ok" == integrity(database_url)
    assert {"500"}.isdisjoint(fleet.seen)


@pytest.mark.timeout(1200)
def test_a_postgresql_killed_under_load_has_lost_nothing_and_the_service_finds_it_again(
    breakable_postgres: Server,
    breakable_url: str,
    start_service: Callable[..., Service],
    long: bool,
    tell: Callable[[str], None],
):
    """
    The service is not restarted: it answers 503 with Retry-After until its database is available.
    """
    service = start_service(breakable_url)
    chance = random.Random(2)
    kills = 20 if long else 3
    with Fleet([service.url], trainers=TRAINERS, seed=2, least=20) as fleet:
        for _ in range(kills):
            time.sleep(chance.uniform(*ALIVE_S))
            breakable_postgres.kill()
            time.sleep(chance.uniform(0, 0.5))
            breakable_postgres.start()
        fleet.go_on(5)

    with service.client() as http:
        faults = fleet.check(http)
    tell(f"{kills} kills of PostgreSQL, {fleet.summary(faults)}")

    assert [] == faults
    assert "ok" == integrity(breakable_url)
    assert fleet.seen.keys() <= {"200", "201", "503"}


def test_a_service_killed_while_it_makes_its_tables_starts_all_the_same(
    empty_sqlite_url: str, start_service: Callable[..., Service], long: bool, tell: Callable[[str], None]
):
    """
    Protocol a7: a kill at any moment of the first start leaves a file that the next start can use.
    """
    service = start_service(empty_sqlite_url, begin_only=True)
    chance = random.Random(3)
    kills = 10 if long else 4
    for _ in range(kills):
        time.sleep(chance.uniform(0.2, 1.2))
        service.kill()
        service.begin()
    service.await_ready()

    with Fleet([service.url], trainers=2, seed=3, least=5) as fleet:
        fleet.reach(5)
    tell(f"killed {kills} times between 0.2 and 1.2 s after it was begun")
    with service.client() as http:
        faults = fleet.check(http)

    assert [] == faults
    assert "ok" == integrity(empty_sqlite_url)
