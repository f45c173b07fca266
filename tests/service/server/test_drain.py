"""Shutdown by SIGTERM: accepted requests are answered, and a load balancer sees no error."""

import signal
import socket
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from support.fixtures.balancer import Balancer, Trainer, create_runs

# Settings and docs/operations.md: a shutdown takes at most REMOTELR_DRAIN_S + REMOTELR_SHUTDOWN_TIMEOUT_S.
SHUTDOWN_TIMEOUT_S = 10.0

# Added by a loaded machine.
BUSY_S = 20.0


def await_answers(trainers: list[Trainer], count: int) -> None:
    """Wait until the trainers have `count` answers in total."""
    while sum(each.epoch for each in trainers) < count:
        assert all(each.is_alive() for each in trainers)
        time.sleep(0.01)


def await_waiting(url: str, count: int) -> None:
    """Wait until `count` requests wait for a decision."""
    while (
        f"remotelr_http_requests_waiting {count}.0\n"
        not in httpx.get(f"{url}/metrics", timeout=60, trust_env=False).text
    ):
        time.sleep(0.05)


def stored_epochs(url: str, trainers: list[Trainer]) -> list[int]:
    with httpx.Client(base_url=url, timeout=60, trust_env=False) as http:
        return [http.get(f"/v1/runs/{each.run_key}").json()["epoch"] for each in trainers]


def test_a_shutdown_under_load_loses_no_accepted_request(database_url, start_service):
    """A refused connection was not accepted. A request that was sent and not answered is lost."""
    # Time for clients on a loaded machine to close their connections.
    service = start_service(database_url, REMOTELR_LOG_LEVEL="warning", ABORT_AFTER_S="20")
    service.wait_ready()
    ending = threading.Event()
    with Balancer([service.url]) as balancer:
        trainers = [Trainer(f"run-{number}", balancer, ending) for number in range(32)]
        create_runs(service.url, [each.run_key for each in trainers])
        for each in trainers:
            each.start()
        await_answers(trainers, 500)
        balancer.stop_looking()  # the hard case: the balancer does not notice the shutdown
        took_s = service.end()
        ending.set()
        for each in trainers:
            each.join()
    seen = sum((each.seen for each in trainers), Counter())
    print(f"ended after {took_s:.2f} s: {dict(seen)}")
    again = start_service(database_url)
    again.wait_ready()

    assert (0, 0) == (service.process.returncode, seen["lost"])
    assert set(seen) <= {"200", "refused"}
    assert [each.epoch for each in trainers] == stored_epochs(again.url, trainers)
    assert took_s < SHUTDOWN_TIMEOUT_S + BUSY_S


def test_a_balancer_that_checks_readyz_hides_the_shutdown_of_a_replica(postgres_url, start_service):
    replicas = [start_service(postgres_url, REMOTELR_DRAIN_S="10", REMOTELR_LOG_LEVEL="warning") for _ in range(2)]
    for each in replicas:
        each.wait_ready()
    ending = threading.Event()
    with Balancer([each.url for each in replicas]) as balancer:
        trainers = [Trainer(f"run-{number}", balancer, ending) for number in range(32)]
        create_runs(replicas[0].url, [each.run_key for each in trainers])
        for each in trainers:
            each.start()
        await_answers(trainers, 500)
        took_s = replicas[0].end()
        await_answers(trainers, sum(each.epoch for each in trainers) + 500)
        ending.set()
        for each in trainers:
            each.join()
    seen = sum((each.seen for each in trainers), Counter())
    print(f"ended after {took_s:.2f} s, longest answer {max(each.longest_s for each in trainers):.2f} s: {dict(seen)}")

    assert {"200"} == set(seen)
    assert [each.epoch for each in trainers] == stored_epochs(replicas[1].url, trainers)
    assert 10.0 <= took_s < 10.0 + SHUTDOWN_TIMEOUT_S + BUSY_S
    assert 0 == replicas[0].process.returncode


def test_long_polls_are_answered_at_shutdown(database_url, start_service):
    service = start_service(database_url, REMOTELR_SHUTDOWN_TIMEOUT_S="45")
    service.wait_ready()
    create_runs(service.url, ["quiet"])
    with ThreadPoolExecutor(20) as pool:
        polls = [
            pool.submit(httpx.get, f"{service.url}/v1/runs/quiet/decision?after=1&wait=50", timeout=60, trust_env=False)
            for _ in range(20)
        ]
        await_waiting(service.url, 20)
        took_s = service.end()
        answers = [each.result() for each in polls]

    assert {(200, 1)} == {(each.status_code, each.json()["seq"]) for each in answers}
    assert {"close"} == {each.headers["connection"] for each in answers}
    assert took_s < BUSY_S


def test_a_stuck_client_delays_the_shutdown_by_its_timeout_only(sqlite_url, start_service):
    service = start_service(sqlite_url, REMOTELR_SHUTDOWN_TIMEOUT_S="1", REMOTELR_BODY_TIMEOUT_S="60")
    service.wait_ready()
    host, port = service.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as stuck:
        stuck.sendall(
            b"POST /v1/policies/preview HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
            b"content-length: 10\r\n\r\n{"
        )
        time.sleep(0.3)
        took_s = service.end()

    assert took_s < 1.0 + BUSY_S


@pytest.mark.parametrize("by", [signal.SIGTERM, signal.SIGINT])
def test_an_idle_service_shuts_down_at_once(sqlite_url, start_service, by):
    service = start_service(sqlite_url, REMOTELR_SHUTDOWN_TIMEOUT_S="45")
    service.wait_ready()
    took_s = service.end(by)

    assert (0, True) == (service.process.returncode, took_s < BUSY_S), took_s
