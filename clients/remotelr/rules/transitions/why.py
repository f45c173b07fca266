"""The member `why` of a decision: the causes of its rate, in JSON, as `describe` needs them.

schedule        type of the policy's schedule
scheduled       the rate of the schedule, if it is not the decided one
plateau         monitor, value, best (before it), wait, patience, did: improved, waited, cooled, reduced, raised;
                of these two the factor, and the rate `of` which it is one; or monitor, missing
held            the schedule did not observe the point
pin, one_shot   the rate of the override; until: the time at which it ends
scale           an operator's factor
paused, shift   the schedule's clock is stopped; the total length of its pauses
wanted, bound   the rate before the bounds, and their source: policy or limits
guard           monitor, value, mean, did: hold, scale, rollback, stop; factor; scale: all its factors so far
stop            by: command, early_stopping, target, budget, guard; and the values that its rule evaluated
"""

from collections.abc import Mapping
from typing import Any

from remotelr.rules.composition.combinators import Chained, Sequential
from remotelr.rules.composition.extended import Extended
from remotelr.rules.composition.modifiers import WithModifiers
from remotelr.rules.plateau.greedy import Greedy
from remotelr.rules.plateau.reduce_on_plateau import ReduceOnPlateau
from remotelr.rules.policy.guard import NO_GUARD_STATE, Guard, GuardResult
from remotelr.rules.policy.policy import Policy
from remotelr.rules.run.state import Rate, RunState
from remotelr.rules.schedules.base import Schedule, State
from remotelr.rules.values.metrics import number_to_json


def why_of_rate(policy: Policy, state: RunState, rate: Rate) -> dict[str, Any]:
    """The effects of policy, overrides and bounds on the rate of one epoch."""
    schedule = policy.schedule
    why: dict[str, Any] = {"schedule": schedule.schedule.type if isinstance(schedule, WithModifiers) else schedule.type}
    if rate.learning_rate != rate.scheduled:
        why["scheduled"] = rate.scheduled
    if state.one_shot is not None:
        why |= {"one_shot": state.one_shot} | _until(state.one_shot_until)
    elif state.pin is not None:
        why |= {"pin": state.pin} | _until(state.pin_until)
    if state.scale != 1.0:
        why["scale"] = state.scale
    if state.clock.paused:
        why["paused"] = True
    if state.clock.shift:
        why["shift"] = state.clock.shift
    if rate.learning_rate != rate.wanted:
        why["wanted"] = rate.wanted
        why["bound"] = "policy" if policy.bounded(rate.wanted) == rate.learning_rate else "limits"
    guard = state.guard
    if guard is not NO_GUARD_STATE:
        held = {} if guard.held is None else {"held": guard.held}
        scale = {} if guard.scale == 1.0 else {"scale": guard.scale}
        if held or scale:
            why["guard"] = held | scale
    return why


def _until(time: str | None) -> dict[str, Any]:
    return {} if time is None else {"until": time}


def why_of_plateau(
    schedule: Schedule,
    before: State,
    after: State,
    metrics: Mapping[str, float],
    *,
    moved: int,
    learning_rate: float,
) -> dict[str, Any] | None:
    """The effect of a point on the plateau; None if none is in force.

    moved: whether the scheduled rate went down (-1), up (1) or stayed (0). learning_rate: of the epoch reported.
    """
    node = _plateau_node(schedule, after)
    old, new = schedule.plateau(before), schedule.plateau(after)
    if node is None or old is None or new is None:
        return None
    value = metrics.get(node.monitor)
    if value is None:
        return {"monitor": node.monitor, "missing": True}
    if after is before:
        # The plateau did not observe the point, or skipped its value.
        return None
    why = {"monitor": node.monitor, "value": number_to_json(value), "best": old["best"], "patience": node.patience}
    if moved:
        did = "reduced" if moved < 0 else "raised"
        return {**why, "wait": old["wait"] + 1, "did": did, "factor": node.factor, "of": learning_rate}
    if new["best"] != old["best"]:
        return {**why, "wait": 0, "did": "improved"}
    return {**why, "wait": new["wait"], "did": "cooled" if old["cooldown"] and not new["wait"] else "waited"}


def why_of_guard(guard: Guard, result: GuardResult, value: float) -> dict[str, Any]:
    """The action of a guard on a point."""
    why: dict[str, Any] = {"monitor": guard.monitor, "value": number_to_json(value), "did": result.action}
    if result.mean is not None:
        why["mean"] = result.mean
    if result.action in ("scale", "rollback"):
        why["factor"] = guard.factor
    return why


def _plateau_node(schedule: Schedule, state: State) -> ReduceOnPlateau | Greedy | None:
    """The node in force whose counters the decision shows as its plateau."""
    match schedule:
        case ReduceOnPlateau() | Greedy():
            return schedule
        case WithModifiers() | Extended():
            return _plateau_node(schedule.schedule, state)
        case Sequential() if state:
            return _plateau_node(schedule.schedules[len(state) - 1], state[-1])
        case Chained() if state:
            parts = (_plateau_node(part, own) for part, own in zip(schedule.schedules, state, strict=True))
            return next((part for part in parts if part is not None), None)
        case _:
            return None
