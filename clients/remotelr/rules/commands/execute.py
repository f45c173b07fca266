"""What operators order, and what it does to a run.

A command bears on the first epoch that is not yet decided. Rates and pauses wait for it as `state.Order`s; a stop, a
note, a cancel and rails hold at once; replace_policy and extend change the run's spec, in an event of kind `policy`.
"""

from dataclasses import replace
from typing import Any

from remotelr.rules.commands.cancel import cancelled
from remotelr.rules.commands.extend import extended
from remotelr.rules.commands.validate import FREE, blamed, check_members, refuse_off_rails
from remotelr.rules.errors import InvalidCommand, SeqConflict
from remotelr.rules.run.command import Command, command_from_payload, command_to_json
from remotelr.rules.run.events import Event, Log
from remotelr.rules.run.model import Outcome, Run
from remotelr.rules.run.overrides import first_undecided, ordered
from remotelr.rules.run.state import rate_at
from remotelr.rules.transitions.decide import begin_of
from remotelr.rules.transitions.lifecycle import asked_for, remembered
from remotelr.rules.transitions.max_change import refuse_leap


def command(run: Run, order: Command, log: Log) -> Outcome:
    """The run with the command noted; it bears on the first epoch that is not yet decided.

    The event's notes keep what it does to the rate of that epoch, as far as that can be said before the epochs until
    then are reported: `before` and `after`.

    Raises InvalidCommand for what makes no sense, lies outside bounds or rails, or has the key of another command;
    SeqConflict; and InvalidPolicy for a policy the run cannot have.
    """
    known = None if order.key is None else log.keyed("command", order.key) or log.keyed("policy", order.key)
    if known is not None:
        if _alike(command_from_payload(known)) != _alike(order):
            raise InvalidCommand(f"the key {order.key!r} belongs to another command", field="key")
        return Outcome(run=run, event=None)
    if order.expected_seq is not None and order.expected_seq != run.seq:
        raise SeqConflict(
            f"the run is at event {run.seq}, not {order.expected_seq}: look again before you order",
            seq=run.seq,
            expected_seq=order.expected_seq,
        )
    holds_from = first_undecided(run)
    check_members(run, order, holds_from)
    after = _after(run, order, holds_from, log)
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
        holds_from=run.epoch if changes_policy else holds_from,
        payload=document,
        notes=_effect(run, after, order, holds_from),
        state=after.state.to_json(),
    )
    return Outcome(run=replace(after, seq=event.seq), event=event)


_MODES = {
    ("replace_policy", "keep"): "replace",
    ("replace_policy", "reset"): "restart",
    ("extend", "keep"): "extend",
}


def _after(run: Run, order: Command, holds_from: int, log: Log) -> Run:
    """The run as the command leaves it."""
    match order.type:
        case "replace_policy":
            assert order.policy is not None
            spec = replace(run.spec, policy=order.policy, asked=asked_for(run.spec))
            state = remembered(run, spec.bound(), spec if order.state == "reset" else None)
            return replace(run, spec=spec, policy=spec.bound(), policy_version=run.policy_version + 1, state=state)
        case "extend":
            spec = replace(extended(run, order, holds_from), asked=asked_for(run.spec))
            return replace(run, spec=spec, policy=spec.bound(), policy_version=run.policy_version + 1)
        case "cancel":
            return replace(run, state=cancelled(run, order, holds_from, log))
        case "rails":
            spec = replace(run.spec, rails=order.rails)
            return replace(run, spec=spec, state=ordered(run.state, order, holds_from))
        case _:
            return replace(run, state=ordered(run.state, order, holds_from))


def _effect(run: Run, after: Run, order: Command, holds_from: int) -> dict[str, Any]:
    """What the command does to the rate of its first epoch. Raises InvalidCommand where the rails forbid it."""
    if order.type == "note":
        return {}
    old = rate_at(run.policy, run.state, holds_from, begin_of(run, holds_from))
    new = rate_at(after.policy, after.state, holds_from, begin_of(after, holds_from))
    refuse_off_rails(run, order, old, new)
    if order.type not in FREE:
        curve = order.type in ("replace_policy", "extend")
        refuse_leap(run, after, holds_from, field=blamed(order), curve=curve)
    return {"before": old.learning_rate, "after": new.learning_rate}


def _alike(order: Command) -> Command:
    """The command without what a repetition may say otherwise."""
    if order.type == "scale":
        order = replace(order, factor=order.multiplier, value=None)
    return replace(order, key=None, expected_seq=None)


def _without_policy(document: dict[str, Any]) -> dict[str, Any]:
    """It stands in the event once, as the run's own."""
    return {name: value for name, value in document.items() if name != "policy"}
