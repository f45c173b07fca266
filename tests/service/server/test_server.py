"""The HTTP server: start, shutdown, and limits on slow, invalid and large requests."""

import json
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import httpx
import pytest

from remotelr_service.db import migrate
from remotelr_service.db.schema_check import NEWEST_REVISION
from remotelr_service.server.uvicorn_server import MAX_HEAD_BYTES, MAX_HEADERS, MAX_TARGET_BYTES, CannotListen, listen
from support.fixtures.service import Service, ServiceProcess, serving

RUN = {"policy": {"type": "constant", "learning_rate": 0.1}}


class Trainers:
    """Trainers that report without pauses and record the acknowledged epochs."""

    def __init__(self, url: str, count: int) -> None:
        self.acknowledged: dict[str, int] = {}
        self.unexpected: list[str] = []
        self._url = url
        self._threads = [threading.Thread(target=self._train, args=(f"run-{number}",)) for number in range(count)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        for thread in self._threads:
            thread.join(60)

    def _train(self, key: str) -> None:
        with httpx.Client(base_url=self._url, timeout=60, trust_env=False) as http:
            try:
                http.put(f"/v1/runs/{key}", json=RUN)
                for epoch in range(100_000):
                    answer = http.post(f"/v1/runs/{key}/reports", json={"epoch": epoch, "metrics": {"loss": 1.0}})
                    if answer.status_code == 503:
                        return
                    if answer.status_code != 200:
                        self.unexpected.append(answer.text)
                        return
                    self.acknowledged[key] = epoch
            except httpx.TransportError:
                return


def pollers(url: str, count: int, pool: ThreadPoolExecutor) -> list[Any]:
    def poll() -> int:
        with httpx.Client(base_url=url, timeout=60, trust_env=False) as http:
            return http.get("/v1/runs/quiet/decision?after=1&wait=50").status_code

    return [pool.submit(poll) for _ in range(count)]


@pytest.mark.parametrize("by", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_under_load_loses_no_acknowledged_report(database_url, start_service, by):
    first: ServiceProcess = start_service(database_url, REMOTELR_SHUTDOWN_TIMEOUT_S="45")
    ready_s = first.wait_ready()
    httpx.put(f"{first.url}/v1/runs/quiet", json=RUN, timeout=60, trust_env=False)
    trainers = Trainers(first.url, 8)
    with ThreadPoolExecutor() as pool:
        polls = pollers(first.url, 4, pool)
        trainers.start()
        waiting = "remotelr_http_requests_waiting 4.0\n"
        while (
            len(trainers.acknowledged) < 8
            or waiting not in httpx.get(f"{first.url}/metrics", timeout=60, trust_env=False).text
        ):
            time.sleep(0.05)
        ended_s = first.end(by)
        trainers.join()
        statuses = {poll.result() for poll in polls}
    second: ServiceProcess = start_service(database_url)
    second.wait_ready()
    stored = {
        key: httpx.get(f"{second.url}/v1/runs/{key}", timeout=60, trust_env=False).json()["epoch"] - 1
        for key in trainers.acknowledged
    }
    print(f"ready after {ready_s:.2f} s, ended after {ended_s:.2f} s, {sum(stored.values())} reports")

    assert (0, {200}, []) == (first.process.returncode, statuses, trainers.unexpected)
    assert 8 == len(trainers.acknowledged)
    # One epoch may be stored and not acknowledged.
    assert all(stored[key] - epoch in (0, 1) for key, epoch in trainers.acknowledged.items())
    assert ended_s < 40, first.log.read_text()


def test_the_log_of_a_graceful_shutdown_has_no_warning(sqlite_url, start_service):
    service = start_service(sqlite_url, REMOTELR_LOG_FORMAT="json")
    service.wait_ready()
    httpx.put(f"{service.url}/v1/runs/a", json=RUN, timeout=60, trust_env=False)
    httpx.post(f"{service.url}/v1/runs/a/reports", json={"epoch": 0, "metrics": {}}, timeout=60, trust_env=False)
    service.end()

    started, decision, draining, stopped = (json.loads(line) for line in service.log.read_text().splitlines())
    assert ("decision", "info", "a", 1, 0.1, "schedule") == tuple(
        decision[name] for name in ("event", "level", "run", "epoch", "learning_rate", "reason")
    )
    assert "request_id" in decision
    assert [("started", "info"), ("draining", "info"), ("stopped", "info")] == [
        (line["event"], line["level"]) for line in (started, draining, stopped)
    ]


def test_a_draining_service_is_not_ready_and_still_serves(sqlite_url):
    with serving(sqlite_url, drain_s=60.0) as service:
        service.server.stop()
        deadline = time.monotonic() + 30
        while (ready := service.http.get("/readyz?verbose=true")).status_code == 200:
            assert time.monotonic() < deadline
        alive = service.http.get("/livez")
        put = service.http.put("/v1/runs/late", json=RUN)
        # Skip the rest of the drain.
        service.server._drain_s = 0.0

    assert (503, "not_ready", "stopping") == (
        ready.status_code,
        ready.json()["code"],
        ready.json()["checks"]["serving"],
    )
    assert "retry-after" in ready.headers
    assert (200, 201) == (alive.status_code, put.status_code)


def test_a_healthy_service_passes_every_readiness_check(service):
    ready = service.http.get("/readyz?verbose")

    assert {"database": "ok", "schema": "ok", "writes": "ok", "serving": "ok"} == ready.json()["checks"]
    assert (
        {"status": "ok"}
        == service.http.get("/readyz").json()
        == {"status": service.http.get("/livez").json()["status"]}
    )


def test_a_database_without_tables_is_not_ready(empty_sqlite_url):
    with serving(empty_sqlite_url) as service:
        ready = service.http.get("/readyz?verbose=true")
        report = service.http.post("/v1/runs/a/reports", json={"epoch": 0, "metrics": {}})

    assert (503, "cannot be reached") == (ready.status_code, ready.json()["checks"]["database"][4 + 9 : 4 + 9 + 17])
    assert (503, "application/problem+json") == (report.status_code, report.headers["content-type"])


def test_version_has_the_api_and_rules_versions(service):
    assert ("v1", 1) == tuple(service.http.get("/version").json()[name] for name in ("api", "rules_version"))


def raw(service: Service, sent: bytes, wait_s: float = 60.0) -> bytes:
    """The bytes received on one connection until it is closed."""
    host, port = service.url.removeprefix("http://").split(":")
    received = b""
    with socket.create_connection((host, int(port)), timeout=wait_s) as connection:
        connection.sendall(sent)
        while part := connection.recv(65536):
            received += part
    return received


CHUNKED = (
    b"POST /v1/policies/preview HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n"
    b"Content-Type: application/json\r\n\r\n"
)


@pytest.mark.parametrize(
    ("sent", "status", "code"),
    [
        (b"GARBAGE\r\n\r\n", 400, "malformed_request"),
        (b"GET /livez HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400, "malformed_request"),
        (b"POST /livez HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", 400, "malformed_request"),
        (b"GET /%s HTTP/1.1\r\nHost: x\r\n\r\n" % (b"a" * (MAX_TARGET_BYTES + 1)), 414, "target_too_long"),
        (b"GET / HTTP/1.1\r\nX: %s\r\n\r\n" % (b"a" * (MAX_HEAD_BYTES + 1)), 431, "headers_too_large"),
        (b"GET / HTTP/1.1\r\n%s\r\n" % (b"X: a\r\n" * (MAX_HEADERS + 1)), 431, "headers_too_large"),
        (b"GET / HTTP/1.1\r\nX: %s" % (b"a" * 2 * MAX_HEAD_BYTES), 431, "headers_too_large"),
        (CHUNKED + b"1\r\n{\r\n0\r\nX: a\r\n\r\n", 400, "malformed_request"),
    ],
)
def test_an_invalid_or_too_large_head_is_answered_with_a_problem(shared_service, sent, status, code):
    head, _, body = raw(shared_service, sent).partition(b"\r\n\r\n")

    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert b"application/problem+json" in head
    assert code == json.loads(body)["code"]
    assert 200 == shared_service.http.get("/livez").status_code


HALF_A_BODY = (
    b"POST /v1/policies/preview HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n"
    b"Content-Type: application/json\r\n\r\n{"
)


@pytest.mark.parametrize(
    ("sent", "timeout"),
    [
        (b"", "header_timeout_s"),
        (b"GET /livez HTTP/1.1\r\nHost:", "header_timeout_s"),
        (HALF_A_BODY, "body_timeout_s"),
    ],
    ids=["nothing", "half a head", "half a body"],
)
def test_a_slow_request_is_answered_408(sqlite_url, sent, timeout):
    with serving(sqlite_url, **{timeout: 0.3}) as service:
        began = time.monotonic()
        answer = raw(service, sent)

    assert b"HTTP/1.1 408 " == answer[:13]
    assert b"request_timeout" in answer
    assert 0.2 < time.monotonic() - began < 30


def test_half_a_head_after_a_complete_request_is_answered_408(sqlite_url):
    whole = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with serving(sqlite_url, header_timeout_s=0.3) as service:
        answers = raw(service, whole + b"GET /livez HTTP/1.1\r\nHost:")

    assert answers.startswith(b"HTTP/1.1 200 ")
    assert answers.count(b"HTTP/1.1 408 ") == 1


def in_pieces(service: Service, *pieces: bytes) -> bytes:
    """The bytes received on one connection to which the pieces are sent separately."""
    host, port = service.url.removeprefix("http://").split(":")
    received = b""
    with socket.create_connection((host, int(port)), timeout=60.0) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for piece in pieces:
            connection.sendall(piece)
            time.sleep(0.2)
        with suppress(ConnectionResetError):
            while part := connection.recv(65536):
                received += part
    return received


WHOLE = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"
LAST = b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


@pytest.mark.parametrize("begin", [5, 25], ids=["in its first line", "in a header"])
def test_a_head_may_arrive_in_pieces_after_a_large_request(shared_service, begin):
    padded = b'{"policy": {"type": "constant", "learning_rate": 0.1}, "count": 1%s}' % (b" " * 2 * MAX_HEAD_BYTES)
    request = b"POST /v1/policies/preview HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    request += b"Content-Length: %d\r\n\r\n%s" % (len(padded), padded)

    answers = in_pieces(shared_service, request + LAST[:begin], LAST[begin:30], LAST[30:])
    assert 2 == answers.count(b"HTTP/1.1 200 ")


def test_a_too_large_head_is_rejected_wherever_it_begins(shared_service):
    large = b"GET /livez HTTP/1.1\r\nX: %s\r\n" % (b"a" * (MAX_HEAD_BYTES + 1))
    answers = in_pieces(shared_service, WHOLE + large, b"Host: localhost\r\n\r\n")

    assert (1, 1) == (answers.count(b"HTTP/1.1 200 "), answers.count(b"HTTP/1.1 431 "))


def test_a_body_may_be_larger_than_a_head(shared_service):
    """Also if head, body and the head of the next request arrive together."""
    padded = b'{"policy": {"type": "constant", "learning_rate": 0.1}, "count": 1%s}' % (b" " * 2 * MAX_HEAD_BYTES)
    request = b"POST /v1/policies/preview HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    request += b"Content-Length: %d\r\n\r\n%s" % (len(padded), padded)
    last = b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"

    assert 3 == raw(shared_service, request + request + last).count(b"HTTP/1.1 200 ")


def test_a_long_poll_does_not_time_out(sqlite_url):
    with serving(sqlite_url, header_timeout_s=3.0, body_timeout_s=3.0) as service:
        service.http.put("/v1/runs/a", json=RUN)
        answer = service.http.get("/v1/runs/a/decision?after=1&wait=4")

    assert 200 == answer.status_code


def test_an_idle_connection_accepts_the_next_request(sqlite_url):
    with serving(sqlite_url, header_timeout_s=1.0) as service:
        answers = [service.http.get("/livez")]
        time.sleep(1.5)
        answers.append(service.http.get("/livez"))

    assert [200, 200] == [answer.status_code for answer in answers]


def test_a_port_in_use_is_named_with_the_option():
    with listen("127.0.0.1", 0) as taken:
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(CannotListen, match=f"port {port} on 127.0.0.1 is in use; .* --port"):
            listen("127.0.0.1", port)


def test_an_invalid_address_is_named():
    with pytest.raises(CannotListen, match=r"cannot listen on no\.such\.host\.invalid"):
        listen("no.such.host.invalid", 0)


def test_the_required_revision_is_the_newest_migration():
    assert migrate.head() == NEWEST_REVISION


@pytest.mark.parametrize("module", ["alembic", "psycopg", "keras", "httpx"])
def test_a_start_on_a_migrated_database_does_not_import(module):
    code = f"import sys, remotelr_service.cli.main, remotelr_service.server.startup; print({module!r} in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert "False\n" == done.stdout
