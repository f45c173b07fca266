"""Tokens: their format, their storage, and the time until a revoked token is rejected."""

import re
import sqlite3
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from remotelr_service.errors import DatabaseUnavailable
from remotelr_service.http.auth import token_cache
from remotelr_service.http.auth.credentials import digest, is_token, new_token
from support.api_requests import ADMIN, RUN, bearer, make_token
from support.fixtures.service import Service, serving

# Longer than any machine takes; it is waited for no longer than needed.
LIMIT_S = 30.0


def test_a_token_is_recognised_by_its_prefix_and_its_length():
    assert re.fullmatch(r"rlr_[0-9A-Za-z]{49}", new_token())


def test_no_two_tokens_are_equal():
    assert 1000 == len({new_token() for _ in range(1000)})


def test_a_new_token_is_a_valid_token():
    assert all(is_token(new_token()) for _ in range(1000))


@given(st.integers(4, 52), st.sampled_from("0123456789ABCXYZabcxyz"))
def test_a_token_with_one_wrong_character_is_none(place: int, character: str):
    """
    A checksum of 32 bits finds every change of so few.
    """
    token = new_token()
    changed = f"{token[:place]}{character}{token[place + 1 :]}"

    assert is_token(changed) == (changed == token)


@pytest.mark.parametrize(
    "text",
    ["", "rlr_", "Rlr_" + new_token()[4:], new_token() + "\n", new_token() + "0", "ä" * 53],
    ids=["nothing", "its beginning", "another beginning", "a line", "too long", "other letters"],
)
def test_text_in_another_format_is_not_a_token(text: str):
    assert not is_token(text)


def test_a_token_is_shown_once_and_stored_as_its_hash(guarded: Service):
    token = make_token(guarded.http, "shown once", "view")["token"]
    listed = guarded.http.get("/v1/tokens").text
    audited = guarded.http.get("/v1/audit").text

    assert token not in listed + audited
    assert digest(token) not in listed + audited


def test_the_database_contains_no_token(sqlite_url):
    with serving(sqlite_url, auth="on", admin_token=ADMIN) as service:
        service.http.headers.update(bearer(ADMIN))
        token = make_token(service.http, "kept", "admin")["token"]
        service.http.put("/v1/runs/r", json=RUN, headers=bearer(token))
    with sqlite3.connect(sqlite_url.removeprefix("sqlite:///")) as connection:
        dump = "\n".join(connection.iterdump())
    connection.close()

    assert digest(token) in dump
    assert token not in dump
    assert ADMIN not in dump


def test_a_revoked_token_is_rejected_at_once_by_the_same_replica(guarded: Service):
    made = make_token(guarded.http, "short", "view")
    before = guarded.http.get("/v1/runs", headers=bearer(made["token"])).status_code
    revoked = guarded.http.delete(f"/v1/tokens/{made['id']}").status_code
    after = guarded.http.get("/v1/runs", headers=bearer(made["token"])).status_code
    again = guarded.http.delete(f"/v1/tokens/{made['id']}").status_code

    assert (200, 204, 401, 204) == (before, revoked, after, again)


def test_other_replicas_accept_a_new_token_and_reject_a_revoked_one_within_five_seconds(postgres_url):
    settings: dict[str, Any] = {"auth": "on", "admin_token": ADMIN}
    with serving(postgres_url, **settings) as one, serving(postgres_url, **settings) as other:
        one.http.headers.update(bearer(ADMIN))
        other.http.get("/v1/runs", headers=bearer(new_token()))
        made = make_token(one.http, "everywhere", "view")
        at_once = other.http.get("/v1/runs", headers=bearer(made["token"])).status_code
        one.http.delete(f"/v1/tokens/{made['id']}")
        revoked = time.monotonic()
        while (status := other.http.get("/v1/runs", headers=bearer(made["token"])).status_code) == 200:
            assert time.monotonic() - revoked < LIMIT_S
            time.sleep(0.05)

    assert (200, 401) == (at_once, status)


def test_tokens_cached_five_seconds_ago_authorize_no_request():
    """
    Independent of the refresh task: every request checks this bound.
    """
    assert token_cache.REFRESH_S < token_cache.MAX_AGE_S < 5


def test_an_old_token_cache_authorizes_no_request_without_the_database(sqlite_url, monkeypatch):
    """
    The answer is 503 and not 401, so that a trainer retries.
    """
    monkeypatch.setattr(token_cache, "MAX_AGE_S", -1.0)
    monkeypatch.setattr(token_cache, "REFRESH_S", 0.05)
    away = threading.Event()
    with serving(sqlite_url, auth="on", admin_token=ADMIN) as service:
        service.http.headers.update(bearer(ADMIN))
        token = make_token(service.http, "a", "view")["token"]
        before = service.http.get("/v1/runs", headers=bearer(token)).status_code
        monkeypatch.setattr(token_cache.TokenCache, "_read", _failing_while(away, token_cache.TokenCache._read))
        away.set()
        # A query that began before the outage may still succeed.
        _status_in_the_end(service, token, 503)
        refused = service.http.get("/v1/runs", headers=bearer(token))
        away.clear()
        after = _status_in_the_end(service, token, 200)

    assert (200, 503, 200) == (before, refused.status_code, after)
    assert "database_unavailable" == refused.json()["code"]
    assert int(refused.headers["retry-after"]) >= 1


def test_a_request_does_not_wait_for_an_unresponsive_database(sqlite_url, monkeypatch):
    monkeypatch.setattr(token_cache, "MAX_AGE_S", -1.0)
    monkeypatch.setattr(token_cache, "REFRESH_TIMEOUT_S", 0.1)
    answers = threading.Event()
    read = token_cache.TokenCache._read

    def paused(self: token_cache.TokenCache, known: Any) -> Any:
        assert answers.wait(LIMIT_S)
        return read(self, known)

    with serving(sqlite_url, auth="on", admin_token=ADMIN) as service:
        service.http.headers.update(bearer(ADMIN))
        monkeypatch.setattr(token_cache.TokenCache, "_read", paused)
        refused = service.http.get("/v1/runs")
        answers.set()
        after = _status_in_the_end(service, ADMIN, 200)

    assert (503, 200) == (refused.status_code, after)


def _failing_while(away: threading.Event, read: Callable[..., Any]) -> Callable[..., Any]:
    def failing(self: token_cache.TokenCache, known: Any) -> Any:
        if away.is_set():
            raise DatabaseUnavailable("gone")
        return read(self, known)

    return failing


def _status_in_the_end(service: Service, token: str, wanted: int) -> int:
    """The answer, once it satisfies the condition or the timeout of the test is over."""
    began = time.monotonic()
    while (status := service.http.get("/v1/runs", headers=bearer(token)).status_code) != wanted:
        assert time.monotonic() - began < LIMIT_S
        time.sleep(0.05)
    return status


def test_an_expired_token_is_rejected(one_guarded: Service):
    token = make_token(one_guarded.http, "brief", "view", expires_in_s=1)["token"]
    began = time.monotonic()
    while (answer := one_guarded.http.get("/v1/runs", headers=bearer(token))).status_code == 200:
        assert time.monotonic() - began < LIMIT_S
        time.sleep(0.05)

    assert 401 == answer.status_code


def test_unknown_revoked_and_expired_tokens_get_the_same_answer(one_guarded: Service):
    revoked = make_token(one_guarded.http, "revoked", "view")
    one_guarded.http.delete(f"/v1/tokens/{revoked['id']}")
    expired = make_token(one_guarded.http, "expired", "view", expires_in_s=1)["token"]
    time.sleep(1.1)
    answers = [
        one_guarded.http.get("/v1/runs", headers=headers)
        for headers in (
            {"Authorization": ""},
            bearer(new_token()),
            bearer("rlr_" + "0" * 49),
            bearer(revoked["token"]),
            bearer(expired),
        )
    ]

    assert {401} == {answer.status_code for answer in answers}
    assert 1 == len({answer.content for answer in answers})
    assert {'Bearer realm="remotelr"'} == {answer.headers["www-authenticate"] for answer in answers}


def test_a_name_is_one_tokens_until_it_is_revoked(one_guarded: Service):
    first = make_token(one_guarded.http, "ci", "operate")
    taken = one_guarded.http.post("/v1/tokens", json={"name": "ci", "scope": "view"})
    one_guarded.http.delete(f"/v1/tokens/{first['id']}")
    free = one_guarded.http.post("/v1/tokens", json={"name": "ci", "scope": "view"})

    assert (409, "token_name_taken", 201) == (taken.status_code, taken.json()["code"], free.status_code)


@pytest.mark.parametrize(
    "wrong",
    [
        {"scope": "report"},
        {"scope": "view", "run": "r"},
        {"scope": "root"},
        {"scope": "view", "expires_in_s": 0},
        {"scope": "view", "digest": "0" * 64},
        {"scope": "view", "id": 1},
        {"scope": "view", "token": "rlr_mine"},
        {"scope": "view", "name": "a\nb"},
        {"scope": "view", "name": "=1+1"},
    ],
)
def test_an_invalid_new_token_is_rejected(one_guarded: Service, wrong: dict[str, Any]):
    assert 422 == one_guarded.http.post("/v1/tokens", json={"name": "wrong", **wrong}).status_code


def test_the_first_token_has_to_be_an_admins(sqlite_url):
    """
    Every later request needs a token, so the first one must be able to create others.
    """
    with serving(sqlite_url) as service:
        refused = service.http.post("/v1/tokens", json={"name": "a", "scope": "view"})
        made = make_token(service.http, "a", "admin")
        without = service.http.get("/v1/runs").status_code
        service.http.headers.update(bearer(made["token"]))
        later = service.http.post("/v1/tokens", json={"name": "b", "scope": "view"}).status_code
        last = service.http.delete(f"/v1/tokens/{made['id']}")

    assert (409, "admin_token_needed") == (refused.status_code, refused.json()["code"])
    assert (401, 201) == (without, later)
    assert (409, "admin_token_needed") == (last.status_code, last.json()["code"])


def test_without_tokens_everything_works_on_this_machine(service: Service):
    put = service.http.put("/v1/runs/r", json=RUN)
    report = service.http.post("/v1/runs/r/reports", json={"epoch": 0, "metrics": {}})
    tokens = service.http.get("/v1/tokens")

    assert (201, 200, 200) == (put.status_code, report.status_code, tokens.status_code)


def test_the_use_of_a_token_is_stored_at_the_latest_when_the_service_stops(database_url):
    with serving(database_url, auth="on", admin_token=ADMIN) as service:
        service.http.headers.update(bearer(ADMIN))
        used = make_token(service.http, "used", "view")
        make_token(service.http, "unused", "view")
        service.http.get("/v1/runs", headers=bearer(used["token"]))
    with serving(database_url, auth="on", admin_token=ADMIN) as service:
        listed = service.http.get("/v1/tokens", headers=bearer(ADMIN)).json()["tokens"]

    assert {"used": True, "unused": False} == {each["name"]: each["last_used_at"] is not None for each in listed}


def test_the_name_of_the_token_is_the_actor(one_guarded: Service):
    token = make_token(one_guarded.http, "night shift", "operate")["token"]
    one_guarded.http.put("/v1/runs/ordered", json=RUN)
    order = {"type": "set_learning_rate", "value": 0.05, "actor": "another operator", "reason": "too fast"}
    one_guarded.http.post("/v1/runs/ordered/commands", json=order, headers=bearer(token))
    events = one_guarded.http.get("/v1/runs/ordered/events?kind=command").json()["events"]

    assert ["night shift"] == [event["payload"]["actor"] for event in events]


def test_the_audit_keeps_the_commands_of_a_deleted_run(guarded: Service):
    token = make_token(guarded.http, "operator", "operate")["token"]
    guarded.http.put("/v1/runs/r", json=RUN)
    guarded.http.post("/v1/runs/r/commands", json={"type": "scale", "factor": 0.5}, headers=bearer(token))
    guarded.http.delete("/v1/runs/r")
    entries = guarded.http.get("/v1/audit").json()["entries"]
    deleted = entries[-1]

    assert ["token_created", "run_deleted"] == [entry["action"] for entry in entries]
    assert ("admin (settings)", "r") == (deleted["actor"], deleted["subject"])
    assert [("scale", "operator")] == [(each["type"], each["actor"]) for each in deleted["details"]["commands"]]


def test_a_policy_replaced_by_put_run_is_in_the_audit(one_guarded: Service):
    http = one_guarded.http
    token = make_token(http, "replacer", "operate")["token"]
    other = {"policy": {"type": "constant", "learning_rate": 0.2}, "on_conflict": "replace"}
    http.put("/v1/runs/replaced", json=RUN)
    statuses = [http.put("/v1/runs/replaced", json=other, headers=bearer(token)).status_code for _ in range(2)]
    entries = [entry for entry in http.get("/v1/audit").json()["entries"] if entry["action"] == "policy_set"]

    assert [200, 200] == statuses
    assert [("replacer", "replaced", 2)] == [
        (each["actor"], each["subject"], each["details"]["seq"]) for each in entries
    ]


def test_a_stream_ends_with_the_token_that_opened_it(one_guarded: Service, monkeypatch):
    monkeypatch.setattr("remotelr_service.features.streams.endpoints.HEARTBEAT_S", 0.2)
    made = make_token(one_guarded.http, "watcher", "view")
    one_guarded.http.put("/v1/runs/watched", json=RUN)
    end = partial(one_guarded.http.delete, f"/v1/tokens/{made['id']}")

    assert _stream_ends(one_guarded, end, bearer(made["token"]))


def test_a_stream_that_was_opened_without_a_token_ends_when_one_is_needed(sqlite_url, monkeypatch):
    monkeypatch.setattr("remotelr_service.features.streams.endpoints.HEARTBEAT_S", 0.2)
    with serving(sqlite_url) as service:
        service.http.put("/v1/runs/watched", json=RUN)

        assert _stream_ends(service, partial(make_token, service.http, "first", "admin"), {})


def _stream_ends(service: Service, end: Callable[[], object], headers: dict[str, str]) -> bool:
    """Whether a stream ends by itself after `end`; else this waits until the client gives up."""
    with (
        httpx.Client(base_url=service.url, timeout=LIMIT_S, trust_env=False, headers=headers) as http,
        http.stream("GET", "/v1/runs/watched/stream") as stream,
    ):
        lines = stream.iter_lines()
        next(lines)
        end()
        began = time.monotonic()
        return all(time.monotonic() - began < LIMIT_S for _ in lines)
