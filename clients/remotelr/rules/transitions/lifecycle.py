"""The transitions `create`, `put_policy` and `finish`."""

import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any

from remotelr.rules.composition.extended import Extended
from remotelr.rules.errors import InvalidPolicy, PolicyConflict, RunFinished
from remotelr.rules.policy.codec import policy_from_json, policy_to_json
from remotelr.rules.policy.guard import NO_GUARD_STATE
from remotelr.rules.policy.policy import Policy
from remotelr.rules.run.clock import RUNNING
from remotelr.rules.run.events import Event
from remotelr.rules.run.model import FinalStatus, OnConflict, Outcome, Run, RunSpec
from remotelr.rules.run.overrides import first_undecided
from remotelr.rules.run.state import RunState
from remotelr.rules.transitions.decide import check_last_seq, decide_rate
from remotelr.rules.transitions.policy_checks import check_max_change

# Most differences of two policies in a message, and most characters of each value.
_SHOWN, _SHORT = 5, 60


def create(key: str, spec: RunSpec) -> Outcome:
    """A new run with the decision for epoch 0. Raises InvalidPolicy if the spec lacks a value that the policy needs."""
    policy = spec.bound()
    state = RunState(schedule=policy.start(spec.first_learning_rate()), limits=spec.limits)
    step = 0 if policy.unit == "step" else None
    run = Run(key=key, spec=spec, policy=policy, seq=0, step=step, learning_rate=0.0, state=state, decided_seq=1)
    return decide_rate(run, "created", epoch=0, step=step, state=state, reason="start", payload=spec.to_json())


def put_policy(run: Run, spec: RunSpec, on_conflict: OnConflict = "error") -> Outcome:
    """Request an existing run: its policy is unchanged if it is the same, else `on_conflict` applies.

    on_conflict: `keep` keeps the run's policy. `replace` sets the new one and keeps the state of a schedule of the
        same shape. `restart` sets it with a fresh state. `error` raises PolicyConflict.

    Neither another initial rate (that of a checkpoint) nor the policy before an operator replaced or extended it is a
    conflict. A run whose policy stays takes another `total_epochs`, if its policy does not depend on it; see
    `_with_length`. The number of ranks belongs to attempts. Raises InvalidCommand if `replace` exceeds `max_change`.
    """
    if on_conflict == "keep" or _same_policy(run, spec):
        return _with_length(run, spec.total_epochs)
    kept, given = run.spec.initial_learning_rate, spec.initial_learning_rate
    initial = given or kept if on_conflict == "restart" else kept or given
    wanted = replace(spec, initial_learning_rate=initial, limits=run.spec.limits, world_size=run.spec.world_size)
    if on_conflict == "error":
        found = difference(replace(run.spec, requested=None).to_json(), wanted.to_json())
        raise PolicyConflict(
            f"the run exists with another policy ({describe_difference(found)}); "
            "set on_conflict to keep, replace or restart",
            difference=found,
        )
    policy = wanted.bound()
    state = migrate_state(run, policy, wanted if on_conflict == "restart" else None)
    event = Event(
        seq=run.seq + 1,
        kind="policy",
        attempt=run.attempt,
        effective_from=run.epoch,
        payload={**wanted.to_json(), "mode": on_conflict},
        state=state.to_json(),
    )
    changed = replace(
        run, spec=wanted, policy=policy, policy_version=run.policy_version + 1, seq=event.seq, state=state
    )
    if on_conflict == "replace":
        check_max_change(run, changed, first_undecided(run), field="policy", curve=True)
    return Outcome(run=changed, event=event)


def _with_length(run: Run, total: int | None) -> Outcome:
    """The run with the length that its trainer states; no rate and no state changes.

    If an operator has changed the length, a trainer that states its earlier one changes nothing, and another one can
    only make the run longer. A length on which the policy depends stays.
    """
    known, requested = run.spec.total_epochs, run.spec.requested
    if total is None or total == known:
        return Outcome(run=run, event=None)
    if _operator_prevails(run.spec, total):
        return Outcome(run=run, event=None)
    asked = None if requested is None else {**requested, "total_epochs": total}
    spec = replace(run.spec, total_epochs=total, requested=asked)
    try:
        if spec.bound() != run.policy:
            return Outcome(run=run, event=None)
    except InvalidPolicy:
        # A policy that is kept depends on the length, and cannot have this one.
        return Outcome(run=run, event=None)
    # Without a state the event is no snapshot: a rewind or a cancel does not stop at it.
    event = Event(
        seq=run.seq + 1,
        kind="policy",
        attempt=run.attempt,
        effective_from=run.epoch,
        payload={**spec.to_json(), "mode": "length"},
    )
    return Outcome(run=replace(run, spec=spec, seq=event.seq), event=event)


def _operator_prevails(spec: RunSpec, total: int) -> bool:
    """Whether an operator has set the length, and the trainer states its earlier one again or a smaller one."""
    if spec.requested is None or spec.total_epochs is None:
        return False
    overruled = spec.requested["total_epochs"]
    return overruled != spec.total_epochs and (total == overruled or total < spec.total_epochs)


def finish(run: Run, status: FinalStatus, last_seq: int | None = None) -> Outcome:
    """Finish the run. A retry changes nothing; another status raises RunFinished.

    last_seq: number of the trainer's newest decision. Raises ServerBehind if it is missing in the log, because a
        finished run takes no missing reports.
    """
    if run.status == status:
        return Outcome(run=run, event=None)
    if run.status != "running":
        raise RunFinished(f"the run is already {run.status}, not {status}", status=run.status, epoch=run.epoch)
    check_last_seq(run, last_seq)
    event = Event(
        seq=run.seq + 1, kind="finished", attempt=run.attempt, effective_from=run.epoch, payload={"status": status}
    )
    return Outcome(run=replace(run, seq=event.seq, status=status), event=event)


def migrate_state(run: Run, policy: Policy, fresh: RunSpec | None) -> RunState:
    """The run's state under another policy: its schedule's state is kept or, with `fresh`, started from that spec.

    Overrides stay. A clock in another unit is reset, as are the states of guard and stop rules if the policy has
    none or `fresh` is given.
    """
    schedule = migrate_schedule_state(run.policy, policy, run.state.schedule, run.learning_rate)
    state = run.state
    if fresh is not None:
        schedule = policy.start(fresh.first_learning_rate())
        state = replace(state, guard=NO_GUARD_STATE, early_stopping=None, stopped_by=None)
    return drop_foreign_state(replace(state, schedule=schedule), run.policy, policy)


def drop_foreign_state(state: RunState, old: Policy, new: Policy) -> RunState:
    """The state without the parts that the new policy does not use."""
    if new.guard is None and state.guard is not NO_GUARD_STATE:
        state = replace(state, guard=NO_GUARD_STATE)
    if state.early_stopping is not None and (new.stop is None or new.stop.early_stopping is None):
        state = replace(state, early_stopping=None)
    return state if old.unit == new.unit else replace(state, clock=RUNNING)


def requested_policy(spec: RunSpec) -> Mapping[str, Any]:
    """The policy and length that the owner requested, stored when an operator changes them."""
    return spec.requested or {"policy": policy_to_json(spec.policy), "total_epochs": spec.total_epochs}


def migrate_schedule_state(old: Policy, new: Policy, state: Any, learning_rate: float) -> Any:
    """The state of the new policy's schedule: unchanged if the trees have the same shape, else fresh."""
    return state if _shape(old.schedule) == _shape(new.schedule) else new.start(learning_rate)


def _shape(node: Any) -> Any:
    """The types of a tree without their parameters. `extended` has the state, and so the shape, of its schedule."""
    if isinstance(node, Extended):
        return _shape(node.schedule)
    if isinstance(node, tuple):
        return tuple(_shape(part) for part in node)
    if not is_dataclass(node):
        return None
    return type(node).__name__, tuple(_shape(getattr(node, field.name)) for field in fields(node))


def _same_policy(run: Run, spec: RunSpec) -> bool:
    if _same(run.spec, run.policy, spec):
        return True
    if run.spec.requested is None:
        return False
    policy = policy_from_json(run.spec.requested["policy"])
    before = replace(run.spec, policy=policy, total_epochs=run.spec.requested["total_epochs"])
    return _same(before, before.bound(), spec)


def _same(known: RunSpec, bound: Policy, spec: RunSpec) -> bool:
    if policy_to_json(spec.policy) != policy_to_json(known.policy):
        return False
    return replace(spec, initial_learning_rate=known.initial_learning_rate).bound() == bound


def difference(stored: Any, given: Any, path: str = "") -> dict[str, list[Any]]:
    """The differences of two documents: path to [stored, given]."""
    if isinstance(stored, dict) and isinstance(given, dict):
        found: dict[str, list[Any]] = {}
        for name in sorted(stored.keys() | given.keys()):
            found |= difference(stored.get(name), given.get(name), f"{path}.{name}" if path else name)
        return found
    return {} if stored == given else {path: [stored, given]}


def describe_difference(found: Mapping[str, list[Any]], form: str = "{} is {}, not {}") -> str:
    """A `difference` as text: `policy.schedule.patience is 2, not 5`; the first few of many."""
    shown = [form.format(path, _short(stored), _short(given)) for path, (stored, given) in found.items()]
    more = len(shown) - _SHOWN
    return "; ".join(shown[:_SHOWN]) + (f"; and {more} more" if more > 0 else "")


def _short(value: Any) -> str:
    shown = json.dumps(value)
    return shown if len(shown) <= _SHORT else f"{shown[:_SHORT]}…"
