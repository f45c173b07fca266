"""Decisions, and the answer that other ranks are missing."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from remotelr.rules.values.records import record

Reason = Literal["start", "schedule", "plateau", "command", "bounds", "guard"]
Action = Literal["continue", "stop", "rollback"]


@record
class Decision:
    """The rate of one epoch of one run; it never changes.

    seq: number of its event in the run's log.
    epoch: the epoch of the rate (0-based). step: optimizer steps before that epoch; None if unknown.
    learning_rate: rate of the epoch, or of its first step if the policy's unit is the step; >= 0.
    momentum: of one_cycle and cyclic, else None.
    changed: the rate differs from that of the previous epoch.
    action: `stop`: the trainer ends after the current work. `rollback`: it loads the checkpoint of the end of epoch
        `rollback_to`, then trains `epoch`.
    plateau: `best`, `wait`, `cooldown` of the plateau in force, else None.
    state: the run's state (JSON), from which the rules continue without the service.
    drift: the decided rate of the previous epoch if the trainer used another one; else None.
    why: the causes of the rate (JSON), for `describe`; None in logs of releases that did not store it.
    replayed: the answer to a retry. local: decided by a local replica; never on the wire.
    """

    run: str
    attempt: int
    seq: int
    epoch: int
    step: int | None
    learning_rate: float
    momentum: float | None
    reason: Reason
    changed: bool
    action: Action
    plateau: Mapping[str, Any] | None
    state: Mapping[str, Any]
    drift: float | None = None
    why: Mapping[str, Any] | None = None
    rollback_to: int | None = None
    replayed: bool = False
    local: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """The report is stored; the point is decided after `need` ranks reported it, `have` did so far."""

    run: str
    attempt: int
    epoch: int
    have: int
    need: int


def decision_to_json(decision: Decision) -> dict[str, Any]:
    """The decision as answers and streams contain it: every member but `why` and `local`."""
    return {
        "run": decision.run,
        "attempt": decision.attempt,
        "seq": decision.seq,
        "epoch": decision.epoch,
        "step": decision.step,
        "learning_rate": decision.learning_rate,
        "momentum": decision.momentum,
        "reason": decision.reason,
        "changed": decision.changed,
        "action": decision.action,
        "rollback_to": decision.rollback_to,
        "plateau": decision.plateau,
        "state": decision.state,
        "drift": decision.drift,
        "replayed": decision.replayed,
    }


def waiting_to_json(waiting: Waiting) -> dict[str, Any]:
    return {
        "status": "waiting",
        "run": waiting.run,
        "attempt": waiting.attempt,
        "epoch": waiting.epoch,
        "have": waiting.have,
        "need": waiting.need,
    }
