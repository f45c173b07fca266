"""The ranks of one run over HTTP: waiting, deadlines, and one decision for all of them."""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx

from support.fixtures.service import Service, ServiceProcess
from support.load import Answer, post_at_once

EAGER = {"type": "reduce_on_plateau", "factor": 0.5, "patience": 1, "min_delta": 0.0, "flavor": "keras_legacy"}
# F11: the maximum delay in seconds beyond the timeout of the policy.
# (On a machine that may be busy. On another it is a second.)
SLACK_S = 10.0
# Where it counts that it happens at all.
AT_ALL_S = 60.0


def put(http: httpx.Client, world_size: int, **aggregate: Any) -> None:
    policy = {"schedule": EAGER, "aggregate": {"ranks": "all", **aggregate}}
    body = {"policy": policy, "initial_learning_rate": 1.0, "world_size": world_size}
    assert 201 == http.put("/v1/runs/run", json=body).status_code


def post(http: httpx.Client, epoch: int, rank: int, value: float, wait: float = 0.0, **rest: Any) -> httpx.Response:
    body = {"epoch": epoch, "rank": rank, "metrics": {"val_loss": value}, **rest}
    return http.post("/v1/runs/run/reports", params={"wait": wait}, json=body)


def events(http: httpx.Client, kind: str) -> list[dict[str, Any]]:
    page = http.get("/v1/runs/run/events", params={"limit": 200}).json()
    return [event for event in page["events"] if event["kind"] == kind]


@contextmanager
def started(
    start_service: Callable[..., ServiceProcess], database_url: str
) -> Iterator[tuple[ServiceProcess, httpx.Client]]:
    """A service that is ready, and a client of it."""
    service = start_service(database_url)
    service.wait_ready()
    with httpx.Client(base_url=service.url, timeout=60, trust_env=False) as http:
        yield service, http


def await_epoch(http: httpx.Client, epoch: int) -> dict[str, Any]:
    """The decision for `epoch`, without any rank asking for it."""
    deadline = time.monotonic() + AT_ALL_S
    while True:
        decision: dict[str, Any] = http.get("/v1/runs/run/decision").json()
        if decision["epoch"] == epoch:
            return decision
        assert time.monotonic() < deadline, f"no decision for epoch {epoch} within {AT_ALL_S:g} s"
        time.sleep(0.05)


def decision_in(answer: httpx.Response | Answer) -> dict[str, Any]:
    """The decision without `replayed`."""
    status, body = (answer.status, answer.body) if isinstance(answer, Answer) else (answer.status_code, answer.json())
    assert 200 == status, body
    return {name: value for name, value in body.items() if name != "replayed"}


def post_all(urls: list[str], ranks: range, epoch: int, wait: float = 0.0) -> list[Answer]:
    """One report of each rank, all at once, each to the next of the addresses."""
    reports = [
        {"epoch": epoch, "rank": rank, "metrics": {"val_loss": 1.0 + rank}, "weight": 1.0 + rank} for rank in ranks
    ]
    return post_at_once(urls, f"/v1/runs/run/reports?wait={wait}", reports)


# A rank that does not come


def test_a_dead_rank_delays_the_others_up_to_the_timeout_of_the_policy(service: Service):
    put(service.http, 3, timeout_s=3600)
    waiting = [post(service.http, 0, rank, value) for rank, value in [(2, 4.0), (0, 2.0)]]
    soon = {"schedule": EAGER, "aggregate": {"ranks": "all", "timeout_s": 0.1}}
    service.http.put("/v1/runs/run", json={"policy": soon, "on_conflict": "replace", "world_size": 3})
    await_epoch(service.http, 1)
    decided = [post(service.http, 0, rank, value) for rank, value in [(0, 2.0), (2, 4.0)]]
    late = post(service.http, 0, 1, 9.0)

    assert [(202, "1")] * 2 == [(answer.status_code, answer.headers["Retry-After"]) for answer in waiting]
    first, *others = [decision_in(answer) for answer in [*decided, late]]
    assert [first] * 2 == others
    assert (1, 3.0) == (first["epoch"], first["plateau"]["best"])
    assert [[0, 2]] == [event["notes"]["ranks"] for event in events(service.http, "timeout")]
    assert [{"late": True}] == [event["notes"] for event in events(service.http, "report") if event["rank"] == 1]


def test_a_point_without_all_its_ranks_may_leave_the_rate_as_it_is(service: Service):
    """
    With patience 1 the second report of 1.0 would halve the rate.
    """
    put(service.http, 2, timeout_s=5.0, on_timeout="hold")
    for rank in (0, 1):
        post(service.http, 0, rank, 1.0)
    held = post(service.http, 1, 0, 1.0, wait=30.0).json()
    post(service.http, 2, 0, 1.0)
    halved = post(service.http, 2, 1, 1.0).json()

    assert [(2, 1.0), (3, 0.5)] == [(answer["epoch"], answer["learning_rate"]) for answer in (held, halved)]


def test_a_rank_that_waits_is_answered_soon_after_the_time_is_over(service: Service):
    """
    The best of three: a machine that runs other tests besides may be late once.
    """
    put(service.http, 2, timeout_s=0.5)
    waited = []
    for epoch in range(3):
        began = time.monotonic()
        assert epoch + 1 == post(service.http, epoch, 1, 1.0, wait=20.0).json()["epoch"]
        waited.append(time.monotonic() - began)

    assert 0.5 <= min(waited) <= 0.5 + SLACK_S


def test_a_point_is_decided_at_its_deadline_without_a_further_request(service: Service):
    put(service.http, 2, timeout_s=0.3)
    post(service.http, 0, 1, 1.0)

    assert 1 == await_epoch(service.http, 1)["epoch"]


def test_without_a_time_a_dead_rank_is_waited_for_until_a_new_policy_needs_fewer(service: Service):
    put(service.http, 3)
    post(service.http, 0, 0, 2.0)
    waiting = post(service.http, 0, 1, 4.0, wait=1.2)
    fewer = {"schedule": EAGER, "aggregate": {"ranks": "quorum", "quorum": 2}}
    service.http.put("/v1/runs/run", json={"policy": fewer, "on_conflict": "replace", "world_size": 3})

    assert (202, 2, 3) == (waiting.status_code, waiting.json()["have"], waiting.json()["need"])
    assert 3.0 == post(service.http, 0, 0, 2.0).json()["plateau"]["best"]


def test_the_timeout_of_a_new_policy_applies_to_a_waiting_point(service: Service):
    put(service.http, 2)
    post(service.http, 0, 0, 2.0)
    patient = {"schedule": EAGER, "aggregate": {"ranks": "all", "timeout_s": 0.1}}
    service.http.put("/v1/runs/run", json={"policy": patient, "on_conflict": "replace", "world_size": 2})

    assert 1 == await_epoch(service.http, 1)["epoch"]


def test_a_new_attempt_waits_for_its_own_number_of_ranks(service: Service):
    put(service.http, 8, timeout_s=5.0)
    post(service.http, 0, 3, 1.0)
    attempt = {"key": "second", "epoch": 0, "world_size": 2}
    assert service.http.post("/v1/runs/run/attempts", json=attempt).is_success
    time.sleep(5.5)
    untouched = service.http.get("/v1/runs/run/decision").json()
    answers = [
        post(service.http, 0, rank, value, weight=weight) for rank, value, weight in [(1, 3.0, 10), (0, 1.0, 100)]
    ]

    assert 0 == untouched["epoch"]
    assert [202, 200] == [answer.status_code for answer in answers]
    assert (1.0 * 100 + 3.0 * 10) / 110 == answers[1].json()["plateau"]["best"]


# Many ranks, several replicas


def test_64_ranks_that_report_at_once_get_one_decision(service: Service):
    put(service.http, 64)
    answers = post_all([service.url], range(64), 0, wait=30.0)

    first, *others = [decision_in(answer) for answer in answers]
    assert [first] * 63 == others
    assert 1 == len([event for event in events(service.http, "report") if event["decision"]])


def test_64_ranks_that_report_at_once_to_two_replicas_get_one_decision(
    postgres_url: str, start_service: Callable[..., ServiceProcess]
):
    replicas = [start_service(postgres_url) for _ in range(2)]
    for replica in replicas:
        replica.wait_ready()
    with httpx.Client(base_url=replicas[0].url, timeout=60, trust_env=False) as http:
        put(http, 64)
        answers = [
            answer
            for epoch in range(3)
            for answer in post_all([each.url for each in replicas], range(64), epoch, wait=30.0)
        ]
        decided = [event for event in events(http, "report") if event["decision"]]

    decisions = {(answer["epoch"], answer["learning_rate"], answer["seq"]) for answer in map(decision_in, answers)}
    assert [(1, 1.0), (2, 0.5), (3, 0.25)] == sorted((epoch, rate) for epoch, rate, _ in decisions)
    assert 3 == len(decided)


def test_the_time_is_noticed_by_the_other_replica_when_the_first_is_killed(
    postgres_url: str, start_service: Callable[..., ServiceProcess]
):
    first, other = [start_service(postgres_url) for _ in range(2)]
    first.wait_ready()
    with httpx.Client(base_url=first.url, timeout=60, trust_env=False) as http:
        put(http, 2, timeout_s=1.0)
        post(http, 0, 1, 1.0)
    first.end(signal.SIGKILL)
    other.wait_ready()
    with httpx.Client(base_url=other.url, timeout=60, trust_env=False) as http:
        assert 1 == await_epoch(http, 1)["epoch"]
        assert [[1]] == [event["notes"]["ranks"] for event in events(http, "timeout")]


def test_a_waiting_report_and_its_deadline_survive_a_kill_of_the_service(
    database_url: str, start_service: Callable[..., ServiceProcess]
):
    with started(start_service, database_url) as (first, http):
        put(http, 2, timeout_s=0.5)
        assert 202 == post(http, 0, 1, 1.0).status_code
    first.end(signal.SIGKILL)
    with started(start_service, database_url) as (_, http):
        decision = await_epoch(http, 1)
        asked_again = post(http, 0, 1, 1.0)

    assert decision | {"replayed": True} == asked_again.json()


def test_a_thousand_waiting_requests_get_the_same_decision(
    database_url: str, start_service: Callable[..., ServiceProcess]
):
    with started(start_service, database_url) as (service, http):
        put(http, 1000)
        answers = post_all([service.url], range(1000), 0, wait=60.0)

    assert 1 == len({str(decision_in(answer)) for answer in answers})


def test_a_thousand_retried_reports_get_the_same_decision(
    database_url: str, start_service: Callable[..., ServiceProcess]
):
    with started(start_service, database_url) as (service, http):
        put(http, 1000)
        waiting = post_all([service.url], range(999), 0)
        last = post(http, 0, 999, 1000.0, weight=1000.0)
        asked_again = post_all([service.url], range(999), 0)

    assert (999, {(202, 1000)}) == (
        max(answer.body["have"] for answer in waiting),
        {(answer.status, answer.body["need"]) for answer in waiting},
    )
    assert {str(decision_in(last))} == {str(decision_in(answer)) for answer in asked_again}
