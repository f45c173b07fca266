"""What the client sends is what the service takes: paths, parameters and members as `/openapi.json` has them."""

import json
import re
import uuid
from contextlib import suppress
from functools import partial

import pytest

from remotelr import Client, Run, ServiceRefused
from remotelr._http.requests import Request
from remotelr._http.responses import Response
from remotelr._http.transport import HttpTransport

POLICY = {"schedule": {"type": "constant", "learning_rate": 0.1}, "unit": "step"}

# Every order there is, with everything it takes.
ORDERS = (
    partial(Run.set_learning_rate, value=0.1, mode="one_shot", until_epoch=7),
    partial(Run.set_learning_rate, value=0.1, until_time="2030-01-01T00:00:00+00:00"),
    partial(Run.scale, factor=0.5),
    Run.release,
    Run.pause,
    Run.resume_schedule,
    partial(Run.replace_policy, policy=POLICY, state="reset"),
    partial(Run.extend, total=12, continuity="restart"),
    Run.stop,
    partial(Run.note, text="a remark"),
    partial(Run.cancel, seq=3),
)

# What a trainer's client has no use for, with the reason.
LEFT_OUT: dict[str, set[str]] = {
    "scale": {"value"},  # the older name of its factor
}


class Listening:
    """The real transport, and what went through it."""

    def __init__(self, url: str) -> None:
        self._real = HttpTransport(url)
        self.url = url
        self.sent: list[Request] = []

    def send(self, request: Request, timeout_s: float) -> Response:
        self.sent.append(request)
        return self._real.send(request, timeout_s)

    def close(self) -> None:
        self._real.close()


@pytest.fixture(scope="module")
def openapi(shared_service):
    return shared_service.http.get("/openapi.json").json()


@pytest.fixture(scope="module")
def sent(shared_service) -> list[Request]:
    """Every call of the client, with everything a caller can give it."""
    listening = Listening(shared_service.url)
    with Client(shared_service.url, transport=listening, timeout_s=60) as client:
        run = client.run(
            "mirror",
            policy=POLICY,
            initial_learning_rate=0.1,
            experiment="mirrors",
            tags={"a": "b"},
            world_size=1,
            steps_per_epoch=4,
            total_epochs=9,
            on_conflict="keep",
        )
        run.begin(0, "attempt-1", 0, world_size=1, gap=True, last_seq=1)
        run.report(0, {"loss": 1.0}, rank=0, weight=2.0, step=4, learning_rate=0.1, local=True)
        run.current_decision(after=1, wait_s=0.1)
        for order in ORDERS:
            with suppress(ServiceRefused):  # what is sent counts
                order(run, reason="why", actor="ada", key=uuid.uuid4().hex, expected_seq=3)
        list(run.history())
        list(client.runs(experiment="mirrors", status="running", tag="a:b"))
        run.refresh()
        run.finish(last_seq=1)
    return listening.sent


def test_every_call_of_the_client_is_documented_by_the_service(openapi, sent):
    undocumented = {}
    for request in sent:
        operation = _operation(openapi, request)
        parameters = {parameter["name"] for parameter in operation.get("parameters", [])}
        unknown = (set(request.params) - parameters) | (_members(request) - _properties(openapi, operation, request))
        if unknown:
            undocumented[request.path] = unknown

    assert undocumented == {}


def test_the_client_can_say_all_that_the_service_takes_from_a_trainer(openapi, sent):
    missing = {}
    for request in sent:
        operation = _operation(openapi, request)
        name = json.loads(request.body or b"{}").get("type", operation["operationId"])
        unsaid = _properties(openapi, operation, request) - _members(request) - LEFT_OUT.get(name, set())
        if unsaid:
            missing[name] = unsaid

    assert missing == {}


def _operation(openapi, request: Request):
    path = re.sub(r"^/v1/runs/mirror", "/v1/runs/{run}", request.path)
    return openapi["paths"][path][request.method.lower()]


def _members(request: Request) -> set[str]:
    return set() if request.body is None else set(json.loads(request.body))


def _properties(openapi, operation, request) -> set[str]:
    if "requestBody" not in operation:
        return set()
    schema = operation["requestBody"]["content"]["application/json"]["schema"]
    while "$ref" in schema or "oneOf" in schema:
        if "oneOf" in schema:
            schema = {"$ref": schema["discriminator"]["mapping"][json.loads(request.body)["type"]]}
        schema = openapi["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return set(schema["properties"])
