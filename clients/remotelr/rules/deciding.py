"""Fixing the rate of one epoch: what a creation, an attempt and a decided report have in common."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from remotelr.rules.decision import Decision, Reason
from remotelr.rules.errors import ServerBehind, StaleAttempt
from remotelr.rules.log import OF_A_POINT, Event, Kind
from remotelr.rules.policy import Policy
from remotelr.rules.run import Outcome, Run
from remotelr.rules.state import RunState, rate_at


def decide_rate(
    run: Run,
    kind: Kind,
    *,
    epoch: int,
    step: int | None,
    state: RunState,
    reason: Reason,
    payload: Mapping[str, Any],
    notes: Mapping[str, Any] | None = None,
    event_epoch: int | None = None,
    rank: int | None = None,
    key: str | None = None,
) -> Outcome:
    """The outcome that fixes the rate of `epoch`. `reason` holds unless a command or a bound made the rate."""
    policy, state = run.policy, state.at(epoch)
    position = position_of(policy, epoch, step)
    rate = rate_at(policy, state, epoch, position)
    decision = Decision(
        run=run.key,
        attempt=run.attempt,
        seq=run.seq + 1,
        epoch=epoch,
        step=step,
        learning_rate=rate.learning_rate,
        momentum=policy.momentum(state.schedule, position),
        reason=reason if rate.reason == "schedule" else rate.reason,
        changed=kind in OF_A_POINT and rate.learning_rate != run.learning_rate,
        action="stop" if state.stop else "continue",
        plateau=policy.plateau(state.schedule),
        state=state.to_json(),
        drift=(notes or {}).get("drift"),
    )
    event = Event(
        seq=decision.seq,
        kind=kind,
        attempt=run.attempt,
        epoch=event_epoch,
        rank=rank,
        key=key,
        holds_from=epoch,
        payload=payload,
        notes=notes or {},
        state=decision.state,
        decision=decision,
    )
    after = replace(
        run,
        seq=event.seq,
        epoch=epoch,
        step=step,
        learning_rate=rate.learning_rate,
        state=state,
        decided_seq=event.seq,
    )
    return Outcome(run=after, event=event, answer=decision)


def position_of(policy: Policy, epoch: int, step: int | None) -> float:
    return float(epoch) if policy.unit == "epoch" else float(step or 0)


def stale(run: Run, attempt: int) -> StaleAttempt:
    return StaleAttempt(
        f"attempt {attempt} was taken over by attempt {run.attempt}: this process must stop",
        attempt=run.attempt,
        action="stop",
    )


def refuse_if_behind(run: Run, last_seq: int | None) -> None:
    if last_seq is not None and last_seq > run.seq:
        raise ServerBehind(
            f"the trainer holds decision {last_seq}, this log ends at {run.seq}: send the reports from "
            f"epoch {run.epoch} on again",
            epoch=run.epoch,
            seq=run.seq,
        )


def gap(expected: int, epoch: int) -> dict[str, int]:
    return {"gap": epoch - expected} if epoch > expected else {}
