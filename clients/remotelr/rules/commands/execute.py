"""Execution of commands.

A command takes effect at the first undecided epoch. Rates and pauses become `state.Override`s. A stop, a note, a
cancel and limits take effect immediately. replace_policy and extend change the spec, in an event of kind `policy`.
"""

from dataclasses import replace
from typing import Any

from remotelr.rules.commands.cancel import cancel_command
from remotelr.rules.commands.extend import extend_spec
from remotelr.rules.commands.validate import check_limits, check_members
from remotelr.rules.errors import InvalidCommand, SeqConflict
from remotelr.rules.run.command import Command, command_from_payload, command_to_json
from remotelr.rules.run.events import Event, Log
from remotelr.rules.run.model import Outcome, Run
from remotelr.rules.run.overrides import first_undecided, with_command
from remotelr.rules.run.state import rate_at
from remotelr.rules.transitions.decide import start_position
from remotelr.rules.transitions.lifecycle import migrate_state, requested_policy
from remotelr.rules.transitions.policy_checks import check_max_change


def command(run: Run, command: Command, log: Log) -> Outcome:
    """The run with the command, which takes effect at the first undecided epoch.

    The event's notes contain the rate of that epoch without and with the command: `before` and `after`. Reports of
    the epochs until then may still change both.

    Raises InvalidCommand for an invalid member, a rate outside bounds or limits, or the key of another command;
    SeqConflict; and InvalidPolicy for a policy that the run cannot have.
    """
    known = None if command.key is None else log.keyed("command", command.key) or log.keyed("policy", command.key)
    if known is not None:
        if _without_delivery_fields(command_from_payload(known)) != _without_delivery_fields(command):
            raise InvalidCommand(f"the key {command.key!r} belongs to another command; use a new key", field="key")
        return Outcome(run=run, event=None)
    if command.expected_seq is not None and command.expected_seq != run.seq:
        raise SeqConflict(
            f"expected_seq must be {run.seq}, the newest event of the run, got {command.expected_seq}; "
            "read the run, then retry",
            seq=run.seq,
            expected_seq=command.expected_seq,
        )
    effective_from = first_undecided(run)
    check_members(run, command, effective_from)
    after = _apply(run, command, effective_from, log)
    document, mode = command_to_json(command), command.spec.policy_mode
    if mode is not None:
        # The event stores the policy once, as that of the run.
        document.pop("policy", None)
        mode_of_event = "restart" if command.state == "reset" else mode
        document = {**after.spec.to_json(), "mode": mode_of_event, "command": document}
    event = Event(
        seq=run.seq + 1,
        kind="command" if mode is None else "policy",
        attempt=run.attempt,
        key=command.key,
        # A policy event is a snapshot: its state is the one before this epoch was reported.
        effective_from=effective_from if mode is None else run.epoch,
        payload=document,
        notes=_effect(run, after, command, effective_from),
        state=after.state.to_json(),
    )
    return Outcome(run=replace(after, seq=event.seq), event=event)


def _apply(run: Run, command: Command, effective_from: int, log: Log) -> Run:
    match command.type:
        case "replace_policy":
            assert command.policy is not None
            spec = replace(run.spec, policy=command.policy, requested=requested_policy(run.spec))
            state = migrate_state(run, spec.bound(), spec if command.state == "reset" else None)
            return replace(run, spec=spec, policy=spec.bound(), policy_version=run.policy_version + 1, state=state)
        case "extend":
            spec = replace(extend_spec(run, command, effective_from), requested=requested_policy(run.spec))
            return replace(run, spec=spec, policy=spec.bound(), policy_version=run.policy_version + 1)
        case "cancel":
            return replace(run, state=cancel_command(run, command, effective_from, log))
        case "limits":
            run = replace(run, spec=replace(run.spec, limits=command.limits))
    return replace(run, state=with_command(run.state, command, effective_from))


def _effect(run: Run, after: Run, command: Command, effective_from: int) -> dict[str, Any]:
    """The rate of the first epoch before and after the command. Raises InvalidCommand if the limits forbid it."""
    if command.type == "note":
        return {}
    old = rate_at(run.policy, run.state, effective_from, start_position(run, effective_from))
    new = rate_at(after.policy, after.state, effective_from, start_position(after, effective_from))
    check_limits(run, command, old, new)
    spec = command.spec
    if not spec.exempt_from_limits:
        curve = spec.policy_mode is not None
        check_max_change(run, after, effective_from, field=spec.rate_field or "type", curve=curve)
    return {"before": old.learning_rate, "after": new.learning_rate}


def _without_delivery_fields(command: Command) -> Command:
    """The command without the members that may differ in a retry."""
    if command.type == "scale":
        command = replace(command, factor=command.multiplier, value=None)
    return replace(command, key=None, expected_seq=None)
