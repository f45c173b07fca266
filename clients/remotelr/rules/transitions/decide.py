"""The decision of one epoch, shared by creation, attempts and points."""

from collections.abc import Mapping
from typing import Any

from remotelr.rules.errors import ServerBehind, StaleAttempt
from remotelr.rules.policy.policy import Policy
from remotelr.rules.run.decision import Action, Decision, Reason
from remotelr.rules.run.events import OF_A_POINT, Event, Kind
from remotelr.rules.run.model import Outcome, Run
from remotelr.rules.run.state import RunState, apply_due_overrides, rate_at, rate_without_overrides
from remotelr.rules.transitions.why import why_of_rate
from remotelr.rules.values.records import replace


def decide_rate(
    run: Run,
    kind: Kind,
    *,
    epoch: int,
    step: int | None,
    state: RunState,
    reason: Reason,
    payload: Mapping[str, Any],
    seen: Mapping[str, Any] | None = None,
    notes: Mapping[str, Any] | None = None,
    event_epoch: int | None = None,
    rank: int | None = None,
    key: str | None = None,
) -> Outcome:
    """Decide the rate of `epoch`. `reason` applies unless a command, a guard or a bound determines the rate.

    seen: members of the decision's `why` about the reported point.
    """
    policy = run.policy
    position = position_of(policy, epoch, step)
    state = apply_due_overrides(policy, state, epoch, position)
    rate = rate_at(policy, state, epoch, position)
    why = why_of_rate(policy, state, rate)
    if seen:
        why = _merge_why(why, seen)
    action, rollback_to = _action(run, state, epoch, step, why)
    decision = Decision(
        run=run.key,
        attempt=run.attempt,
        seq=run.seq + 1,
        epoch=epoch,
        step=step,
        learning_rate=rate.learning_rate,
        momentum=policy.momentum(state.schedule, state.clock.read(position)),
        reason=reason if rate.reason == "schedule" else rate.reason,
        changed=kind in OF_A_POINT and rate.learning_rate != run.learning_rate,
        action=action,
        plateau=policy.plateau(state.schedule),
        state=state.to_json(),
        drift=(notes or {}).get("drift"),
        why=why,
        rollback_to=rollback_to,
    )
    event = Event(
        seq=decision.seq,
        kind=kind,
        attempt=run.attempt,
        epoch=event_epoch,
        rank=rank,
        key=key,
        effective_from=epoch,
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


def start_position(run: Run, epoch: int) -> float:
    """The position at which the epoch begins; after a gap it is computed, or the newest known one without a length."""
    if run.policy.unit == "epoch":
        return float(epoch)
    length = run.spec.steps_per_epoch
    if run.step is None and length is not None:
        # No step is known if an earlier policy counted epochs.
        return float(epoch * length)
    known = run.step or 0
    return float(known if epoch == run.epoch or length is None else known + (epoch - run.epoch) * length)


def rate_beneath(run: Run) -> float | None:
    """The rate of `run.epoch` that the policy gives without overrides; None if no override is in force."""
    if not run.state.is_overridden:
        return None
    return rate_without_overrides(run.policy, run.state, run.epoch, start_position(run, run.epoch))


def stale_attempt_error(run: Run, attempt: int) -> StaleAttempt:
    return StaleAttempt(
        f"attempt {run.attempt} replaced attempt {attempt}; this process must stop",
        attempt=run.attempt,
        action="stop",
    )


def check_last_seq(run: Run, last_seq: int | None) -> None:
    if last_seq is not None and last_seq > run.seq:
        raise ServerBehind(
            f"last_seq {last_seq} is after the newest event {run.seq}; send the reports from epoch {run.epoch} again",
            epoch=run.epoch,
            seq=run.seq,
        )


def gap_note(expected: int, epoch: int) -> dict[str, int]:
    return {"gap": epoch - expected} if epoch > expected else {}


def _merge_why(why: dict[str, Any], seen: Mapping[str, Any]) -> dict[str, Any]:
    """The causes of the rate with those of the point; of a guard both."""
    guard = {**seen.get("guard", {}), **why.get("guard", {})}
    return {**why, **seen, "guard": guard} if guard else {**why, **seen}


def _action(run: Run, state: RunState, epoch: int, step: int | None, why: dict[str, Any]) -> tuple[Action, int | None]:
    """The action and the epoch of a rollback; the cause of a stop is added to `why`."""
    if state.stop:
        why["stop"] = {"by": "command"}
        return "stop", None
    if state.stopped_by is not None:
        why.setdefault("stop", {"by": state.stopped_by})
        return "stop", None
    rules = run.policy.stop
    if rules is not None and rules.budget is not None:
        steps = _steps_at(run, epoch, step)
        if rules.budget.spent(epoch, steps):
            why["stop"] = {"by": "budget", "epochs": epoch} | ({} if steps is None else {"steps": steps})
            return "stop", None
    back_to = state.guard.back_to
    return ("continue", None) if back_to is None else ("rollback", back_to)


def _steps_at(run: Run, epoch: int, step: int | None) -> int | None:
    if step is None and run.spec.steps_per_epoch is not None:
        return epoch * run.spec.steps_per_epoch
    return step
