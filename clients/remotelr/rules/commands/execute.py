"""What operators order, and what it does to a run.

A command bears on the first epoch that is not yet decided. Rates and pauses wait for it as `state.Order`s; a stop, a
note, a cancel and limits hold at once; replace_policy and extend change the run's spec, in an event of kind `policy`.
"""

from dataclasses import replace
from typing import Any

from remotelr.rules.commands.cancel import cancel_command
from remotelr.rules.commands.extend import extend_spec
from remotelr.rules.commands.validate import EXEMPT_FROM_LIMITS, check_limits, check_members, offending_field
from remotelr.rules.errors import InvalidCommand, SeqConflict
from remotelr.rules.run.command import Command, command_from_payload, command_to_json
from remotelr.rules.run.events import Event, Log
from remotelr.rules.run.model import Outcome, Run
from remotelr.rules.run.overrides import first_undecided, with_command
from remotelr.rules.run.state import rate_at
from remotelr.rules.transitions.decide import start_position
from remotelr.rules.transitions.lifecycle import migrate_state, requested_policy
from remotelr.rules.transitions.max_change import check_max_change


def command(run: Run, order: Command, log: Log) -> Outcome:
    """The run with the command noted; it bears on the first epoch that is not yet decided.

    The event's notes keep what it does to the rate of that epoch, as far as that can be said before the epochs until
    then are reported: `before` and `after`.

    Raises InvalidCommand for what makes no sense, lies outside bounds or limits, or has the key of another command;
    SeqConflict; and InvalidPolicy for a policy the run cannot have.
    """
    known = None if order.key is None else log.keyed("command", order.key) or log.keyed("policy", order.key)
    if known is not None:
        if _without_delivery_fields(command_from_payload(known)) != _without_delivery_fields(order):
            raise InvalidCommand(f"the key {order.key!r} belongs to another command", field="key")
        return Outcome(run=run, event=None)
    if order.expected_seq is not None and order.expected_seq != run.seq:
        raise SeqConflict(
            f"the run is at event {run.seq}, not {order.expected_seq}: look again before you order",
            seq=run.seq,
            expected_seq=order.expected_seq,
        )
    effective_from = first_undecided(run)
    check_members(run, order, effective_from)
    after = _apply(run, order, effective_from, log)
    document = command_to_json(order)
    changes_policy = order.type in ("replace_policy", "extend")
    if changes_policy:
        document = {
            **after.spec.to_json(),
            "mode": _MODES[order.type, order.state],
            "command": _without_policy(document),
        }
    event = Event(
        seq=run.seq + 1,
        kind="policy" if changes_policy else "command",
        attempt=run.attempt,
        key=order.key,
        # A policy event is a place to go back to: where the state is as it was before this epoch was reported.
        effective_from=run.epoch if changes_policy else effective_from,
        payload=document,
        notes=_effect(run, after, order, effective_from),
        state=after.state.to_json(),
    )
    return Outcome(run=replace(after, seq=event.seq), event=event)


_MODES = {
    ("replace_policy", "keep"): "replace",
    ("replace_policy", "reset"): "restart",
    ("extend", "keep"): "extend",
}


def _apply(run: Run, order: Command, effective_from: int, log: Log) -> Run:
    """The run as the command leaves it."""
    match order.type:
        case "replace_policy":
            assert order.policy is not None
            spec = replace(run.spec, policy=order.policy, requested=requested_policy(run.spec))
            state = migrate_state(run, spec.bound(), spec if order.state == "reset" else None)
            return replace(run, spec=spec, policy=spec.bound(), policy_version=run.policy_version + 1, state=state)
        case "extend":
            spec = replace(extend_spec(run, order, effective_from), requested=requested_policy(run.spec))
            return replace(run, spec=spec, policy=spec.bound(), policy_version=run.policy_version + 1)
        case "cancel":
            return replace(run, state=cancel_command(run, order, effective_from, log))
        case "limits":
            spec = replace(run.spec, limits=order.limits)
            return replace(run, spec=spec, state=with_command(run.state, order, effective_from))
        case _:
            return replace(run, state=with_command(run.state, order, effective_from))


def _effect(run: Run, after: Run, order: Command, effective_from: int) -> dict[str, Any]:
    """What the command does to the rate of its first epoch. Raises InvalidCommand where the limits forbid it."""
    if order.type == "note":
        return {}
    old = rate_at(run.policy, run.state, effective_from, start_position(run, effective_from))
    new = rate_at(after.policy, after.state, effective_from, start_position(after, effective_from))
    check_limits(run, order, old, new)
    if order.type not in EXEMPT_FROM_LIMITS:
        curve = order.type in ("replace_policy", "extend")
        check_max_change(run, after, effective_from, field=offending_field(order), curve=curve)
    return {"before": old.learning_rate, "after": new.learning_rate}


def _without_delivery_fields(order: Command) -> Command:
    """The command without what a repetition may say otherwise."""
    if order.type == "scale":
        order = replace(order, factor=order.multiplier, value=None)
    return replace(order, key=None, expected_seq=None)


def _without_policy(document: dict[str, Any]) -> dict[str, Any]:
    """It stands in the event once, as the run's own."""
    return {name: value for name, value in document.items() if name != "policy"}
