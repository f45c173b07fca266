"""The service in memory says what the real one says."""

import re

import pytest

from remotelr import Client, ServiceRefused, ServiceUnreachable
from remotelr.rules import Command, Decision, Report
from remotelr.testing import InMemoryService

PLATEAU = {"type": "reduce_on_plateau", "monitor": "val_loss", "mode": "min", "factor": 0.5, "patience": 1}


def everything_one_can_ask(client: Client, key: str) -> list:
    """The answers of a whole story, refusals included."""
    answers: list = []
    run = client.run(key, policy=PLATEAU, initial_learning_rate=0.1, tags={"team": "vision"}, total_epochs=9)
    answers += [run.view, run.begin(0, "attempt-1"), run.report(0, {"val_loss": 1.0, "loss": float("nan")})]
    answers += [run.report(1, {"val_loss": 1.0}), run.report(1, {"val_loss": 1.0}), run.current_decision()]
    answers.append(run.scale(0.5, key="once"))
    answers.append(run.scale(0.5, key="once"))
    answers += run.report_batch(
        [Report(epoch=2, metrics={"val_loss": 1.0}), Report(epoch=1, metrics={"val_loss": 7.0})]
    )
    for refused in (
        lambda: run.report(0, {"val_loss": 3.0}),
        lambda: run.cancel(99),
        lambda: client.run(key, policy={**PLATEAU, "patience": 3}, initial_learning_rate=0.1),
        lambda: client.run("another", policy={"type": "cosin"}),
        lambda: client.get_run("unknown"),
        lambda: run.begin(7, "attempt-2"),
    ):
        with pytest.raises(ServiceRefused) as refusal:
            refused()
        answers.append((refusal.value.code, refusal.value.status, refusal.value.detail))
    answers.append(run.begin(1, "attempt-2"))
    answers += list(run.history())
    run.finish()
    answers += [run.view, [each.key for each in client.runs() if each.key == key]]
    return answers


def plain(answer):
    """What does not depend on when it was asked."""
    return re.sub(r"datetime\(.*?\)", "", str(answer))


def test_every_answer_is_the_real_ones(shared_service):
    service = InMemoryService()
    with Client(shared_service.url) as real, Client(service.url, transport=service) as memory:
        expected, answers = everything_one_can_ask(real, "answers"), everything_one_can_ask(memory, "answers")

    assert [plain(answer) for answer in answers] == [plain(answer) for answer in expected]


def test_an_in_memory_service_that_is_away_answers_no_request():
    service = InMemoryService()
    client = Client(service.url, transport=service, timeout_s=0.05)
    run = client.run("a", policy=PLATEAU, initial_learning_rate=0.1)

    service.away = True
    with pytest.raises(ServiceUnreachable):
        run.begin(0)
    service.away = False

    assert isinstance(run.begin(0), Decision)


def test_decisions_and_requests_of_the_in_memory_service_are_readable():
    service = InMemoryService()
    with Client(service.url, transport=service) as client:
        run = client.run("a:b", policy=PLATEAU, initial_learning_rate=0.1)
        run.begin(0)
        for epoch in range(3):
            run.report(epoch, {"val_loss": 1.0})
        service.command("a:b", Command(type="stop"))
        last = run.report(3, {"val_loss": 1.0})

    assert service.learning_rates("a:b") == pytest.approx([0.1, 0.1, 0.05, 0.025, 0.0125])
    assert last.action == "stop"
    assert service.requests[:3] == ["PUT /v1/runs/a%3Ab", "POST /v1/runs/a%3Ab/attempts", "POST /v1/runs/a%3Ab/reports"]
    assert [event.kind for event in service.events("a:b")] == [
        "created",
        "attempt",
        *["report"] * 3,
        "command",
        "report",
    ]
