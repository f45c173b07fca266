"""Several processes: any number on PostgreSQL, one on SQLite."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import suppress

import httpx
import psutil

from support.fixtures.balancer import Balancer, Trainer, create_runs
from support.ports import free_port


def test_uvicorn_replaces_a_killed_worker_and_no_report_is_lost(postgres_url, tmp_path):
    """The kernel spreads connections over the workers; a trainer of a killed worker retries."""
    url = f"http://127.0.0.1:{free_port()}"
    command = [sys.executable, "-m", "uvicorn", "--factory", "remotelr_service.serving:from_environment"]
    # By default uvicorn kills a worker that fails its health check for five seconds.
    command += ["--workers", "2", "--timeout-worker-healthcheck", "60", "--port", url.rpartition(":")[2]]
    environment = {**os.environ, "REMOTELR_DATABASE_URL": postgres_url, "REMOTELR_LOG_LEVEL": "warning"}
    log = (tmp_path / "uvicorn.log").open("w")
    supervisor = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    ending = threading.Event()
    try:
        with Balancer([url]) as balancer:
            trainers = [Trainer(f"run-{number}", balancer, ending) for number in range(16)]
            create_runs(url, [each.run_key for each in trainers])
            for each in trainers:
                each.start()
            before = await_workers(supervisor.pid, 2)
            while sum(each.epoch for each in trainers) < 500:
                time.sleep(0.05)
            busiest = max(before, key=connections)
            busiest.kill()
            again = await_workers(supervisor.pid, 2, but=busiest)
            ending.set()
            for each in trainers:
                each.join()
            stored = [epoch_of(url, each.run_key) for each in trainers]
    finally:
        supervisor.send_signal(signal.SIGTERM)
        returncode = supervisor.wait(60)
        log.close()
    seen = sum((each.seen for each in trainers), Counter())
    print(dict(seen))

    assert (2, 2) == (len(before), len(again))
    assert set(seen) <= {"200", "lost", "refused", "503"}
    assert [each.epoch for each in trainers] == stored
    assert returncode in (0, -signal.SIGTERM)


def test_a_second_process_on_a_sqlite_file_is_refused_in_one_line(sqlite_url, start_service):
    first = start_service(sqlite_url)
    first.wait_ready()
    second = start_service(sqlite_url)
    second.process.wait(90)

    output = second.log.read_text()
    assert 1 == second.process.returncode
    assert output.startswith(f"remotelr: another service process ({first.process.pid}) uses ")
    assert output.rstrip().endswith("stop it, or use PostgreSQL for several processes")


def epoch_of(url: str, run: str) -> int:
    epoch: int = httpx.get(f"{url}/v1/runs/{run}", timeout=60, trust_env=False).json()["epoch"]
    return epoch


def workers(supervisor: int) -> list[psutil.Process]:
    found = []
    for each in psutil.Process(supervisor).children():
        # The process may end during the check.
        with suppress(psutil.NoSuchProcess):
            if each.status() != psutil.STATUS_ZOMBIE and "spawn_main" in " ".join(each.cmdline()):
                found.append(each)
    return found


def await_workers(supervisor: int, count: int, *, but: psutil.Process | None = None) -> list[psutil.Process]:
    """Wait until `count` workers run, without `but`; uvicorn checks them every few seconds."""
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        found = [each for each in workers(supervisor) if each != but]
        if len(found) >= count:
            return found
        time.sleep(0.1)
    raise AssertionError(f"{count} workers did not start")


def connections(process: psutil.Process) -> int:
    return sum(each.status == psutil.CONN_ESTABLISHED for each in process.net_connections())
