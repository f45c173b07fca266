"""The responses of the HTTP API v1, as pure functions and the types that they return.

A response is accepted only if the service could have written it: JSON with the right content type, member names and
types, and rates within the service's bounds. Any other response (a login page, a truncated body, a proxy's error
page) raises Unreadable, and the caller retries it as if there had been none.
"""

import json
import math
import sys
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Generic, TypeVar, cast, get_args

from remotelr._http.requests import Json
from remotelr.errors import ServiceRefused, StaleAttempt
from remotelr.rules.errors import RulesError
from remotelr.rules.run.command import Command, CommandType, command_from_json
from remotelr.rules.run.decision import Action, Decision, Reason, Waiting
from remotelr.rules.values.metrics import metrics_from_json

# The service's bound on every learning rate.
MAX_LEARNING_RATE: Final = 1e3

# Characters of a service's text in an error or a warning.
_MAX_SHOWN: Final = 600

T = TypeVar("T")
A = TypeVar("A")


class Unreadable(Exception):
    """The response cannot have come from the service."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """An HTTP response. headers: by names in lower case."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunView:
    """A run as the service last described it.
    spec: the JSON of its policy, initial_learning_rate, world_size and lengths.
    epoch: the next epoch to be reported; `learning_rate` is its rate, `step` the optimizer steps before it.
    decision: the decision in force.
    """

    key: str
    experiment: str | None
    tags: Mapping[str, str]
    spec: Json
    policy_version: int
    attempt: int
    epoch: int
    step: int | None
    learning_rate: float
    status: str
    decision: Decision


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandReceipt:
    """The service's acknowledgement of a command. effective_from: the first epoch whose rate it affects."""

    run: str
    seq: int
    effective_from: int


@dataclass(frozen=True, slots=True)
class LoggedCommand:
    """A command and the `seq` of its event."""

    seq: int
    command: Command


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportRecord:
    """One report of one rank in the log.
    learning_rate: decided for the epoch. used_learning_rate: reported by the trainer.
    next_learning_rate, reason: of the decision; None while other ranks are missing.
    superseded_by: the attempt that rewound the run to before this report; None if the report is effective.
    """

    epoch: int
    attempt: int
    seq: int
    rank: int
    metrics: Mapping[str, float]
    learning_rate: float | None
    used_learning_rate: float | None
    next_learning_rate: float | None
    reason: str | None
    superseded_by: int | None


@dataclass(frozen=True, slots=True)
class Page(Generic[T, A]):
    """A part of a list. next: the `after` of the next page; None on the last page."""

    items: Sequence[T]
    next: A | None


def read(response: Response) -> Json:
    """The JSON object of a response with a 2xx status. Raises ServiceRefused and Unreadable."""
    document = _document(response)
    if 200 <= response.status < 300:
        return document
    raise _refusal(response.status, document)


def of_run(key: str, read_answer: Callable[[Json], T]) -> Callable[[Json], T]:
    """`read_answer` for the run `key` only: a proxy that confuses connections can return an answer about another run.
    The members `run` of the response, of its `decision` and of its `answers` must be `key`, if they are there.
    """

    def read_checked(document: Json) -> T:
        answers = document.get("answers")
        for each in (document, document.get("decision"), *(answers if isinstance(answers, list) else ())):
            if isinstance(each, dict) and each.get("run", key) != key:
                raise _unreadable("run", each["run"])
        return read_answer(document)

    return read_checked


def of_attempt(attempt: int | None, answer: Decision | Waiting) -> Decision | Waiting:
    """`answer`, if it can belong to a report of `attempt`; only a replayed decision can be of an older attempt."""
    replayed = isinstance(answer, Decision) and answer.replayed
    if attempt is None or answer.attempt == attempt or (replayed and answer.attempt < attempt):
        return answer
    raise _unreadable("attempt", answer.attempt)


def read_decision(document: Json) -> Decision:
    """Raises Unreadable, as all readers here do."""
    return Decision(
        run=_text(document, "run"),
        **_integers(document, "attempt", "seq", "epoch"),
        step=_optional(_integer, document, "step"),
        learning_rate=_rate(document, "learning_rate"),
        momentum=_optional(_number, document, "momentum"),
        # Any text: a newer service may have further reasons and actions.
        reason=cast(Reason, _text(document, "reason")),
        changed=_boolean(document, "changed"),
        action=cast(Action, _text(document, "action")),
        plateau=_optional(_object, document, "plateau"),
        state=_object(document, "state"),
        drift=_optional(_number, document, "drift"),
        why=_optional(_object, document, "why"),
        rollback_to=_optional(_integer, document, "rollback_to"),
        replayed=_boolean(document, "replayed"),
    )


def read_answer(document: Json) -> Decision | Waiting:
    if document.get("status") != "waiting":
        return read_decision(document)
    return Waiting(
        run=_text(document, "run"),
        **_integers(document, "attempt", "epoch", "have", "need"),
    )


def read_batch(document: Json) -> list[Decision | Waiting | ServiceRefused]:
    """One answer for each report, up to and including the first that is refused."""
    return [_batch_answer(answer) for answer in _objects(document, "answers")]


def _batch_answer(document: Json) -> Decision | Waiting | ServiceRefused:
    if document.get("status") != "refused":
        return read_answer(document)
    members = {**_object(document, "problem"), "code": _text(document, "code"), "detail": _text(document, "detail")}
    return _refusal(409, members)


def read_run(document: Json) -> RunView:
    spec = {name: document.get(name) for name in ("initial_learning_rate", "steps_per_epoch", "total_epochs")}
    return RunView(
        key=_text(document, "run"),
        experiment=_optional(_text, document, "experiment"),
        tags=_object(document, "tags"),
        spec={**spec, "policy": _object(document, "policy"), "world_size": _integer(document, "world_size")},
        **_integers(document, "policy_version", "attempt", "epoch"),
        step=_optional(_integer, document, "step"),
        learning_rate=_rate(document, "learning_rate"),
        status=_text(document, "status"),
        decision=read_decision(_object(document, "decision")),
    )


def read_runs(document: Json) -> Page[RunView, str]:
    return Page([read_run(run) for run in _objects(document, "runs")], _optional(_text, document, "next"))


def read_attempt(document: Json) -> Decision:
    decision = read_decision(_object(document, "decision"))
    if decision.attempt != _integer(document, "attempt"):
        raise _unreadable("attempt", decision.attempt)
    return decision


def read_history(document: Json) -> Page[ReportRecord, int]:
    return Page([_report_record(row) for row in _objects(document, "reports")], _optional(_integer, document, "next"))


def _report_record(document: Json) -> ReportRecord:
    return ReportRecord(
        **_integers(document, "epoch", "attempt", "seq", "rank"),
        metrics=_metrics(document, "metrics"),
        learning_rate=_optional(_rate, document, "learning_rate"),
        used_learning_rate=_optional(_number, document, "used_learning_rate"),
        next_learning_rate=_optional(_rate, document, "next_learning_rate"),
        reason=_optional(_text, document, "reason"),
        superseded_by=_optional(_integer, document, "superseded_by"),
    )


def read_receipt(document: Json) -> CommandReceipt:
    return CommandReceipt(run=_text(document, "run"), **_integers(document, "seq", "effective_from"))


def read_commands(document: Json) -> list[LoggedCommand]:
    """The commands of a page of events, without those that only a newer package knows."""
    events = [event for event in _objects(document, "events") if event.get("kind") == "command"]
    commands = [(_integer(event, "seq"), _command(_object(event, "payload"))) for event in events]
    return [LoggedCommand(seq, command) for seq, command in commands if command is not None]


def _command(payload: Json) -> Command | None:
    if payload.get("type") not in get_args(CommandType):
        return None
    try:
        return command_from_json(payload)
    except (LookupError, TypeError, ValueError, AttributeError, RulesError):
        return None


def failure_reason(response: Response) -> str:
    """The reason in a response that is worth a retry."""
    try:
        document = _document(response)
    except Unreadable as error:
        return str(error)
    return f"HTTP {response.status}: {shown(document.get('detail') or document.get('title') or document.get('code'))}"


def shown(text: object) -> str:
    """`text` for a terminal: its beginning, with the control characters replaced."""
    whole = str(text)
    cut = whole if len(whole) <= _MAX_SHOWN else f"{whole[:_MAX_SHOWN]}…"
    return "".join("\N{REPLACEMENT CHARACTER}" if unicodedata.category(each)[0] == "C" else each for each in cut)


def _document(response: Response) -> Json:
    content_type = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type not in ("application/json", "application/problem+json"):
        raise Unreadable(
            f"HTTP {response.status} with content type {shown(content_type or 'none')} instead of JSON: check the "
            f"address of the service"
        )
    try:
        document = json.loads(response.body, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise Unreadable(f"HTTP {response.status} with a body that is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise Unreadable(f"HTTP {response.status} with JSON that is not an object")
    return document


def _refusal(status: int, document: Json) -> ServiceRefused:
    members = {name: value for name, value in document.items() if name not in ("type", "title", "status", "detail")}
    code, detail = _text(document, "code"), document.get("detail") or document.get("title") or f"HTTP {status}"
    kind = StaleAttempt if code == "stale_attempt" else ServiceRefused
    return kind(shown(code), shown(detail), status, members)


def _refuse_constant(token: str) -> float:
    raise ValueError(f"{token} is not JSON")


def _optional(read_member: Callable[[Json, str], T], document: Json, name: str) -> T | None:
    return None if document.get(name) is None else read_member(document, name)


def _reader(kind: type[T]) -> Callable[[Json, str], T]:
    def read_member(document: Json, name: str) -> T:
        value = document.get(name)
        # A bool is an int in Python, but not in JSON.
        if isinstance(value, kind) and isinstance(value, bool) == (kind is bool):
            return value
        raise _unreadable(name, value)

    return read_member


_text, _boolean, _integer, _object = _reader(str), _reader(bool), _reader(int), _reader(dict)


def _integers(document: Json, *names: str) -> dict[str, Any]:
    return {name: _integer(document, name) for name in names}


def _number(document: Json, name: str) -> float:
    value = document.get(name)
    # Compared before the conversion: an integer may exceed the range of a float.
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max:
        return float(value)
    raise _unreadable(name, value)


def _rate(document: Json, name: str) -> float:
    value = _number(document, name)
    # -0.0 is not less than 0.
    if math.copysign(1.0, value) > 0 and value <= MAX_LEARNING_RATE:
        return value
    raise _unreadable(name, value)


def _objects(document: Json, name: str) -> list[Json]:
    value = document.get(name)
    if isinstance(value, list) and all(isinstance(item, dict) for item in value):
        return value
    raise _unreadable(name, value)


def _metrics(document: Json, name: str) -> dict[str, float]:
    value = _object(document, name)
    try:
        return metrics_from_json(value)
    except (KeyError, OverflowError, TypeError, ValueError) as error:
        raise _unreadable(name, value) from error


def _unreadable(name: str, value: object) -> Unreadable:
    return Unreadable(f"the answer's {name} is {str(value)[:60]!r}")
