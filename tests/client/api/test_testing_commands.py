"""The service in memory takes the commands the real one takes, and describes their status in the same words."""

import json
from typing import Any

from remotelr._http.requests import Request
from remotelr.testing import InMemoryService

COSINE = {"type": "cosine", "initial_learning_rate": 0.1, "decay_steps": 10}
ORDERS: list[dict[str, Any]] = [
    {"type": "set_learning_rate", "value": 0.05, "until": {"epoch": 9}, "actor": "ada", "reason": "too fast"},
    {"type": "set_learning_rate", "value": 0.04, "mode": "one_shot"},
    {"type": "set_learning_rate", "value": 0.03, "mode": "rebase"},
    {"type": "scale", "factor": 0.5, "key": "once"},
    {"type": "scale", "factor": 0.5, "key": "once"},
    {"type": "scale", "factor": 0.7, "key": "once"},
    {"type": "pause"},
    {"type": "resume_schedule"},
    {"type": "extend", "total": 20, "continuity": "keep_fraction", "key": "longer"},
    {"type": "extend", "total": 20, "continuity": "keep_fraction", "key": "longer"},
    {"type": "replace_policy", "policy": {"type": "constant", "learning_rate": 0.02}, "state": "reset"},
    {"type": "note", "text": "a remark"},
    {"type": "release", "expected_seq": 1},
    {"type": "release"},
    {"type": "stop"},
    {"type": "cancel", "seq": 2},
    {"type": "cancel", "seq": 4, "reason": "a slip"},
    {"type": "explode"},
    {"type": "limits"},
]


def answers_of(ask) -> list[Any]:
    """Every answer of a story of commands."""
    answers = [ask("PUT", "/v1/runs/ordered", {"policy": COSINE, "total_epochs": 10})]
    answers.append(ask("POST", "/v1/runs/ordered/attempts", {"key": "first", "epoch": 0}))
    for epoch, order in enumerate(ORDERS):
        answers.append(ask("POST", "/v1/runs/ordered/commands", order))
        if epoch % 3 == 1:
            report = {"epoch": epoch // 3, "metrics": {"val_loss": 1.0}}
            answers.append(ask("POST", "/v1/runs/ordered/reports", report))
    answers.append(ask("POST", "/v1/runs/ordered/finish", {"status": "completed"}))
    answers.append(ask("GET", "/v1/runs/ordered/commands", None))
    answers.append(ask("GET", "/v1/runs/ordered/commands/3", None))
    answers.append(ask("GET", "/v1/runs/ordered/commands/1", None))
    return answers


def timeless(answer: Any) -> Any:
    """Without times, and without the keys that the real service makes up."""
    if isinstance(answer, dict):
        kept = {name: value for name, value in answer.items() if name not in ("at", "created_at", "updated_at", "key")}
        return {name: timeless(value) for name, value in kept.items()}
    return [timeless(item) for item in answer] if isinstance(answer, list) else answer


def test_the_in_memory_service_describes_commands_as_the_real_service_does(shared_service):
    memory = InMemoryService()

    def of_memory(method, path, body):
        content = None if body is None else json.dumps(body).encode()
        response = memory.send(Request(method=method, path=path, body=content), 1.0)
        return response.status, _said(response.status, json.loads(response.body))

    def of_the_service(method, path, body):
        response = shared_service.http.request(method, path, json=body)
        return response.status_code, _said(response.status_code, response.json())

    expected, answers = answers_of(of_the_service), answers_of(of_memory)

    for number, (real, mine) in enumerate(zip(expected, answers, strict=True)):
        assert real == mine, number


def _said(status: int, document: dict[str, Any]) -> Any:
    if status == 422 and document["code"] == "invalid_request":
        # What is wrong with a body is pydantic's to say.
        return document["code"]
    if status >= 400:
        return document["code"], document["detail"]
    if "commands" in document or "history" in document:
        return timeless(document)
    return document.get("learning_rate"), document.get("action")
