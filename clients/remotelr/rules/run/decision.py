"""What a run is told: the decision of one point, or that its other ranks are still awaited."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from remotelr.rules.values.records import record

Reason = Literal["start", "schedule", "plateau", "command", "bounds", "guard"]
Action = Literal["continue", "stop", "rollback"]


@record
class Decision:
    """The rate of one epoch of one run, taken once and never changed.

    seq: number of the event in the run's log that took it.
    epoch: the epoch the rate is for (0-based).
    step: optimizer steps made before that epoch; None where the run never said.
    learning_rate: the rate of the epoch, or of its first step when the policy's unit is the step; >= 0.
    momentum: what goes with it (one_cycle, cyclic), else None.
    changed: the rate differs from that of the epoch before.
    action: `stop` asks the trainer to end after what it is doing; `rollback` to load the checkpoint made at the
        end of epoch `rollback_to`, and to train `epoch` from there.
    plateau: `best`, `wait`, `cooldown` of the plateau in force, else None.
    state: what the rules need to go on from here without the service (JSON).
    drift: the rate the epoch before was to run with, where the trainer says it used another one; else None.
    why: what made the rate (JSON, small), for `rules.sentence`; None in logs of releases before it was kept.
    rollback_to: the epoch whose checkpoint to load, with action `rollback`; else None.
    replayed: this answer was already given once.
    local: a trainer that could not reach the service took it, by the same rules; never on the wire.
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
    """The report is kept; the point is decided when `need` ranks have reported, of which `have` did."""

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
