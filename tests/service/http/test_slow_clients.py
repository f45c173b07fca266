"""Hundreds of clients that send nothing, or slowly, or half: the others do not notice, and they are sent away."""

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from support.fixtures.service import Service, serving

RUN = {"policy": {"type": "constant", "learning_rate": 0.1}}
HALF_A_HEAD = b"POST /v1/runs/a/reports HTTP/1.1\r\nHost: localhost\r\nContent-"
HALF_A_BODY = (
    b"POST /v1/runs/a/reports HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    b"Content-Length: 99\r\n\r\n{"
)
ASKS_ONCE = b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
NEVER_READS = b"GET /v1/policies/schema HTTP/1.1\r\nHost: localhost\r\n\r\n" * 20


@contextmanager
def connections(service: Service, count: int, sent: bytes) -> Iterator[list[socket.socket]]:
    """So many connections on each of which this was sent, and nothing more comes."""
    host, port = service.url.removeprefix("http://").split(":")
    with ExitStack() as stack:
        opened = []
        for _ in range(count):
            opened.append(stack.enter_context(socket.create_connection((host, int(port)), timeout=100)))
            opened[-1].sendall(sent)
        yield opened


def report(service: Service, epoch: int) -> tuple[int, float]:
    began = time.monotonic()
    answer = service.http.post("/v1/runs/a/reports", json={"epoch": epoch, "metrics": {"loss": 1.0}})
    return answer.status_code, time.monotonic() - began


def drained(connection: socket.socket) -> bytes:
    received = b""
    while part := connection.recv(65536):
        received += part
    return received


def test_a_thousand_incomplete_requests_delay_no_other_and_are_closed(sqlite_url):
    """
    With eight slots: if slow senders occupied them, no other request would be served.
    """
    with serving(sqlite_url, max_requests=8, header_timeout_s=4.0, body_timeout_s=4.0, queue_timeout_s=1.0) as service:
        service.http.put("/v1/runs/a", json=RUN)
        began = time.monotonic()
        with (
            connections(service, 600, b"") as idle,
            connections(service, 200, HALF_A_HEAD) as heads,
            connections(service, 200, HALF_A_BODY) as bodies,
        ):
            served = [report(service, epoch) for epoch in range(20)]
            answers = [drained(each) for each in (*idle, *heads, *bodies)]
            sent_away_s = time.monotonic() - began
        after = report(service, 20)

    assert {200} == {status for status, _ in (*served, after)}
    assert max(seconds for _, seconds in served) < 30.0
    assert {b"HTTP/1.1 408 "} == {answer[:13] for answer in answers}
    assert sent_away_s < 60


def test_clients_that_never_read_delay_no_other(sqlite_url):
    with serving(sqlite_url, max_requests=8, shutdown_timeout_s=1) as service:
        service.http.put("/v1/runs/a", json=RUN)
        with connections(service, 100, NEVER_READS):
            served = [report(service, epoch) for epoch in range(20)]

    assert {200} == {status for status, _ in served}


def test_a_request_that_is_answered_before_its_body_came_does_not_keep_its_connection(sqlite_url):
    """
    The byte after the answer ends uvicorn's limit for connections at rest, and there was no other.
    """
    wrong = HALF_A_BODY.replace(b"application/json", b"text/plain")
    with serving(sqlite_url, header_timeout_s=1.0) as service, connections(service, 1, wrong) as (answered,):
        first = answered.recv(65536)
        answered.sendall(b" ")
        drained(answered)

    assert first.startswith(b"HTTP/1.1 415 ")


def test_a_connection_above_the_limit_gets_retry_after(sqlite_url):
    with serving(sqlite_url, max_connections=50, header_timeout_s=120.0) as service:
        with connections(service, 50, b"") as held:
            with connections(service, 1, b"") as too_many:
                answer = drained(too_many[0])
            held[0].sendall(ASKS_ONCE)
            kept = drained(held[0])
        # The service notices the disconnects a little later.
        taken = b"HTTP/1.1 503 "
        while taken.startswith(b"HTTP/1.1 503 "):
            with connections(service, 1, ASKS_ONCE) as later:
                taken = drained(later[0])

    assert answer.startswith(b"HTTP/1.1 503 ") and b"retry-after: 1\r\n" in answer and b'"overloaded"' in answer
    assert kept.startswith(b"HTTP/1.1 200 ")
    assert taken.startswith(b"HTTP/1.1 200 ")
