"""While the database is unavailable, every request gets 503 at once; afterwards nothing has to be repaired.

`failures.md` F13 and F15, protocols a2 and a5.
"""

import random
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from faults.databases import Server, address, integrity, query, through
from faults.oracle import INITIAL, POLICY
from faults.proxy import CutCommit, Proxy, plain
from faults.service import Service
from faults.trainers import Fleet

MIB = 1024 * 1024
# The service needs at most 3 s; a hanging request would end with its client, after 30 s.
ANSWERED_S = 25.0


@pytest.mark.timeout(300)
@pytest.mark.parametrize("forward", [True, False], ids=["after it was carried out", "before it arrived"])
def test_a_commit_whose_reply_is_lost_counts_once(
    forward: bool, postgres_url: str, start_service: Callable[..., Service], long: bool, tell: Callable[[str], None]
):
    """
    Protocol a2. The writer does not know whether the report was stored; it retries, and the key of the report decides.
    """
    with Proxy(address(postgres_url), CutCommit(0.05, forward=forward, chance=random.Random(6))) as cutting:
        service = start_service(through(postgres_url, cutting.address))
        with Fleet([service.url], trainers=8, seed=6, least=200 if long else 40) as fleet:
            # On a busy machine more reports share a commit.
            while cutting.happened["commit cut"] <= 3:
                fleet.reach(min(len(trainer.answers) for trainer in fleet.trainers) + 1)
        cutting.turn(plain)
        with service.client() as http:
            faults = fleet.check(http)
        service.stop()
    tell(
        f"{cutting.happened['commit cut']} commits cut, {fleet.acknowledged} reports, {len(faults)} faults; "
        f"seen {dict(fleet.seen)}"
    )

    assert [] == faults
    assert cutting.happened["commit cut"] > 3
    assert fleet.seen.keys() <= {"200", "201", "503"}


@pytest.mark.timeout(300)
def test_connections_ended_in_the_middle_of_transactions_lose_no_report(
    postgres_url: str, start_service: Callable[..., Service], long: bool, tell: Callable[[str], None]
):
    service = start_service(postgres_url)
    ended = 0
    with Fleet([service.url], trainers=8, seed=7, least=10) as fleet:
        tries = 0
        # A transaction takes milliseconds, so it takes some tries to hit one.
        while tries < (100 if long else 20) or ended <= 5:
            tries += 1
            ended += len(query(postgres_url, _END_TRANSACTIONS))
            time.sleep(0.05)
        fleet.reach(15)
    with service.client() as http:
        faults = fleet.check(http)
    tell(f"{ended} sessions ended, {fleet.summary(faults)}")

    assert [] == faults
    assert ended > 5
    assert fleet.seen.keys() <= {"200", "201", "503"}


def test_while_postgresql_is_unavailable_the_service_is_live_answers_503_and_is_not_ready(
    breakable_postgres: Server, breakable_url: str, start_service: Callable[..., Service], tell: Callable[[str], None]
):
    """
    F13: no request hangs, the process is not restarted, and retries afterwards succeed.
    """
    service = start_service(breakable_url)
    report = {"epoch": 0, "metrics": {"val_loss": 1.0}}
    with service.client() as http:
        http.put("/v1/runs/a", json={"policy": POLICY, "initial_learning_rate": INITIAL}).raise_for_status()
        breakable_postgres.kill()
        try:
            said = [_timed(http, "POST", "/v1/runs/a/reports", report) for _ in range(3)]
            said.append(_timed(http, "GET", "/v1/runs/a", None))
            alive, ready = service.says("/livez", 200), service.says("/readyz", 503)
        finally:
            breakable_postgres.start()
        began = time.monotonic()
        while (afterwards := http.post("/v1/runs/a/reports", json=report)).status_code == 503:
            assert time.monotonic() - began < 60
            time.sleep(0.05)
        service.await_says("/readyz", 200)
        back_s = time.monotonic() - began
        again = http.post("/v1/runs/a/reports", json=report)
    tell(f"slowest refusal {max(took for _, took in said):.2f} s; ready {back_s:.2f} s after the database")

    assert Counter({503: 4}) == Counter(answer.status_code for answer, _ in said)
    assert all(int(answer.headers["Retry-After"]) >= 1 for answer, _ in said)
    assert (True, True) == (alive, ready)
    assert max(took for _, took in said) < ANSWERED_S
    assert (200, True) == (afterwards.status_code, again.json()["replayed"])
    assert [(1,)] == query(breakable_url, "SELECT count(*) FROM events WHERE kind = 'report'")


@pytest.mark.timeout(300)
def test_a_postgresql_that_stands_still_is_away_and_goes_on_where_it_was(
    breakable_postgres: Server, breakable_url: str, start_service: Callable[..., Service], tell: Callable[[str], None]
):
    """
    Its connections are open and its machine accepts data, but it does not answer, and its own timeouts do not work.
    """
    service = start_service(breakable_url)
    with Fleet([service.url], trainers=8, seed=9, least=10) as fleet:
        fleet.reach(5)
        with breakable_postgres.standing_still():
            red_s = service.await_says("/readyz", 503)
            alive = service.says("/livez", 200)
            # Longer than every timeout of a request and of an idle transaction.
            time.sleep(8)
        green_s = service.await_says("/readyz", 200)
        fleet.go_on(3)
    with service.client() as http:
        faults = fleet.check(http)
    tell(f"red after {red_s:.1f} s, green {green_s:.1f} s after it went on, {fleet.summary(faults)}")

    assert [] == faults
    assert alive
    assert fleet.seen["503"] > 0
    assert fleet.seen.keys() <= {"200", "201", "503"}


@pytest.mark.timeout(300)
def test_a_full_disk_refuses_reports_and_loses_none(
    start_service: Callable[..., Service], tmp_path: Path, tell: Callable[[str], None]
):
    """
    Protocol a5, F15: reads succeed; when space is free again, writes succeed too.
    """
    with _small_disk(tmp_path) as disk:
        url = f"sqlite:///{disk.folder / 'remotelr.db'}"
        service = start_service(url)
        with Fleet([service.url], trainers=8, seed=8, least=10) as fleet:
            fleet.reach(5)
            disk.fill(service)
            red_s = service.await_says("/readyz", 503)
            stood = fleet.acknowledged
            alive, readable = service.says("/livez", 200), service.says("/v1/runs/run-8-0/history", 200)
            time.sleep(0.5)
            meanwhile = fleet.acknowledged - stood
            disk.free(service)
            green_s = service.await_says("/readyz", 200)
            fleet.go_on(3)
        with service.client() as http:
            faults = fleet.check(http)
        service.stop()
        found = integrity(url)
    tell(
        f"on {disk.kind}: red after {red_s:.1f} s, green {green_s:.1f} s after there was room, {fleet.acknowledged} "
        f"reports, {meanwhile} of them while it was full, {len(faults)} faults; seen {dict(fleet.seen)}"
    )

    assert [] == faults
    assert "ok" == found
    assert (True, True) == (alive, readable)
    assert fleet.seen["503"] > 0
    assert fleet.seen.keys() <= {"200", "201", "503"}


_END_TRANSACTIONS = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
    "WHERE application_name = 'remotelr' AND xact_start IS NOT NULL AND datname = current_database()"
)


def _timed(http: httpx.Client, method: str, path: str, body: object) -> tuple[httpx.Response, float]:
    began = time.monotonic()
    return http.request(method, path, json=body), time.monotonic() - began


class _Disk:
    """A file system of 6 MiB, filled by a file."""

    kind = "tmpfs"

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def fill(self, _: Service) -> None:
        with (self.folder / "filler").open("wb", buffering=0) as filler:
            try:
                while filler.write(bytes(4096)):
                    pass
            except OSError:
                return

    def free(self, _: Service) -> None:
        (self.folder / "filler").unlink()


class _Limit:
    """A limit on the file size of the process, for users without the right to mount."""

    kind = "a limited process"

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def fill(self, service: Service) -> None:
        longest = max(file.stat().st_size for file in self.folder.glob("remotelr.db*"))
        # The hard limit stays, or the soft limit could not be raised again.
        self._limit(service, f"{longest}:unlimited")

    def free(self, service: Service) -> None:
        self._limit(service, "unlimited:unlimited")

    def _limit(self, service: Service, size: str) -> None:
        assert service.process is not None
        subprocess.run(["prlimit", f"--fsize={size}", "--pid", str(service.process.pid)], check=True)


@contextmanager
def _small_disk(folder: Path) -> Iterator[_Disk | _Limit]:
    disk = folder / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={6 * MIB}", "tmpfs", str(disk)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        yield _Limit(disk)
        return
    try:
        yield _Disk(disk)
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)
