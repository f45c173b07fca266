"""What a policy's guard and stop rules make of a point, before its schedule sees it."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from remotelr.rules.policy.guard import Guard, evaluate
from remotelr.rules.policy.stop_rules import EarlyStopping, Stop, Target
from remotelr.rules.run.model import Run
from remotelr.rules.run.state import RunState
from remotelr.rules.transitions.why import why_of_guard
from remotelr.rules.values.metrics import number_to_json


def check_point(run: Run, metrics: Mapping[str, float], epoch: int) -> tuple[RunState, dict[str, Any]]:
    """The run's state after guard and stop rules have looked at the metrics of `epoch`, and what they saw.

    What was seen has a member `guard` if and only if the guard acts. Raises InvalidReport where early stopping
    refuses a value that is not finite.
    """
    state, seen = run.state, dict[str, Any]()
    if run.policy.guard is not None:
        state, seen = _check_guard(run, run.policy.guard, metrics, epoch)
    if run.policy.stop is not None:
        state = _check_stop_rules(state, run.policy.stop, metrics, epoch, seen)
    return state, seen


def _check_guard(run: Run, guard: Guard, metrics: Mapping[str, float], epoch: int) -> tuple[RunState, dict[str, Any]]:
    value = metrics.get(guard.monitor)
    result = evaluate(guard, run.state.guard, value, epoch, run.learning_rate)
    state = replace(run.state, guard=result.state)
    if result.action is None or value is None:
        return state, {}
    seen: dict[str, Any] = {"guard": why_of_guard(guard, result, value)}
    if result.action == "stop" and state.stopped_by is None:
        state = replace(state, stopped_by="guard")
        seen["stop"] = {**seen["guard"], "by": "guard"}
    return state, seen


def _check_stop_rules(
    state: RunState, rules: Stop, metrics: Mapping[str, float], epoch: int, seen: dict[str, Any]
) -> RunState:
    """The state after the stop rules; the first one that holds is added to what was `seen`."""
    if rules.early_stopping is not None:
        state = _check_early_stopping(state, rules.early_stopping, metrics, epoch, seen)
    if rules.target is not None:
        state = _check_target(state, rules.target, metrics, seen)
    return state


def _check_early_stopping(
    state: RunState, rule: EarlyStopping, metrics: Mapping[str, float], epoch: int, seen: dict[str, Any]
) -> RunState:
    value = metrics.get(rule.monitor)
    after = rule.judge(state.early_stopping, value, epoch)
    state = replace(state, early_stopping=after.memory)
    if not after.stop or state.stopped_by is not None or value is None or after.memory is None:
        return state
    seen["stop"] = {
        "by": "early_stopping",
        "monitor": rule.monitor,
        "value": number_to_json(value),
        **after.memory,
        "patience": rule.patience,
    }
    return replace(state, stopped_by="early_stopping")


def _check_target(state: RunState, rule: Target, metrics: Mapping[str, float], seen: dict[str, Any]) -> RunState:
    value = metrics.get(rule.monitor)
    if state.stopped_by is not None or value is None or not rule.reached(value):
        return state
    seen["stop"] = {
        "by": "target",
        "monitor": rule.monitor,
        "value": number_to_json(value),
        "target": rule.value,
    }
    return replace(state, stopped_by="target")
