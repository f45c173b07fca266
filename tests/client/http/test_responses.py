"""The responses that the client accepts, and what it reads from them."""

import json

import pytest

from remotelr import ServiceRefused, StaleAttempt
from remotelr._http.responses import Response, Unreadable, read, read_answer, read_decision
from remotelr.rules import Decision, Waiting

DECISION = {
    "run": "mnist-7",
    "attempt": 1,
    "seq": 12,
    "epoch": 12,
    "step": None,
    "learning_rate": 0.005,
    "momentum": None,
    "reason": "plateau",
    "changed": True,
    "action": "continue",
    "plateau": {"best": 0.213, "wait": 0, "cooldown": 0},
    "state": {"schedule": {}},
    "replayed": False,
}


def answer(document: object, status: int = 200, content_type: str = "application/json") -> Response:
    return Response(status=status, headers={"content-type": content_type}, body=json.dumps(document).encode())


def test_a_decision_is_read_into_the_rules_own_type():
    assert Decision(**DECISION) == read_decision(read(answer(DECISION)))


def test_a_waiting_answer_says_how_many_ranks_are_there():
    document = {"status": "waiting", "run": "mnist-7", "attempt": 1, "epoch": 4, "have": 1, "need": 2}

    assert Waiting(run="mnist-7", attempt=1, epoch=4, have=1, need=2) == read_answer(read(answer(document, 202)))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("learning_rate", "0.1"),
        ("learning_rate", -0.1),
        ("learning_rate", 1e9),
        ("learning_rate", 10**400),
        ("momentum", -(10**400)),
        ("learning_rate", True),
        ("learning_rate", None),
        ("epoch", 1.5),
        ("epoch", True),
        ("seq", "12"),
        ("state", None),
        ("state", []),
        ("action", 1),
        ("changed", "yes"),
        ("run", None),
    ],
)
def test_a_decision_with_an_invalid_member_is_unreadable(name, value):
    with pytest.raises(Unreadable, match=name):
        read_decision({**DECISION, name: value})


def test_a_reason_of_a_newer_service_is_readable():
    assert read_decision({**DECISION, "reason": "moonphase"}).reason == "moonphase"


@pytest.mark.parametrize(
    "response",
    [
        answer(DECISION, content_type="text/html; charset=utf-8"),
        Response(status=200, headers={}, body=b"{}"),
        Response(status=200, headers={"content-type": "application/json"}, body=b'{"run": "mnis'),
        Response(status=200, headers={"content-type": "application/json"}, body=b'{"learning_rate": NaN}'),
        Response(status=200, headers={"content-type": "application/json"}, body=b"\xff\xfe{}"),
        Response(status=200, headers={"content-type": "application/json"}, body=b"[" * 100_000),
        answer([DECISION]),
        answer({"detail": "Not Found"}, status=404),
        Response(status=302, headers={"location": "http://login.hotel/"}),
    ],
    ids=["html", "no type", "truncated", "nan", "not utf-8", "deep", "list", "another's 404", "redirect"],
)
def test_an_answer_that_the_service_would_not_write_is_unreadable(response):
    with pytest.raises(Unreadable):
        read(response)


def test_a_refusal_carries_the_code_the_sentence_and_the_members():
    problem = {"type": "about:blank", "title": "x", "status": 409, "detail": "both values", "code": "report_conflict"}

    with pytest.raises(ServiceRefused) as refused:
        read(answer({**problem, "known": {"val_loss": 0.1}}, 409, "application/problem+json"))

    error = refused.value
    assert (error.code, error.detail, error.status) == ("report_conflict", "both values", 409)
    assert error.members["known"] == {"val_loss": 0.1}
    assert str(error) == "both values (report_conflict)"


def test_a_stale_attempt_has_its_own_exception():
    with pytest.raises(StaleAttempt):
        read(answer({"code": "stale_attempt", "detail": "stop", "action": "stop"}, 409, "application/problem+json"))
