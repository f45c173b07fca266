"""The OpenAPI document: committed, true, complete; and the pages at /docs, which need no internet."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from remotelr_service.http.problems import PROBLEMS
from remotelr_service.server.app import create_app
from remotelr_service.settings import Settings

COMMITTED = Path(__file__).parents[3] / "openapi.json"
DOCUMENT = create_app(Settings()).openapi()
OPERATIONS = [
    (f"{method.upper()} {path}", operation)
    for path, operations in DOCUMENT["paths"].items()
    for method, operation in operations.items()
]


def test_the_committed_document_is_the_one_the_service_gives():
    assert json.loads(COMMITTED.read_text()) == DOCUMENT, "openapi.json is old: run `remotelr openapi > openapi.json`"


def test_operations_have_names_of_their_own_that_stay():
    assert {
        "report", "begin_attempt", "get_decision", "put_run", "get_run", "tag_run", "delete_run", "list_runs",
        "finish_run", "get_history", "list_events", "command", "list_commands", "get_command", "bulk_command",
        "get_bulk_command", "put_experiment", "get_experiment", "list_experiments", "get_decision_of_epoch",
        "what_if", "get_replay_policy", "preview_policy", "get_policy_schema", "stream_run", "stream_runs",
        "create_token", "list_tokens", "revoke_token", "list_audit", "livez", "readyz", "get_metrics", "get_version",
        "report_batch",
    } == {operation["operationId"] for _, operation in OPERATIONS}  # fmt: skip


@pytest.mark.parametrize(("name", "operation"), OPERATIONS)
def test_every_operation_tells_its_problems_as_problems(name, operation):
    for status, response in operation["responses"].items():
        media_types = set(response.get("content", {}))
        if int(status) >= 400:
            assert {"application/problem+json"} == media_types, (name, status)
            assert re.search(r"`[a-z_]+`: ", response["description"]), (name, status)


@pytest.mark.parametrize(("name", "operation"), OPERATIONS)
def test_every_operation_and_parameter_is_explained(name, operation):
    assert operation["description"], name
    assert all(parameter.get("description") for parameter in operation.get("parameters", ())), name


def test_every_named_problem_exists():
    named = set(re.findall(r"`([a-z_]+)`: ", " ".join(
        response["description"] for _, operation in OPERATIONS for response in operation["responses"].values()
    )))  # fmt: skip

    assert named <= set(PROBLEMS)


def test_every_reference_leads_somewhere():
    references = set(re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(DOCUMENT)))

    assert references == set(DOCUMENT["components"]["schemas"])


def test_bodies_forbid_unknown_fields_and_show_their_bounds():
    report = DOCUMENT["components"]["schemas"]["ReportRequest"]

    assert report["additionalProperties"] is False
    assert (0, 10_000_000) == (report["properties"]["epoch"]["minimum"], report["properties"]["epoch"]["maximum"])


def test_answers_match_the_openapi_document(shared_service):
    """FastAPI validates models that routes return; responses that routes build are checked here."""
    policy = {"schedule": {"type": "constant", "learning_rate": 0.1}, "aggregate": {"ranks": "all"}}
    shared_service.http.put("/v1/runs/described", json={"policy": policy, "world_size": 2})
    waiting = shared_service.http.post("/v1/runs/described/reports", json={"epoch": 0, "metrics": {}})

    assert (202, schema("WaitingAnswer")) == (waiting.status_code, set(waiting.json()))


def schema(name: str) -> set[str]:
    properties: dict[str, Any] = DOCUMENT["components"]["schemas"][name]["properties"]
    return set(properties)


def test_the_document_is_served(shared_service):
    assert DOCUMENT == shared_service.http.get("/openapi.json").json()


def test_the_documentation_loads_nothing_from_outside(shared_service):
    page = shared_service.http.get("/docs")
    loaded = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    answers = [shared_service.http.get(f"/{path}") for path in loaded]

    assert (200, 4) == (page.status_code, len(loaded))
    assert [200] * 4 == [answer.status_code for answer in answers]
    assert all(len(answer.content) > 50 for answer in answers)
    assert "default-src 'self'" in page.headers["content-security-policy"]
    assert "http" not in page.text.replace("http-equiv", "")


def test_the_documentation_page_sends_no_request_to_a_validator(shared_service):
    assert "validatorUrl: null" in shared_service.http.get("/docs/start.js").text


@pytest.mark.parametrize("path", ["/docs/../app.py", "/docs/%2e%2e/__init__.py", "/docs/__init__.py", "/docs/"])
def test_the_documentation_gives_no_other_file(shared_service, path):
    assert 404 == shared_service.http.get(path).status_code
