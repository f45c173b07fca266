"""What goes over the wire, and which answers are believed."""

import json
import math

import pytest

from remotelr import ServiceRefused, StaleAttempt
from remotelr._http.wire import (
    Request,
    Response,
    Unreadable,
    begin_attempt,
    get_decision,
    put_run,
    read,
    read_answer,
    read_decision,
    report,
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


def test_a_report_names_what_json_has_no_number_for():
    request = report("mnist-7", {"val_loss": math.nan, "loss": math.inf, "low": -math.inf, "f1": 0.5}, {"epoch": 3})

    assert json.loads(request.body)["metrics"] == {"val_loss": "nan", "loss": "inf", "low": "-inf", "f1": 0.5}


def test_a_metric_that_was_not_measured_is_left_out():
    assert json.loads(report("mnist-7", {"val_loss": None}, {"epoch": 3}).body)["metrics"] == {}


def test_what_was_not_given_is_not_sent():
    assert json.loads(put_run("mnist-7", {"policy": {"type": "constant"}, "experiment": None}).body) == {
        "policy": {"type": "constant"}
    }


@pytest.mark.parametrize("key", ["../../x?y", "a/b", "my run", "", "-a", "a" * 201, "é", "a\n"])
def test_a_key_that_the_service_would_not_take_is_not_sent(key):
    with pytest.raises(ValueError, match="a run's key is 1 to 200 letters"):
        begin_attempt(key, {"epoch": 0})


def test_a_key_keeps_its_place_in_the_address():
    assert begin_attempt("jobs:mnist-7_b.2", {"epoch": 0}).path == "/v1/runs/jobs%3Amnist-7_b.2/attempts"


def test_a_wait_is_written_in_plain_digits():
    expected = Request(method="GET", path="/v1/runs/a/decision", params={"after": "3", "wait": "0.000"})

    assert expected == get_decision("a", after=3, wait_s=1e-7)


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
def test_a_decision_with_a_strange_member_is_not_believed(name, value):
    with pytest.raises(Unreadable, match=name):
        read_decision({**DECISION, name: value})


def test_a_reason_of_a_newer_service_is_no_stranger():
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


def test_a_stale_attempt_is_a_refusal_of_its_own():
    with pytest.raises(StaleAttempt):
        read(answer({"code": "stale_attempt", "detail": "stop", "action": "stop"}, 409, "application/problem+json"))
