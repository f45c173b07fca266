"""The command `cancel`: removes the effect of a command that is not delivered."""

from collections.abc import Collection
from dataclasses import replace

from remotelr.rules.errors import InvalidCommand
from remotelr.rules.run.command import Command, command_from_payload
from remotelr.rules.run.events import Log
from remotelr.rules.run.model import Run
from remotelr.rules.run.overrides import cancelled_seqs, fold_commands
from remotelr.rules.run.state import RunState


def cancel_command(run: Run, command: Command, effective_from: int, log: Log) -> RunState:
    """The state without the command `command.seq`. Raises InvalidCommand if it cannot be cancelled."""
    seq = command.seq
    assert seq is not None
    since = log.since("command", seq - 1)
    event = since[0] if since and since[0].seq == seq else None
    if event is None:
        raise InvalidCommand(f"seq must be the number of a queued command; event {seq} is none", field="seq")
    earlier = cancelled_seqs(log.since("command", 0))
    if seq in earlier:
        raise InvalidCommand(f"command {seq} is already cancelled", field="seq")
    cancelled = command_from_payload(event)
    if not cancelled.spec.cancellable:
        raise InvalidCommand(f"command {seq} is a {cancelled.type}, which is applied immediately", field="seq")
    if run.decided_seq > event.seq and run.epoch >= event.effective_from:
        raise InvalidCommand(
            f"command {seq} was delivered for epoch {event.effective_from}; send a command that reverses it",
            field="seq",
        )
    rest = fold_commands(log, earlier | {seq})
    overrides = tuple(each for each in rest.overrides if each.epoch >= effective_from)
    state = replace(run.state, overrides=overrides, stop=rest.stop)
    return _restore_stop(run, state, seq, earlier, log) if cancelled.type == "release" else state


def _restore_stop(run: Run, state: RunState, seq: int, cancelled: Collection[int], log: Log) -> RunState:
    """The state with the stop of the policy that the release `seq` removed, unless another release is in force."""
    decided = log.snapshot(run.epoch)
    if decided.seq > seq or decided.state is None:
        # The policy was replaced since: the new one may lack the rule that stopped the run.
        return state
    for event in log.since("command", decided.seq):
        command = command_from_payload(event)
        if event.seq not in {seq, *cancelled} and command.type == "release" and command.only is None:
            return state
    before = RunState.from_json(decided.state)
    return replace(state, stopped_by=before.stopped_by, early_stopping=before.early_stopping)
