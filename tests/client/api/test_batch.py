"""Reports that could not be sent before are sent together."""

import re

import pytest

from remotelr import Client, ServiceRefused
from remotelr.rules import Decision, Report
from support.fixtures.service import Service

HALVING = {"type": "step", "step_size": 1, "gamma": 0.5, "initial_learning_rate": 0.8}
NOWHERE = "http://127.0.0.1:9"


@pytest.fixture
def run(shared_service: Service, request: pytest.FixtureRequest):
    with Client(shared_service.url) as client:
        run = client.run(re.sub(r"[^A-Za-z0-9]+", "-", request.node.name), policy=HALVING)
        run.begin(0)
        yield run


def report_of(epoch: int, **rest) -> Report:
    return Report(epoch=epoch, metrics={"val_loss": 1.0}, **rest)


def test_a_batch_is_answered_report_by_report(run):
    answers = run.report_batch(
        [report_of(0), report_of(1, learning_rate=0.4, local=True), report_of(2, weight=2.0, step=30)]
    )

    assert [answer.learning_rate for answer in answers] == [0.4, 0.2, 0.1]
    assert run.decision == answers[-1]
    assert [row.metrics for row in run.history()] == [{"val_loss": 1.0}] * 3


def test_the_answers_end_with_the_first_refusal(run):
    run.report(0, {"val_loss": 1.0})

    *_, last = run.report_batch([report_of(0), Report(epoch=0, metrics={"val_loss": 2.0}), report_of(1)])

    assert isinstance(last, ServiceRefused)
    assert (last.code, last.members["epoch"]) == ("report_conflict", 0)
    assert run.decision.epoch == 1


def test_a_batch_with_something_in_it_that_is_no_report_is_refused_whole(run):
    with pytest.raises(ServiceRefused) as refused:
        run.report_batch([report_of(0), report_of(-1)])

    assert (refused.value.code, refused.value.status) == ("invalid_request", 422)
    assert isinstance(run.report(0, {"val_loss": 1.0}), Decision)


def test_one_try_says_whether_the_service_is_there(shared_service):
    with Client(shared_service.url) as there, Client(NOWHERE) as nowhere:
        assert there.answers("unknown", timeout_s=30)
        assert not nowhere.answers("unknown", timeout_s=30)
