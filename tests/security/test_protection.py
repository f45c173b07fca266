"""Requests without a token are rejected, and a token permits only its own actions."""

import asyncio
import json
import re
import time
from collections.abc import Callable
from http.client import HTTPConnection
from typing import Any

import httpx
import pytest
import structlog
from sqlalchemy import event
from starlette.types import Scope

from remotelr_service.features.runs import history
from remotelr_service.features.training import decisions
from remotelr_service.http.auth import token_cache
from remotelr_service.http.auth.credentials import new_token
from remotelr_service.http.auth.gate import AccessGate
from remotelr_service.http.auth.throttle import TokenBucket
from remotelr_service.http.context import Context
from remotelr_service.http.problems import Refusal
from remotelr_service.settings import Settings
from security.test_scopes import APP, CALLS, EXPECTED
from support.api_requests import ADMIN, RUN, ask, bearer, make_token
from support.fixtures.service import Service, serving

GUARDED = [call for call in CALLS if EXPECTED[call.name]["none"] == "401"]
GARBLED = {
    "empty": "",
    "no scheme": ADMIN,
    "basic": "Basic YWRtaW46YWRtaW4=",
    "two spaces": f"Bearer  {ADMIN}",
    "shorter": f"Bearer {ADMIN[:-1]}",
    "longer": f"Bearer {ADMIN}x",
    "long": f"Bearer {'x' * 5_000}",
    "wrong sum": f"Bearer rlr_{'0' * 49}",
    "list": f"Bearer {ADMIN}, Bearer {ADMIN}",
    "no ascii": "Bearer ä".encode(),
}


@pytest.mark.parametrize("call", GUARDED, ids=lambda call: call.name)
def test_without_a_valid_token_the_answer_contains_only_how_to_send_one(one_guarded: Service, call: Any):
    path = re.sub(r"\{\w+\}", "1", call.path)
    answers = [ask(one_guarded, call.method, path, headers={"Authorization": said}) for said in ("", GARBLED["basic"])]

    assert [401, 401] == [answer.status_code for answer in answers]
    assert 1 == len({answer.content for answer in answers})
    assert ["Bearer" in answer.headers["www-authenticate"] for answer in answers] == [True, True]


@pytest.mark.parametrize("said", GARBLED.values(), ids=list(GARBLED))
def test_a_garbled_token_is_rejected(one_guarded: Service, said: Any):
    assert ask(one_guarded, "GET", "/v1/runs", headers={"Authorization": said}).status_code in (401, 429)


def test_two_tokens_are_none(one_guarded: Service):
    headers = [("Authorization", f"Bearer {ADMIN}"), ("Authorization", f"Bearer {new_token()}")]

    assert 401 == ask(one_guarded, "GET", "/v1/runs", headers=headers).status_code


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        (f"/v1/runs?token={ADMIN}", {}),
        (f"/v1/runs?access_token={ADMIN}", {}),
        ("/v1/runs", {"Cookie": f"token={ADMIN}; Authorization=Bearer {ADMIN}"}),
        ("/v1/runs", {"X-Api-Key": ADMIN}),
        ("/v1/runs", {"Proxy-Authorization": f"Bearer {ADMIN}"}),
        ("/v1/runs", {"X-Original-URL": "/livez", "X-Rewrite-URL": "/livez"}),
        ("/v1/runs", {"X-Forwarded-For": "127.0.0.1", "X-Forwarded-Host": "localhost", "Forwarded": "for=127.0.0.1"}),
        ("//livez/../v1/runs", {}),
    ],
)
def test_a_token_counts_in_its_header_alone_and_no_other_header_authorizes(one_guarded: Service, path, headers):
    assert ask(one_guarded, "GET", path, headers=headers).status_code in (401, 404)


def test_a_method_cannot_be_overridden(one_guarded: Service):
    one_guarded.http.put("/v1/runs/stays", json=RUN)
    for header in ("X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override"):
        one_guarded.http.get("/v1/runs/stays", headers={header: "DELETE"})

    assert 200 == one_guarded.http.get("/v1/runs/stays").status_code


async def _refused(gate: AccessGate, scope: Scope) -> str:
    try:
        await gate.authorize(scope, "list_runs")
    except Refusal as refusal:
        return refusal.code
    return "authorized"


def test_a_token_with_a_wrong_checksum_causes_no_query(sqlite_url, monkeypatch):
    """
    And an unknown one with a right sum costs one short query in a quarter of a second, however many come.
    """
    monkeypatch.setattr(token_cache, "MAX_AGE_S", 3600.0)
    ctx = Context.open(sqlite_url)
    asked: list[str] = []
    event.listen(ctx.reads, "before_cursor_execute", lambda _c, _u, statement, *_: asked.append(statement))

    async def attempts() -> tuple[list[str], int, float]:
        gate = AccessGate(Settings(database_url=sqlite_url, auth="on"), ctx)
        await gate.token_cache.refresh()
        asked.clear()
        wrong = [await _refused(gate, scope(f"rlr_{number:049d}", "10.0.0.1")) for number in range(1_000)]
        for_wrong = len(asked)
        unknown = [_refused(gate, scope(new_token(), f"10.0.{number}.1")) for number in range(200)]
        began = time.monotonic()
        wrong += await asyncio.gather(*unknown)
        allowed = 2 + (time.monotonic() - began) / token_cache.MISS_REFRESH_S
        return wrong, for_wrong, sum("FROM tokens" in statement for statement in asked) - allowed

    def scope(token: str, address: str) -> Scope:
        return {
            "type": "http",
            "headers": [(b"authorization", f"Bearer {token}".encode())],
            "client": (address, 1),
            "server": ("127.0.0.1", 8000),
            "path_params": {},
        }

    try:
        seen, for_wrong, too_many = asyncio.run(attempts())
    finally:
        ctx.close()

    assert {"unauthorized", "rate_limited"} == set(seen)
    assert 0 == for_wrong
    assert too_many <= 0


def test_invalid_tokens_are_rate_limited_and_valid_ones_are_not(sqlite_url):
    """
    From one address: behind a proxy all clients have the same one.
    """
    with serving(sqlite_url, auth="on", admin_token=ADMIN) as service:
        guessed = [service.http.get("/v1/runs", headers=bearer(f"rlr_{number:049d}")) for number in range(100)]
        good = service.http.get("/v1/runs", headers=bearer(ADMIN))
        without = service.http.get("/v1/runs")

    assert [401] * 20 == [answer.status_code for answer in guessed[:20]]
    # One more is let through every three seconds.
    refused = [answer for answer in guessed if answer.status_code == 429]
    assert len(refused) > 40
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
    assert (200, 401) == (good.status_code, without.status_code)


def test_a_token_above_its_rate_gets_retry_after_and_others_are_served(sqlite_url):
    with serving(sqlite_url, auth="on", admin_token=ADMIN, rate_limit=1) as service:
        service.http.headers.update(bearer(ADMIN))
        greedy, modest = (make_token(service.http, name, "view")["token"] for name in ("greedy", "modest"))
        answers = [service.http.get("/v1/runs", headers=bearer(greedy)) for _ in range(50)]
        other = service.http.get("/v1/runs", headers=bearer(modest))
    refused = [answer for answer in answers if answer.status_code == 429]

    assert {200, 429} == {answer.status_code for answer in answers}
    assert {"rate_limited"} == {answer.json()["code"] for answer in refused}
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
    assert 200 == other.status_code


def test_a_bucket_fills_again_with_time():
    now = 0.0
    throttle: TokenBucket[str] = TokenBucket(rate_per_s=2, burst=3, clock=lambda: now)
    at_once = [throttle.take("a") for _ in range(4)]
    other = throttle.take("b")
    now = 0.5
    later = throttle.take("a"), throttle.take("a")

    assert [0, 0, 0, 0.5] == at_once
    assert 0 == other
    assert (0, 0.5) == later


def test_a_throttle_forgets_those_it_has_not_seen_for_longest(monkeypatch):
    monkeypatch.setattr("remotelr_service.http.auth.throttle.MAX_BUCKETS", 3)
    throttle: TokenBucket[int] = TokenBucket(rate_per_s=1, burst=1, clock=lambda: 0.0)
    for key in range(10):
        throttle.take(key)

    assert [False] * 7 + [True] * 3 == [throttle.is_empty(key) for key in range(10)]


@pytest.mark.parametrize(
    "member",
    ["id", "run", "attempt", "epoch", "seq", "state", "status", "best", "created_at", "policy_version", "limits"],
)
def test_fields_decided_by_the_service_cannot_be_set(shared_service, member):
    """
    Mass assignment: a field of a response is not a field of the request.
    """
    made = shared_service.http.put("/v1/runs/assigned", json={**RUN, member: 1})
    changed = shared_service.http.patch("/v1/runs/assigned", json={"tags": {}, member: 1})

    assert (422, 422) == (made.status_code, changed.status_code)


@pytest.mark.parametrize(
    "name", ["__proto__", "constructor\r\n", "=1+1", "+1", "-1", "@SUM(A1)", "\tx", "a\u2028b", "%_"]
)
def test_a_name_cannot_be_a_formula_a_line_or_a_prototype(shared_service, name):
    """
    So nothing has to be escaped where names are put into CSV, a log, a header or a page.
    """
    http = shared_service.http
    http.put("/v1/runs/named", json=RUN)
    statuses = {
        http.post("/v1/runs/named/reports", json={"epoch": 0, "metrics": {name: 1.0}}).status_code,
        http.patch("/v1/runs/named", json={"tags": {name: "x"}}).status_code,
        http.put("/v1/runs/other-named", json={**RUN, "experiment": name}).status_code,
    }

    assert {422} == statuses


SQL = [
    "' OR '1'='1",
    "'; DROP TABLE runs; --",
    "a') UNION SELECT digest FROM tokens --",
    "%",
    "_",
    "\\",
    "a\x00b",
    "🙂",
]


def test_sql_is_text(guarded: Service):
    http = guarded.http
    http.put("/v1/runs/mine", json={**RUN, "tags": {"team": "me"}})
    searched, others = [], []
    for text in SQL:
        searched += [
            http.get("/v1/runs", params={"experiment": text}),
            http.get("/v1/runs", params={"tag": f"team:{text}"}),
            http.get("/v1/runs", params={"status": text}),
        ]
        others += [
            http.get("/v1/runs", params={"after": text}),
            http.get(f"/v1/runs/{text.replace(chr(0), '%00')}"),
            http.patch("/v1/runs/mine", json={"tags": {"said": text}}),
            http.post("/v1/runs/mine/commands", json={"type": "note", "text": text}),
            http.get("/v1/runs/mine/events", params={"kind": text}),
            http.get("/v1/tokens", params={"after": text}),
        ]

    assert all(answer.status_code < 500 for answer in [*searched, *others])
    assert [] == [run for answer in searched if answer.status_code == 200 for run in answer.json()["runs"]]
    assert ["mine"] == [run["run"] for run in http.get("/v1/runs").json()["runs"]]


OUT = [
    "/docs/../../etc/passwd",
    "/docs/%2e%2e/%2e%2e/etc/passwd",
    "/docs/..%2f..%2fetc/passwd",
    "/docs/%252e%252e/passwd",
    "/docs/start.js/../../app.py",
    "/docs//etc/passwd",
    "/v1/runs/..%2f..%2ftokens",
    "/livez/../v1/runs",
]


@pytest.mark.parametrize("path", OUT)
def test_no_path_leads_out(one_guarded: Service, path: str):
    """Sends the path unchanged: other clients normalise it."""
    connection = HTTPConnection(one_guarded.url.removeprefix("http://"), timeout=30)
    connection.request("GET", path)
    status = connection.getresponse().status
    connection.close()

    assert status in (401, 404)


def test_a_thousand_ranges_of_a_file_are_no_work(shared_service):
    """
    CVE-2025-62727: older releases of Starlette merged ranges in quadratic time.
    """
    ranges = ",".join(f"{number}-{number}" for number in range(0, 2_000, 2))
    answer = shared_service.http.get("/docs/swagger-ui.css", headers={"Range": f"bytes={ranges}"})

    assert answer.status_code in (200, 206, 416)
    assert answer.elapsed.total_seconds() < 60


def test_a_bound_token_cannot_reach_a_run_that_was_made_anew_in_another_experiment(guarded: Service):
    """
    The writer checks access in the transaction that changes the run, so the run cannot be replaced in between.
    """
    http = guarded.http
    token = make_token(http, "trainer", "report", experiment="mine")["token"]
    first = http.put("/v1/runs/again", json=RUN, headers=bearer(token)).json()
    own = http.post("/v1/runs/again/reports", json={"epoch": 0, "metrics": {}}, headers=bearer(token))
    http.delete("/v1/runs/again")
    http.put("/v1/runs/again", json={**RUN, "experiment": "other"})
    foreign = [
        http.post("/v1/runs/again/reports", json={"epoch": 0, "metrics": {}}, headers=bearer(token)),
        http.post("/v1/runs/again/reports?steps=true", json={"epoch": 0, "metrics": {}}, headers=bearer(token)),
        http.put("/v1/runs/again", json=RUN, headers=bearer(token)),
        http.get("/v1/runs/again", headers=bearer(token)),
        http.get("/v1/runs/again/history?format=csv", headers=bearer(token)),
        http.get("/v1/runs/none", headers=bearer(token)),
    ]
    elsewhere = http.put("/v1/runs/else", json={**RUN, "experiment": "other"}, headers=bearer(token))

    assert ("mine", 200) == (first["experiment"], own.status_code)
    assert {(404, "run_not_found")} == {(answer.status_code, answer.json()["code"]) for answer in foreign}
    assert 403 == elsewhere.status_code
    assert 0 == http.get("/v1/runs/again").json()["epoch"]


@pytest.fixture(params=["decision", "events"])
def ask_and_meanwhile(request, one_guarded: Service, monkeypatch) -> Callable[..., httpx.Response]:
    """Waits for the next decision of a run with a token for its experiment; calls `meanwhile` during the wait."""

    def ask(run: str, token: str, meanwhile: Callable[[], object]) -> httpx.Response:
        async def wait(*_: object, **__: object) -> None:
            await asyncio.to_thread(meanwhile)

        one_guarded.http.put(f"/v1/runs/{run}", json={**RUN, "experiment": "mine"})
        monkeypatch.setattr(decisions, "wait_for_decision", wait)
        monkeypatch.setattr(history, "wait_for_events", wait)
        return one_guarded.http.get(f"/v1/runs/{run}/{request.param}?wait=20", headers=bearer(token))

    return ask


def test_a_waiting_request_with_a_revoked_token_gets_no_data(one_guarded: Service, ask_and_meanwhile):
    made = make_token(one_guarded.http, "revoked soon", "report", experiment="mine")

    def revoke() -> None:
        one_guarded.http.delete(f"/v1/tokens/{made['id']}")

    assert 401 == ask_and_meanwhile("waited-for", made["token"], revoke).status_code


def test_a_waiting_request_gets_no_data_of_a_new_run_with_the_same_key(one_guarded: Service, ask_and_meanwhile):
    made = make_token(one_guarded.http, "waiting", "report", experiment="mine")

    def make_anew() -> None:
        one_guarded.http.delete("/v1/runs/made-anew")
        one_guarded.http.put("/v1/runs/made-anew", json={**RUN, "experiment": "other"})

    answer = ask_and_meanwhile("made-anew", made["token"], make_anew)

    one_guarded.http.delete("/v1/runs/made-anew")
    one_guarded.http.delete(f"/v1/tokens/{made['id']}")
    assert (404, "run_not_found") == (answer.status_code, answer.json()["code"])


def test_a_token_for_one_run_is_for_no_other(one_guarded: Service):
    http = one_guarded.http
    http.put("/v1/runs/run-2", json=RUN)
    token = make_token(http, "for run-1", "report", run="run-1")["token"]
    own = http.put("/v1/runs/run-1", json=RUN, headers=bearer(token)).status_code
    others = [
        http.get("/v1/runs/run-2", headers=bearer(token)),
        http.put("/v1/runs/run-2", json=RUN, headers=bearer(token)),
        http.put("/v1/runs/run-3", json=RUN, headers=bearer(token)),
        http.post("/v1/runs/run-2/reports", json={"epoch": 0, "metrics": {}}, headers=bearer(token)),
        http.post("/v1/runs/run-2/attempts", json={"key": "a", "epoch": 0}, headers=bearer(token)),
    ]

    assert 201 == own
    assert {404} == {answer.status_code for answer in others}


def test_a_token_for_one_run_puts_it_in_no_experiment_it_is_not_made_for(one_guarded: Service):
    """
    Else it would take the policy and the limits of an experiment that is nothing of its own.
    """
    http, made = one_guarded.http, {**RUN, "experiment": "mine"}
    http.put("/v1/experiments/mine", json={"policy": RUN["policy"]})
    alone = bearer(make_token(http, "for a run", "report", run="placed")["token"])
    both = bearer(make_token(http, "for a run of mine", "report", run="placed", experiment="mine")["token"])
    refused = [
        http.put("/v1/runs/placed", json=body, headers=headers)
        for body, headers in [(made, alone), ({"experiment": "mine"}, alone), ({**RUN, "experiment": "other"}, both)]
    ]
    placed = http.put("/v1/runs/placed", json=made, headers=both)

    assert {(403, "forbidden")} == {(answer.status_code, answer.json()["code"]) for answer in refused}
    assert "one run without an experiment, got 'mine'" in refused[0].json()["detail"]
    assert (201, "mine") == (placed.status_code, placed.json()["experiment"])


def test_refusals_are_written_down_with_their_reason_and_without_the_token(sqlite_url, start_service):
    service = start_service(sqlite_url, REMOTELR_AUTH="on", REMOTELR_ADMIN_TOKEN=ADMIN, REMOTELR_LOG_LEVEL="debug")
    service.wait_ready()
    wrong = new_token()
    with httpx.Client(base_url=service.url, timeout=30, trust_env=False) as http:
        token = http.post("/v1/tokens", json={"name": "looker", "scope": "view"}, headers=bearer(ADMIN)).json()["token"]
        http.get("/v1/runs", headers=bearer(wrong))
        http.put("/v1/runs/r", json=RUN, headers=bearer(token))
        http.post("/v1/runs", json=RUN, headers={**bearer(ADMIN), "Origin": "https://evil.example"})
        http.get(f"/v1/runs/{token}", headers=bearer(ADMIN))
        counted = http.get("/metrics").text
    service.end()
    log = service.log.read_text()
    lines = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    refused = [(line["code"], line["token"], line["call"]) for line in lines if line["event"] == "refused"]

    assert [("unauthorized", None, None), ("forbidden", "looker", "put_run"), ("cross_origin", None, None)] == refused
    assert all(line["address"] == "127.0.0.1" and line["request_id"] for line in lines if line["event"] == "refused")
    assert not any(secret in log for secret in (ADMIN, wrong, token))
    assert 'remotelr_refusals_total{code="forbidden"} 1.0' in counted


def test_repeated_rejections_do_not_fill_the_log(sqlite_url):
    """
    Each is counted; of one address some are written down at once, and one a second.
    """
    ctx = Context.open(sqlite_url)
    try:
        with structlog.testing.capture_logs() as lines:
            gate = AccessGate(Settings(database_url=sqlite_url), ctx)
            began = time.monotonic()
            for _ in range(5_000):
                gate.record_refusal("misdirected_request", {"client": ("10.0.0.1", 1)}, None)
            took_s = time.monotonic() - began
            gate.record_refusal("misdirected_request", {"client": ("10.0.0.2", 1)}, None)
        counted = ctx.metrics.page().decode()
    finally:
        ctx.close()

    assert len(lines) <= 52 + took_s
    assert "10.0.0.2" == lines[-1]["address"]
    assert 'remotelr_refusals_total{code="misdirected_request"} 5001.0' in counted


def test_the_application_is_not_in_debug_mode():
    assert not APP.debug
