"""Conversion between rows and the types of the rules. Documents survive the way to text and back bit for bit."""

import json
from collections.abc import Mapping
from datetime import datetime
from functools import lru_cache
from typing import Any

from pydantic_core import to_json
from sqlalchemy import RowMapping

from remotelr.rules import Decision, Event, Policy, Run, RunSpec, RunState
from remotelr_service.db.tables import DECISION_COLUMNS

Row = Mapping[str, Any] | RowMapping

# The columns that are read as members of the same name. Writing names each: a loop takes 0.5 us longer for a report.
_OF_RUN = (
    *("policy_version", "rules_version", "seq", "attempt", "epoch", "step"),
    *("learning_rate", "decided_seq", "status"),
)
_OF_EVENT = ("seq", "kind", "attempt", "epoch", "rank", "key", "effective_from", "superseded_by")
_OF_DECISION = ("step", "learning_rate", "momentum", "reason", "action")

# `to_json` of pydantic is four times as fast; this one names the error of a document.
_STRICT = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=datetime.isoformat)


def to_text(document: Any) -> str:
    """Canonical JSON: members in the given order, the shortest digits that give the same float, times as ISO 8601.

    Raises ValueError for NaN and infinities.
    """
    text = to_json(document, inf_nan_mode="constants").decode()
    return _STRICT.encode(document) if "NaN" in text or "Infinity" in text else text


def from_text(text: str) -> Any:
    return json.loads(text)


def run_from_row(row: Row) -> Run:
    """The run of a row of `runs`."""
    spec, policy = _spec(row["spec"])
    return Run(
        key=row["key"],
        spec=spec,
        policy=policy,
        state=RunState.from_json(from_text(row["state"])),
        **{name: row[name] for name in _OF_RUN},
    )


def run_to_row(run: Run) -> dict[str, Any]:
    """The columns of `runs` that may change with every event."""
    return {
        "policy_version": run.policy_version,
        "rules_version": run.rules_version,
        "seq": run.seq,
        "attempt": run.attempt,
        "state": to_text(run.state.to_json()),
        "epoch": run.epoch,
        "step": run.step,
        "learning_rate": run.learning_rate,
        "decided_seq": run.decided_seq,
        "status": run.status,
    }


def spec_to_text(spec: RunSpec) -> str:
    return to_text(spec.to_json())


def event_from_row(key: str, row: Row) -> Event:
    """An event of the run `key`."""
    state = None if row["state"] is None else from_text(row["state"])
    notes = {} if row["notes"] is None else from_text(row["notes"])
    return Event(
        payload=from_text(row["payload"]),
        notes=notes,
        state=state,
        decision=None if row["learning_rate"] is None else _decision(key, row, state, notes.get("drift")),
        **{name: row[name] for name in _OF_EVENT},
    )


def event_to_row(run_id: int, event: Event, created_at: Any) -> dict[str, Any]:
    """Every column of `events` except `position`: the rows of one INSERT need the same columns."""
    return {
        "run_id": run_id,
        "seq": event.seq,
        "kind": event.kind,
        "attempt": event.attempt,
        "epoch": event.epoch,
        "rank": event.rank,
        "key": event.key,
        "effective_from": event.effective_from,
        "payload": to_text(event.payload),
        "notes": to_text(event.notes) if event.notes else None,
        "state": None if event.state is None else to_text(event.state),
        **(_NO_DECISION if event.decision is None else _decision_to_row(event.decision)),
        "superseded_by": event.superseded_by,
        "created_at": created_at,
    }


_NO_DECISION = dict.fromkeys(column.name for column in DECISION_COLUMNS)


def _decision_to_row(decision: Decision) -> dict[str, Any]:
    """`DECISION_COLUMNS`. Run, attempt, seq, epoch, state and drift are stored in the columns of the event."""
    return {
        "learning_rate": decision.learning_rate,
        "momentum": decision.momentum,
        "step": decision.step,
        "reason": decision.reason,
        "action": decision.action,
        "changed": decision.changed,
        "plateau": None if decision.plateau is None else to_text(decision.plateau),
        "why": _why_to_text(decision),
    }


def _decision(key: str, row: Row, state: Any, drift: float | None) -> Decision:
    why, rollback_to = _why_from_text(row["why"])
    return Decision(
        run=key,
        attempt=row["attempt"],
        seq=row["seq"],
        epoch=row["effective_from"],
        changed=bool(row["changed"]),
        plateau=None if row["plateau"] is None else from_text(row["plateau"]),
        state=state,
        drift=drift,
        why=why,
        rollback_to=rollback_to,
        **{name: row[name] for name in _OF_DECISION},
    )


# The member of the column `why` that is a member of the decision.
_ROLLBACK = "rollback_to"


def _why_to_text(decision: Decision) -> str | None:
    if decision.rollback_to is not None:
        return to_text({**(decision.why or {}), _ROLLBACK: decision.rollback_to})
    return None if decision.why is None else to_text(decision.why)


def _why_from_text(text: str | None) -> tuple[dict[str, Any] | None, int | None]:
    """`why` and `rollback_to` of a decision."""
    if text is None:
        return None, None
    why: dict[str, Any] = from_text(text)
    rollback_to = why.pop(_ROLLBACK, None)
    return why, rollback_to


@lru_cache(maxsize=4096)
def _spec(text: str) -> tuple[RunSpec, Policy]:
    """The spec, and its policy bound to the run. Cached: every report needs both."""
    spec = RunSpec.from_json(from_text(text))
    return spec, spec.bound()
