"""Checks of a policy: guard and stop rules on a point, and `max_change` on a command."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Literal

from remotelr.rules.errors import InvalidCommand
from remotelr.rules.policy.guard import Guard, evaluate
from remotelr.rules.policy.stop_rules import EarlyStopping, Stop, Target
from remotelr.rules.run.model import Run
from remotelr.rules.run.state import RunState, apply_due_overrides, rate_at
from remotelr.rules.transitions.decide import start_position
from remotelr.rules.transitions.why import why_of_guard
from remotelr.rules.values.metrics import number_to_json


def check_point(run: Run, metrics: Mapping[str, float], epoch: int) -> tuple[RunState, dict[str, Any]]:
    """The run's state after guard and stop rules, and the members that they add to the decision's `why`.

    These have a member `guard` if and only if the guard acts. Raises InvalidReport if early stopping rejects a value
    that is not finite.
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
    """The state after the stop rules; the first one that applies is added to `seen`."""
    if rules.early_stopping is not None:
        state = _check_early_stopping(state, rules.early_stopping, metrics, epoch, seen)
    if rules.target is not None:
        state = _check_target(state, rules.target, metrics, seen)
    return state


def _check_early_stopping(
    state: RunState, rule: EarlyStopping, metrics: Mapping[str, float], epoch: int, seen: dict[str, Any]
) -> RunState:
    value = metrics.get(rule.monitor)
    after = rule.evaluate(state.early_stopping, value, epoch)
    state = replace(state, early_stopping=after.state)
    if not after.stop or value is None or after.state is None:
        return state
    evaluated = {"monitor": rule.monitor, "value": number_to_json(value), **after.state, "patience": rule.patience}
    return _stopped_by("early_stopping", state, evaluated, seen)


def _check_target(state: RunState, rule: Target, metrics: Mapping[str, float], seen: dict[str, Any]) -> RunState:
    value = metrics.get(rule.monitor)
    if value is None or not rule.reached(value):
        return state
    evaluated = {"monitor": rule.monitor, "value": number_to_json(value), "target": rule.value}
    return _stopped_by("target", state, evaluated, seen)


def _stopped_by(
    rule: Literal["early_stopping", "target"], state: RunState, evaluated: dict[str, Any], seen: dict[str, Any]
) -> RunState:
    """The state stopped by a rule, which is added to `seen`, unless an earlier rule stopped it."""
    if state.stopped_by is not None:
        return state
    seen["stop"] = {"by": rule, **evaluated}
    return replace(state, stopped_by=rule)


def check_max_change(run: Run, after: Run, epoch: int, *, field: str, curve: bool) -> None:
    """Raises InvalidCommand if the rate of `epoch` changes from `run` to `after` by more than `max_change`.

    It compares the effective rates, and the rates below a one-shot and a guard that holds the rate.
    field: the member that the error names. curve: compare the rates below a pin too, because the curve changes.
    """
    limits = run.state.limits
    if limits is None or limits.max_change is None:
        return
    for old, new in zip(_rates(run, epoch, curve=curve), _rates(after, epoch, curve=curve), strict=True):
        lower, higher = sorted((old, new))
        # The tolerance permits a factor of exactly max_change after rounding.
        if higher > lower * limits.max_change * (1 + 1e-9):
            raise InvalidCommand(
                f"the change from {old!r} to {new!r} is more than a factor of {limits.max_change:g}, the max_change of "
                f"the experiment's limits",
                field=field,
            )


def _rates(run: Run, epoch: int, *, curve: bool) -> Iterator[float]:
    """The effective rate of `epoch`, the rate below a one-shot, and with `curve` the rate below a pin."""
    place = start_position(run, epoch)
    state = apply_due_overrides(run.policy, run.state, epoch, place)
    yield rate_at(run.policy, state, epoch, place).learning_rate
    state = replace(state, one_shot=None, guard=replace(state.guard, held=None))
    yield rate_at(run.policy, state, epoch, place).learning_rate
    if curve:
        yield rate_at(run.policy, replace(state, pin=None), epoch, place).learning_rate
