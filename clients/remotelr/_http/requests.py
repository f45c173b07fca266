"""The requests of the HTTP API v1, as pure functions: method, path, parameters and body of each call."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar
from urllib.parse import quote

from remotelr.rules.run.model import Report
from remotelr.rules.values.metrics import metrics_to_json

_KEY: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,199}")

Json = Mapping[str, Any]
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """An HTTP request. path: below the service's address, percent-encoded. body: JSON, or None for no body."""

    method: str
    path: str
    params: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None


def put_run(key: str, members: Json) -> Request:
    return _request("PUT", _path(key), body=members)


def get_run(key: str) -> Request:
    return _request("GET", _path(key))


def list_runs(*, experiment: str | None, status: str | None, tag: str | None, after: str | None, limit: int) -> Request:
    members = {"experiment": experiment, "status": status, "tag": tag, "after": after, "limit": str(limit)}
    return _request("GET", "/v1/runs", params=without_none(members))


def begin_attempt(key: str, members: Json) -> Request:
    return _request("POST", f"{_path(key)}/attempts", body=members)


def report(key: str, metrics: Mapping[str, float | None], members: Json) -> Request:
    """metrics: NaN and the infinities are sent by name, which JSON has no numbers for; None is left out."""
    measured = {name: float(value) for name, value in metrics.items() if value is not None}
    return _request("POST", f"{_path(key)}/reports", body={"metrics": metrics_to_json(measured), **members})


def report_batch(key: str, reports: Sequence[Report]) -> Request:
    members = {"reports": [_report_members(each) for each in reports]}
    return _request("POST", f"{_path(key)}/reports/batch", body=members)


def get_decision(key: str, *, after: int | None, wait_s: float | None) -> Request:
    after_seq = None if after is None else str(after)
    wait = None if wait_s is None else f"{wait_s:.3f}"
    return _request("GET", f"{_path(key)}/decision", params=without_none({"after": after_seq, "wait": wait}))


def command(key: str, members: Json) -> Request:
    return _request("POST", f"{_path(key)}/commands", body=members)


def get_commands(key: str, *, after: int, wait_s: float) -> Request:
    """after: the `seq` of the last known event. wait_s: how long the service waits for a command."""
    params = {"kind": "command", "after": str(after), "wait": f"{wait_s:.3f}"}
    return _request("GET", f"{_path(key)}/events", params=params)


def finish(key: str, status: str, last_seq: int | None = None) -> Request:
    return _request("POST", f"{_path(key)}/finish", body=without_none({"status": status, "last_seq": last_seq}))


def history(key: str, *, after: int | None, limit: int) -> Request:
    after_seq = None if after is None else str(after)
    return _request("GET", f"{_path(key)}/history", params=without_none({"after": after_seq, "limit": str(limit)}))


def _report_members(report: Report) -> Json:
    """The members without those that have their default."""
    members = {
        "attempt": report.attempt,
        "rank": report.rank or None,
        "weight": None if report.weight == 1.0 else report.weight,
        "step": report.step,
        "learning_rate": report.learning_rate,
        "last_seq": report.last_seq,
        "local": report.local or None,
    }
    return {"epoch": report.epoch, "metrics": metrics_to_json(report.metrics), **without_none(members)}


def run_key(key: str) -> str:
    """`key`, if the service accepts it as a run's key. Raises ValueError."""
    if _KEY.fullmatch(key) is None:
        form = "1 to 200 letters, digits, '.', '_', ':' or '-', beginning with a letter or digit"
        raise ValueError(f"a run's key must be {form}, got {key!r}")
    return key


def _path(key: str) -> str:
    return f"/v1/runs/{quote(run_key(key), safe='')}"


def _request(method: str, path: str, *, params: Mapping[str, str] | None = None, body: Json | None = None) -> Request:
    content = None if body is None else json.dumps(without_none(body), allow_nan=False).encode()
    return Request(method=method, path=path, params=params or {}, body=content)


def without_none(members: Mapping[str, T | None]) -> dict[str, T]:
    """The members that are not None."""
    return {name: value for name, value in members.items() if value is not None}
