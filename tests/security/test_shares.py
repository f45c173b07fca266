"""No caller takes all streams or all memory for request bodies: each has a share, and the others are served."""

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import httpx
import psutil
import pytest

from remotelr_service.live.shares import Shares, quarter
from support.api_requests import ADMIN, RUN, bearer, make_token
from support.fixtures.service import Service, serving

MEBIBYTE = 1024 * 1024
LONG_S = 60.0
REPORT = {"epoch": 0, "metrics": {"loss": 1.0}}


@contextmanager
def streams(service: Service, count: int, path: str, headers: dict[str, str]) -> Iterator[list[httpx.Response]]:
    """So many streams, each after its first line or its refusal."""
    unlimited = httpx.Limits(max_connections=None)
    with (
        httpx.Client(base_url=service.url, timeout=60.0, trust_env=False, limits=unlimited) as http,
        ExitStack() as opened,
    ):
        answers = [opened.enter_context(http.stream("GET", path, headers=headers)) for _ in range(count)]
        for each in answers:
            if each.status_code == 200:
                next(each.iter_raw())
            else:
                each.read()
        yield answers


@pytest.fixture
def guarded_by_shares(sqlite_url: str) -> Iterator[Service]:
    with serving(sqlite_url, auth="on", admin_token=ADMIN, max_streams=40) as service:
        service.http.headers.update(bearer(ADMIN))
        assert service.http.put("/v1/runs/own", json=RUN).status_code == 201
        yield service


def test_a_token_has_a_quarter_of_the_streams_and_an_operator_still_gets_one(guarded_by_shares: Service):
    service = guarded_by_shares
    greedy = make_token(service.http, "greedy", "report", run="own")["token"]
    operator = make_token(service.http, "watching", "operate")["token"]
    with streams(service, 40, "/v1/runs/own/stream", bearer(greedy)) as answers:
        opened = [each for each in answers if each.status_code == 200]
        refused = [each for each in answers if each.status_code == 503]
        with streams(service, 1, "/v1/stream", bearer(operator)) as (other,):
            pass

    assert (10, 30) == (len(opened), len(refused))
    assert {"overloaded"} == {each.json()["code"] for each in refused}
    assert all(int(each.headers["retry-after"]) >= 1 for each in refused)
    assert "the token greedy has 10 open streams, its share of the 40" in refused[0].json()["detail"]
    assert 200 == other.status_code


def test_an_ended_stream_gives_its_part_of_the_share_back(guarded_by_shares: Service):
    service = guarded_by_shares
    headers = bearer(make_token(service.http, "again", "report", run="own")["token"])
    for _ in range(2):
        missing = [service.http.get("/v1/runs/none/stream", headers=headers) for _ in range(12)]
        with streams(service, 10, "/v1/runs/own/stream", headers) as answers:
            opened = [each.status_code for each in answers]
        assert wait_for_streams(service, 0)

        assert {404} == {each.status_code for each in missing}
        assert [200] * 10 == opened


def wait_for_streams(service: Service, count: int) -> bool:
    """Whether this many streams are open, as soon as the service has noticed the disconnects."""
    return any(f"remotelr_streams {count:.1f}" in service.http.get("/metrics").text for _ in range(3_000))


def test_an_address_without_a_token_has_a_share_too(sqlite_url: str):
    with serving(sqlite_url, max_streams=40) as service, streams(service, 12, "/v1/stream", {}) as answers:
        details = [each.json()["detail"] for each in answers if each.status_code == 503]

    assert 2 == len(details)
    assert "the address 127.0.0.1 has 10 open streams" in details[0]


@pytest.mark.parametrize(("limit", "share"), [(1, 1), (2, 1), (4, 3), (10, 4), (16, 4), (1_000, 250)])
def test_a_share_is_a_quarter_with_a_minimum_and_leaves_room_for_another(limit: int, share: int):
    assert share == quarter(limit, at_least=4)


# Memory for request bodies.


@pytest.fixture
def small(sqlite_url: str) -> Iterator[Service]:
    """A service with room for 8 MiB of request bodies, of which one caller may have 2 MiB."""
    with serving(sqlite_url, auth="on", admin_token=ADMIN, max_bodies_mib=8, body_timeout_s=120.0) as service:
        service.http.headers.update(bearer(ADMIN))
        assert service.http.put("/v1/runs/own", json=RUN).status_code == 201
        yield service


def memory_of(service: Service) -> Shares:
    memory: Shares = service.server.config.app.state.body_memory  # type: ignore[union-attr]
    return memory


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LONG_S
    while not holds():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.01)


def head_of(token: str, length: int, path: str = "/v1/runs/own/reports/batch") -> bytes:
    return (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
    ).encode()


def sending(service: Service, stack: ExitStack, sent: bytes) -> socket.socket:
    """A connection on which this was sent."""
    host, port = service.url.removeprefix("http://").split(":")
    connection = stack.enter_context(socket.create_connection((host, int(port)), timeout=LONG_S))
    connection.sendall(sent)
    return connection


def test_bodies_of_one_token_take_their_share_of_memory_and_others_are_answered(small: Service):
    greedy = make_token(small.http, "greedy", "report", run="own")["token"]
    modest = make_token(small.http, "modest", "report", run="own")["token"]
    half = head_of(greedy, MEBIBYTE) + b" " * (MEBIBYTE // 2)
    with ExitStack() as stack:
        for _ in range(4):
            sending(small, stack, half)
        wait_until(lambda: memory_of(small).total == 2 * MEBIBYTE)
        refused = [sending(small, stack, half).recv(65536) for _ in range(6)]
        kept = memory_of(small).total
        own = small.http.post("/v1/runs/own/reports", json=REPORT, headers=bearer(greedy))
        other = small.http.post("/v1/runs/own/reports", json=REPORT, headers=bearer(modest))
    wait_until(lambda: memory_of(small).total == 0)
    after = small.http.post("/v1/runs/own/reports", json=REPORT, headers=bearer(greedy))

    assert all(each.startswith(b"HTTP/1.1 503 ") and b"retry-after: " in each for each in refused)
    assert b"the request bodies of the token greedy take 2 MiB, its share; retry later" in refused[0]
    assert 2 * MEBIBYTE == kept
    assert (503, 200, 200) == (own.status_code, other.status_code, after.status_code)


def test_bodies_of_all_tokens_together_take_no_more_than_the_limit(small: Service):
    tokens = [make_token(small.http, f"t{number}", "report", run="own")["token"] for number in range(5)]
    with ExitStack() as stack:
        for token in (*tokens[:4], *tokens[:4]):
            sending(small, stack, head_of(token, MEBIBYTE) + b" " * (MEBIBYTE - 1))
        wait_until(lambda: memory_of(small).total == 8 * (MEBIBYTE - 1))
        refused = sending(small, stack, head_of(tokens[4], MEBIBYTE) + b" " * 1000).recv(65536)

    assert refused.startswith(b"HTTP/1.1 503 ")
    assert b"all request bodies take 8 MiB, the limit of this service; retry later" in refused


def test_a_body_of_the_largest_size_fits_into_the_smallest_share(small: Service):
    token = make_token(small.http, "large", "report", run="own")["token"]
    body = b'{"reports":[]}'.ljust(MEBIBYTE)
    headers = {**bearer(token), "Content-Type": "application/json"}
    answers = [small.http.post("/v1/runs/own/reports/batch", content=body, headers=headers) for _ in range(3)]

    assert {422} == {each.status_code for each in answers}


def chunked(token: str) -> bytes:
    return head_of(token, 0).replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")


ENDED = {
    "without a token": lambda _: head_of("rlr_wrong", MEBIBYTE) + b" " * 70_000,
    "too large": lambda token: chunked(token) + (b"fffff\r\n" + b" " * 0xFFFFF + b"\r\n") * 2,
    "malformed": lambda token: head_of(token, 70_000) + b"[" * 70_000,
    "rejected": lambda token: head_of(token, 70_000, "/v1/runs/none/reports/batch") + b"{}".ljust(70_000),
    "not to be read": lambda token: head_of(token, 70_000, "/v1/nothing") + b" " * 70_000,
    "cut off": lambda token: head_of(token, MEBIBYTE) + b" " * 70_000,
    "broken chunk": lambda token: chunked(token) + b"10\r\n" + b" " * 16 + b"\r\nnot a size\r\n",
    "pipelined and cut off": lambda token: (head_of(token, 70_000) + b" " * 70_000) * 3,
    "too slow": lambda token: head_of(token, MEBIBYTE) + b" " * 70_000,
}


@pytest.mark.parametrize("end", ENDED)
def test_the_memory_of_a_body_is_free_again_however_its_request_ends(sqlite_url: str, end: str):
    limit_s = 1.0 if end == "too slow" else 120.0
    with serving(sqlite_url, auth="on", admin_token=ADMIN, max_bodies_mib=8, body_timeout_s=limit_s) as service:
        service.http.headers.update(bearer(ADMIN))
        service.http.put("/v1/runs/own", json=RUN)
        with ExitStack() as stack:
            connection = sending(service, stack, ENDED[end](ADMIN))
            if end == "cut off":
                wait_until(lambda: memory_of(service).total == 70_000)
            elif end != "pipelined and cut off":
                assert connection.recv(65536).startswith(b"HTTP/1.1 4")
                wait_until(lambda: memory_of(service).total == 0)
        wait_until(lambda: memory_of(service).total == 0)

        assert 0 == memory_of(service).total


def test_a_hundred_mebibytes_of_incomplete_bodies_are_not_kept_in_memory(sqlite_url: str):
    with serving(sqlite_url, max_bodies_mib=16) as service, ExitStack() as stack:
        service.http.put("/v1/runs/own", json=RUN)
        before = psutil.Process().memory_info().rss
        for _ in range(150):
            sending(service, stack, head_of("", MEBIBYTE) + b" " * (MEBIBYTE - 1))
        # The service has read what it reads.
        time.sleep(2.0)
        kept = psutil.Process().memory_info().rss - before

    assert kept < 50 * MEBIBYTE
