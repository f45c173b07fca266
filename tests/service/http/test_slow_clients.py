"""Hundreds of clients that send nothing, or slowly, or half: the others do not notice, and they are sent away."""

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from remotelr_service.server import connection_table
from support.fixtures.service import Service, serving

RUN = {"policy": {"type": "constant", "learning_rate": 0.1}}
HALF_A_HEAD = b"POST /v1/runs/a/reports HTTP/1.1\r\nHost: localhost\r\nContent-"
HALF_A_BODY = (
    b"POST /v1/runs/a/reports HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    b"Content-Length: 99\r\n\r\n{"
)
ASKS_ONCE = b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
ASKS_AND_RESTS = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"
NEVER_READS = b"GET /v1/policies/schema HTTP/1.1\r\nHost: localhost\r\n\r\n" * 20


@contextmanager
def connections(service: Service, count: int, sent: bytes, source: str = "127.0.0.1") -> Iterator[list[socket.socket]]:
    """So many connections of one address, on each of which this was sent, and nothing more comes."""
    host, port = service.url.removeprefix("http://").split(":")
    with ExitStack() as stack:
        opened = []
        for _ in range(count):
            connection = socket.create_connection((host, int(port)), timeout=100, source_address=(source, 0))
            opened.append(stack.enter_context(connection))
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


def is_closed(connection: socket.socket) -> bool:
    """Whether the service has closed the connection; it has sent nothing before."""
    connection.settimeout(0.2)
    try:
        return connection.recv(1) == b""
    except TimeoutError:
        return False
    except ConnectionResetError:
        return True


def test_a_connection_above_the_limit_gets_retry_after(sqlite_url):
    with serving(sqlite_url, max_connections=50, body_timeout_s=120.0) as service:
        service.http.put("/v1/runs/a", json=RUN)
        service.http.close()
        with connections(service, 45, HALF_A_BODY), connections(service, 5, HALF_A_BODY, "127.0.0.2"):
            refused = []
            for source in ("127.0.0.1", "127.0.0.3"):
                with connections(service, 1, b"", source) as too_many:
                    refused.append(drained(too_many[0]))
        # The service notices the disconnects a little later.
        taken = b"HTTP/1.1 503 "
        while taken.startswith(b"HTTP/1.1 503 "):
            with connections(service, 1, ASKS_ONCE) as later:
                taken = drained(later[0])

    for answer in refused:
        assert answer.startswith(b"HTTP/1.1 503 ") and b"retry-after: 1\r\n" in answer and b'"overloaded"' in answer
    assert taken.startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("sent", [b"", HALF_A_HEAD, ASKS_AND_RESTS], ids=["nothing", "half a head", "a request"])
def test_idle_connections_of_one_address_keep_no_other_address_out(sqlite_url, sent):
    with serving(sqlite_url, max_connections=300, header_timeout_s=120.0) as service:
        service.http.close()
        service.server.config.timeout_keep_alive = 120
        with connections(service, 270, sent) as held, connections(service, 30, sent, "127.0.0.2") as few:
            for each in (*held, *few) if sent == ASKS_AND_RESTS else ():
                each.recv(65536)
            answers = []
            for number in range(3, 63):
                with connections(service, 1, ASKS_ONCE, f"127.0.0.{number}") as (other,):
                    answers.append(drained(other)[:13])
            closed, kept = [is_closed(each) for each in held[:1]], [is_closed(each) for each in (held[-1], *few)]

    assert {b"HTTP/1.1 200 "} == set(answers)
    assert ([True], [False] * 31) == (closed, kept)


def test_requests_in_progress_of_one_address_leave_a_tenth_of_the_connections(sqlite_url):
    """
    They are not cut off: the address that has more than half is refused, also before all connections are taken.
    """
    with serving(sqlite_url, max_connections=50, body_timeout_s=120.0) as service:
        service.http.put("/v1/runs/a", json=RUN)
        service.http.close()
        with connections(service, 45, HALF_A_BODY) as held:
            with (
                connections(service, 1, b"") as (same,),
                connections(service, 1, ASKS_ONCE, "127.0.0.2") as (other,),
            ):
                answers = [drained(same)[:13], drained(other)[:13]]
            closed = [is_closed(each) for each in held[:3]]

    assert [b"HTTP/1.1 503 ", b"HTTP/1.1 200 "] == answers
    assert [False] * 3 == closed


def test_an_address_takes_more_than_its_limit_by_closing_its_own_idle_connections(sqlite_url, monkeypatch):
    """
    As a reverse proxy does, from whose address all trainers come.
    """
    monkeypatch.setattr(connection_table, "MIN_REST_S", 0.0)
    with serving(sqlite_url, max_connections=50, header_timeout_s=120.0) as service:
        service.http.close()
        with connections(service, 45, b"") as idle:
            answers = []
            with connections(service, 20, ASKS_ONCE) as others:
                answers += [drained(each)[:13] for each in others]
            closed = [is_closed(each) for each in (idle[0], idle[-1])]

    assert {b"HTTP/1.1 200 "} == set(answers)
    assert [True, False] == closed
