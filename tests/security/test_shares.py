"""No caller takes all streams or all memory for request bodies: each has a share, and the others are served."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import httpx
import pytest

from remotelr_service.live.shares import quarter
from support.api_requests import ADMIN, RUN, bearer, make_token
from support.fixtures.service import Service, serving


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
