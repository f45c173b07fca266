"""The responses that the client accepts, and what it reads from them."""

import json
import unicodedata
from contextlib import nullcontext

import pytest

from remotelr import ServiceRefused, StaleAttempt
from remotelr._http.responses import (
    Response,
    Unreadable,
    failure_reason,
    of_attempt,
    of_run,
    read,
    read_answer,
    read_attempt,
    read_batch,
    read_decision,
)
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


@pytest.mark.parametrize("value", [-0.0, -5e-324])
def test_a_negative_zero_is_no_learning_rate(value):
    with pytest.raises(Unreadable, match="learning_rate"):
        read_decision({**DECISION, "learning_rate": value})


@pytest.mark.parametrize(
    ("reader", "document"),
    [
        (read_decision, DECISION),
        (read_attempt, {"attempt": 1, "decision": DECISION}),
        (read_batch, {"answers": [{**DECISION, "run": "mnist-8"}, DECISION]}),
    ],
    ids=["decision", "attempt", "batch"],
)
def test_an_answer_about_another_run_is_unreadable(reader, document):
    with pytest.raises(Unreadable, match="the answer's run is 'mnist-7'"):
        of_run("mnist-8", reader)(document)


def test_an_answer_about_the_requested_run_is_read():
    assert of_run("mnist-7", read_decision)(DECISION) == read_decision(DECISION)


def test_the_decision_of_another_attempt_than_the_begun_one_is_unreadable():
    with pytest.raises(Unreadable, match="attempt"):
        read_attempt({"attempt": 2, "decision": DECISION})


@pytest.mark.parametrize(
    ("attempt", "replayed", "readable"),
    [(1, False, True), (None, False, True), (2, False, False), (2, True, True), (0, True, False)],
)
def test_a_report_is_answered_by_its_own_attempt_or_replayed_from_an_older_one(attempt, replayed, readable):
    decision = read_decision({**DECISION, "replayed": replayed})

    with nullcontext() if readable else pytest.raises(Unreadable, match="attempt"):
        assert of_attempt(attempt, decision) is decision


def test_the_text_of_a_refusal_is_short_and_without_control_characters():
    problem = {"code": "run_\x07finished", "detail": "\x1b[31m\r\n\u202e" + "long " * 2_400}

    with pytest.raises(ServiceRefused) as refused:
        read(answer(problem, 409, "application/problem+json"))

    assert len(str(refused.value)) < 650
    assert not any(unicodedata.category(each).startswith("C") for each in str(refused.value))
    assert "[31m" in refused.value.detail


def test_the_reason_of_a_retry_is_without_control_characters_too():
    assert failure_reason(answer({"detail": "\x1b[2J" + "x" * 10_000}, 503)).startswith("HTTP 503: \ufffd[2Jxxx")
    assert len(failure_reason(answer({"detail": "x" * 10_000}, 503))) < 650
