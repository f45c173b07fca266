"""What stands around a service: a pooler that hands its connection to others, and clocks that are wrong."""

import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from sqlalchemy import make_url

from faults.databases import query
from faults.oracle import INITIAL, POLICY
from faults.service import Service
from faults.tools import tool
from faults.trainers import Fleet
from support.ports import free_port

OTHERS = "FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"


@pytest.mark.timeout(300)
def test_replicas_behind_pgbouncer_in_transaction_mode_lose_nothing(
    postgres_url: str, start_service: Callable[..., Service], long: bool, tell: Callable[[str], None]
):
    """
    Protocol b. Four connections for two replicas: a statement that was prepared, or a setting that was made, would
    meet those of another client. Now and then the server ends all four.
    """
    epochs, ends = (120, 4) if long else (25, 2)
    with pgbouncer(postgres_url) as url:
        services = [start_service(url) for _ in range(2)]
        with Fleet([each.url for each in services], trainers=16, seed=9) as fleet:
            for end in range(1, ends + 1):
                fleet.reach(epochs * end // (ends + 1))
                ended = query(postgres_url, f"SELECT count(pg_terminate_backend(pid)) {OTHERS}")
                assert ended[0][0] in range(1, 5)
            fleet.reach(epochs)
        with services[0].client() as http:
            faults = fleet.check(http)
        codes = [service.stop() for service in services]
    tell(f"{fleet.acknowledged} reports, {ends} times without a connection, {len(faults)} faults; {dict(fleet.seen)}")

    assert [] == faults
    assert fleet.seen.keys() <= {"200", "201", "503"}
    assert [0, 0] == codes


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("database", "replicas"), [("sqlite_url", 1), ("postgres_url", 2)])
def test_clocks_that_are_a_month_wrong_and_jump_change_no_rate(
    *,
    database: str,
    replicas: int,
    request: pytest.FixtureRequest,
    start_service: Callable[..., Service],
    long: bool,
    tmp_path: Path,
    tell: Callable[[str], None],
):
    """
    F19. Two replicas disagree by two months, and then the other way round.
    """
    epochs = 30 if long else 8
    clocks = [WrongClock(tmp_path / f"clock-{number}") for number in range(replicas)]
    services = [start_service(request.getfixturevalue(database), environment=clock.environment) for clock in clocks]
    with Fleet([each.url for each in services], trainers=8, seed=12) as fleet:
        for days in (-30, 30, 0):
            for clock, sign in zip(clocks, (1, -1), strict=False):
                clock.turn(sign * days)
            fleet.go_on(epochs)
            off = [days_off(service) for service in services]
            assert off == [sign * days for _, sign in zip(services, (1, -1), strict=False)]
    with services[0].client() as http:
        faults = fleet.check(http)
    tell(f"{fleet.acknowledged} reports while {replicas} clocks jumped by 60 days, {len(faults)} faults")

    assert [] == faults
    # 503: a replica holds the run for longer than the other waits for it, as on a machine that does much else.
    assert fleet.seen.keys() <= {"200", "201", "503"}


def test_ranks_wait_no_longer_than_their_timeout_if_the_clock_steps_back(
    sqlite_url: str, start_service: Callable[..., Service], tmp_path: Path, tell: Callable[[str], None]
):
    """
    F11. SQLite's clock is the clock of the service's process.
    """
    clock = WrongClock(tmp_path / "clock")
    service = start_service(sqlite_url, environment=clock.environment)
    policy = {"schedule": POLICY, "aggregate": {"ranks": "all", "timeout_s": 3}}
    run = {"policy": policy, "initial_learning_rate": INITIAL, "world_size": 2}
    with service.client() as http:
        http.put("/v1/runs/a", json=run).raise_for_status()
        began = time.monotonic()
        report = {"epoch": 0, "rank": 1, "metrics": {"val_loss": 1.0}}
        first = http.post("/v1/runs/a/reports", params={"wait": 0}, json=report)
        time.sleep(1)
        clock.turn(-1)
        while (answer := http.post("/v1/runs/a/reports", params={"wait": 1}, json=report)).status_code == 202:
            assert time.monotonic() - began < 60, "the rank waits for the day that the clock lost"
    took_s = time.monotonic() - began
    tell(f"decided {took_s:.1f} s after the report, with a timeout of 3 s")

    assert (202, 200) == (first.status_code, answer.status_code)
    assert 3 <= took_s < 60


class WrongClock:
    """The clock of one process. Time goes on at its pace in it, and so do its timers."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.turn(0)
        self.environment = {
            "LD_PRELOAD": str(tool("lib/*/faketime/libfaketimeMT.so.1", "faketime")),
            "FAKETIME_TIMESTAMP_FILE": str(file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }

    def turn(self, days: int) -> None:
        """So many days from now, from now on."""
        new = self._file.with_suffix(".new")
        new.write_text(f"{days * 86_400:+d}\n")
        new.replace(self._file)


def days_off(service: Service) -> int:
    """How many days the clock of the service is away from ours."""
    with service.client() as http:
        service_time = parsedate_to_datetime(http.get("/livez").headers["date"])
    return round((service_time - datetime.now(UTC)).total_seconds() / 86_400)


@contextmanager
def pgbouncer(postgres_url: str) -> Iterator[str]:
    """The URL of the database behind a PgBouncer of its own, in transaction mode, with four connections."""
    program = tool("sbin/pgbouncer", "pgbouncer")
    behind, port = make_url(postgres_url), free_port()
    with TemporaryDirectory(prefix="remotelr-pgbouncer-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        (folder / "users.txt").write_text(f'"{behind.username}" "{behind.password}"\n')
        (folder / "pgbouncer.ini").write_text(
            f"[databases]\n{behind.database} = host={behind.host} port={behind.port}\n"
            f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n"
            f"auth_type = plain\nauth_file = {folder / 'users.txt'}\n"
            f"pool_mode = transaction\ndefault_pool_size = 4\nmax_client_conn = 200\n"
        )
        folder.chmod(0o755)
        # It refuses to run as root.
        account = "nobody" if os.geteuid() == 0 else None
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen([program, folder / "pgbouncer.ini"], user=account, stdout=log, stderr=log)
        try:
            while not listens(port):
                assert process.poll() is None, (folder / "log").read_text()
                time.sleep(0.02)
            yield behind.set(host="127.0.0.1", port=port).render_as_string(hide_password=False)
        finally:
            process.kill()
            process.wait()


def listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True
