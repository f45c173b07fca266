"""A RemoteLR service in memory, for tests of code that uses the client: no server, no database, no sockets.

    >>> from remotelr import Client
    >>> from remotelr.testing import InMemoryService
    >>> service = InMemoryService()
    >>> with Client(service.url, transport=service) as client:
    ...     halving = {"type": "step", "step_size": 1, "gamma": 0.5}
    ...     run = client.run("mnist-7", policy=halving, initial_learning_rate=0.8)
    ...     first = run.begin(epoch=0)
    ...     second = run.report(0, {"val_loss": 0.7})
    >>> first.learning_rate, second.learning_rate
    (0.8, 0.4)
    >>> service.learning_rates("mnist-7")
    [0.8, 0.4]

It decides by the same rules and answers like the real service, without its metrics, tokens, experiments and previews;
a long poll is answered at once.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields, replace
from datetime import UTC, datetime
from typing import Any, get_args
from urllib.parse import unquote

from remotelr._http.requests import Request
from remotelr._http.responses import Response
from remotelr._http.transport import NoAnswer
from remotelr.rules import (
    AttemptRequest,
    Command,
    Decision,
    Event,
    Report,
    RulesError,
    RunSpec,
    Waiting,
    command_from_json,
    command_to_json,
    is_command,
    metrics_from_json,
    policy_from_json,
    policy_to_json,
)
from remotelr.rules.commands.status import command_record
from remotelr.rules.local_run import LocalRun
from remotelr.rules.run.command import OperatorCommandType
from remotelr.rules.run.decision import decision_to_json, waiting_to_json
from remotelr.rules.run.events import OF_A_POINT
from remotelr.rules.transitions.decide import rate_beneath

__all__ = ["InMemoryService"]

_PATH = re.compile(r"/v1/runs/(?P<key>[^/]+)(?P<call>(/[a-z0-9]+)*)")
_COMMAND = re.compile(r"GET /commands/(?P<seq>[0-9]+)")
_INVALID = ("invalid_policy", "invalid_report", "invalid_command")
# The commands accepted over HTTP; the service itself sends `limits`.
_ACCEPTED = frozenset(get_args(OperatorCommandType))
_SPEC = ("initial_learning_rate", "world_size", "steps_per_epoch", "total_epochs")
_POSITION = ("policy_version", "attempt", "epoch", "step", "learning_rate", "status")


class _HostedRun(LocalRun):
    """A run of the service. times: of each event, by its `seq`."""

    def __init__(self, key: str, spec: RunSpec, experiment: str | None, tags: Mapping[str, str]) -> None:
        self.experiment = experiment
        self.tags = tags
        self.times: dict[int, str] = {}
        super().__init__(key, spec)

    def append(self, event: Event) -> None:
        super().append(event)
        self.times[event.seq] = datetime.now(UTC).isoformat()


class InMemoryService:
    """A service to pass to a client or a callback as `transport=`, with `url` as the address.

    away: while True, no request gets an answer.
    requests: method and path of each answered request.
    """

    url = "http://remotelr.test"

    def __init__(self) -> None:
        self.away = False
        self.requests: list[str] = []
        self._runs: dict[str, _HostedRun] = {}

    def learning_rates(self, run: str) -> list[float]:
        """The effective rate of each decided epoch, from epoch 0 on."""
        events = [event for event in self.events(run) if event.superseded_by is None and event.decision is not None]
        rates = {event.decision.epoch: event.decision.learning_rate for event in events if event.decision is not None}
        return [rates[epoch] for epoch in sorted(rates)]

    def events(self, run: str) -> list[Event]:
        """The log of the run, oldest first. Raises KeyError for an unknown run."""
        return list(self._runs[run].log.events)

    def command(self, run: str, command: Command) -> None:
        """Execute an operator's command. Raises InvalidCommand, SeqConflict, and KeyError for an unknown run."""
        self._runs[run].command(command)

    def send(self, request: Request, timeout_s: float) -> Response:
        """The response to `request`. Raises NoAnswer while `away`."""
        if self.away:
            raise NoAnswer("the test has set `away`")
        self.requests.append(f"{request.method} {request.path}")
        try:
            return self._answer(request)
        except RulesError as refusal:
            return _problem(422 if refusal.code in _INVALID else 409, refusal.code, refusal.message, refusal.details)
        except (KeyError, TypeError, ValueError) as error:
            return _problem(422, "invalid_request", f"{type(error).__name__}: {error}", {})

    def close(self) -> None:
        """Do nothing: there is no connection."""

    def _answer(self, request: Request) -> Response:
        found = _PATH.fullmatch(request.path)
        body = json.loads(request.body or b"{}")
        if request.path == "/v1/runs" and request.method == "GET":
            return _response(200, {"runs": [_run(self._runs[key]) for key in sorted(self._runs)], "next": None})
        if found is None:
            return _problem(404, "not_found", f"there is nothing at {request.path}", {})
        key, call = unquote(found["key"]), f"{request.method} {found['call']}".strip()
        if call == "PUT":
            return self._put(key, body)
        if key not in self._runs:
            return _problem(404, "run_not_found", f"there is no run {key!r}", {})
        command_path = _COMMAND.fullmatch(call)
        if command_path is not None:
            return _one_command(self._runs[key], int(command_path["seq"]))
        answer = _CALLS.get(call)
        if answer is None:
            return _problem(404, "not_found", f"there is nothing at {request.path}", {})
        return answer(self._runs[key], body)

    def _put(self, key: str, body: dict[str, Any]) -> Response:
        members = {name: body[name] for name in _SPEC if body.get(name) is not None}
        spec = RunSpec(policy=policy_from_json(body["policy"]), **members)
        known = self._runs.get(key)
        if known is not None:
            known.put(spec, body.get("on_conflict", "error"))
            return _response(200, _run(known))
        self._runs[key] = _HostedRun(key, spec, body.get("experiment"), body.get("tags") or {})
        return _response(201, _run(self._runs[key]))


def _begin(hosted: _HostedRun, body: dict[str, Any]) -> Response:
    answer = hosted.begin(AttemptRequest(**body))
    return _response(200, {"attempt": answer.attempt, "decision": decision_to_json(answer)})


def _report(hosted: _HostedRun, body: dict[str, Any]) -> Response:
    answer = hosted.report(_report_of(body))
    return _response(202 if isinstance(answer, Waiting) else 200, _answer(answer))


def _report_batch(hosted: _HostedRun, body: dict[str, Any]) -> Response:
    answers: list[dict[str, Any]] = []
    for report in [_report_of(each) for each in body["reports"]]:
        try:
            answer = hosted.report(report)
        except RulesError as refusal:
            detail = {"detail": refusal.message, "problem": dict(refusal.details)}
            answers.append({"status": "refused", "code": refusal.code, **detail})
            break
        answers.append(_answer(answer))
    return _response(200, {"answers": answers})


def _command(hosted: _HostedRun, body: dict[str, Any]) -> Response:
    if body["type"] not in _ACCEPTED or "only" in body:
        raise ValueError(f"type must be a command without `only`, got {body['type']!r}")
    key, expected_seq = body.pop("key", None), body.pop("expected_seq", None)
    event = hosted.command(replace(command_from_json(body, key), expected_seq=expected_seq))
    logged = event or next(event for event in hosted.log.events if is_command(event) and event.key == key)
    return _response(200, _command_answer(hosted, logged))


def _commands(hosted: _HostedRun) -> Response:
    commands = [_command_answer(hosted, event) for event in hosted.log.events if is_command(event)]
    return _response(200, {"run": hosted.run.key, "commands": commands, "next": None})


def _one_command(hosted: _HostedRun, seq: int) -> Response:
    event = next((event for event in hosted.log.events if event.seq == seq and is_command(event)), None)
    if event is None:
        detail = f"event {seq} of the run {hosted.run.key!r} is not a command"
        return _problem(404, "command_not_found", detail, {"run": hosted.run.key, "seq": seq})
    return _response(200, _command_answer(hosted, event))


def _command_answer(hosted: _HostedRun, event: Event) -> dict[str, Any]:
    dated = [(each, hosted.times[each.seq]) for each in hosted.log.events if each.seq >= event.seq]
    record = command_record(dated[0], dated[1:], hosted.run)
    command = record.command
    return {
        **{each.name: getattr(record, each.name) for each in fields(record)},
        "command": command_to_json(command),
        "history": [asdict(step) for step in record.history],
        "notices": [asdict(notice) for notice in record.notices],
        "type": command.type,
        "value": command.multiplier if command.type == "scale" else command.value,
    }


def _finish(hosted: _HostedRun, body: dict[str, Any]) -> Response:
    hosted.finish(body["status"], body.get("last_seq"))
    return _response(200, _run(hosted))


def _history(hosted: _HostedRun) -> Response:
    rates = {event.decision.epoch: event.decision.learning_rate for event in hosted.log.events if event.decision}
    points = {
        (event.epoch, event.superseded_by): event.decision
        for event in hosted.log.events
        if event.kind in OF_A_POINT and event.decision is not None
    }
    rows = [
        _row(event, rates, event.decision or points.get((event.epoch, event.superseded_by)))
        for event in hosted.log.events
        if event.kind == "report"
    ]
    return _response(200, {"run": hosted.run.key, "reports": rows, "next": None})


def _row(event: Event, rates: Mapping[int, float], decision: Decision | None) -> dict[str, Any]:
    return {
        "seq": event.seq,
        "epoch": event.epoch,
        "attempt": event.attempt,
        "rank": event.rank,
        "metrics": event.payload["metrics"],
        "learning_rate": rates.get(event.epoch or 0, 0.0),
        "used_learning_rate": event.payload.get("learning_rate"),
        "next_learning_rate": None if decision is None else decision.learning_rate,
        "reason": None if decision is None else decision.reason,
        "action": None if decision is None else decision.action,
        "superseded_by": event.superseded_by,
    }


_CALLS: Mapping[str, Callable[[_HostedRun, dict[str, Any]], Response]] = {
    "GET": lambda hosted, _: _response(200, _run(hosted)),
    "GET /decision": lambda hosted, _: _response(200, decision_to_json(hosted.decision)),
    "GET /history": lambda hosted, _: _history(hosted),
    "POST /attempts": _begin,
    "POST /reports": _report,
    "POST /reports/batch": _report_batch,
    "GET /commands": lambda hosted, _: _commands(hosted),
    "POST /commands": _command,
    "POST /finish": _finish,
}


def _report_of(body: dict[str, Any]) -> Report:
    if body["epoch"] < 0:
        raise ValueError(f"epoch must be >= 0, got {body['epoch']}")
    measured = {name: value for name, value in body["metrics"].items() if value is not None}
    return Report(**{**body, "metrics": metrics_from_json(measured)})


def _answer(answer: Decision | Waiting) -> dict[str, Any]:
    return waiting_to_json(answer) if isinstance(answer, Waiting) else decision_to_json(answer)


def _run(hosted: _HostedRun) -> dict[str, Any]:
    run, spec = hosted.run, hosted.run.spec
    return {
        "run": run.key,
        "experiment": hosted.experiment,
        "tags": dict(hosted.tags),
        "policy": policy_to_json(spec.policy),
        **{name: getattr(spec, name) for name in _SPEC},
        "limits": None if spec.limits is None else spec.limits.to_json(),
        **{name: getattr(run, name) for name in _POSITION},
        "learning_rate_beneath": rate_beneath(run),
        "decision": decision_to_json(hosted.decision),
    }


def _response(status: int, document: Mapping[str, Any]) -> Response:
    body = json.dumps(document, allow_nan=False).encode()
    return Response(status=status, headers={"content-type": "application/json"}, body=body)


def _problem(status: int, code: str, detail: str, members: Mapping[str, Any]) -> Response:
    problem = {"type": "about:blank", "title": code, "status": status, "code": code, "detail": detail, **members}
    body = json.dumps(problem, default=str).encode()
    return Response(status=status, headers={"content-type": "application/problem+json"}, body=body)
