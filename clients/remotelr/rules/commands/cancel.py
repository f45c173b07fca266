"""Taking a command back that nobody was told of yet."""

from collections.abc import Collection
from dataclasses import replace

from remotelr.rules.errors import InvalidCommand
from remotelr.rules.run.command import Command, command_from_payload
from remotelr.rules.run.events import Log
from remotelr.rules.run.model import Run
from remotelr.rules.run.overrides import cancelled_seqs, fold_commands
from remotelr.rules.run.state import RunState


def cancel_command(run: Run, order: Command, effective_from: int, log: Log) -> RunState:
    """The state without a command that nobody was told of yet. Raises InvalidCommand where there is no such command."""
    assert order.seq is not None
    since = log.since("command", order.seq - 1)
    event = since[0] if since and since[0].seq == order.seq else None
    if event is None:
        raise InvalidCommand(f"event {order.seq} is no command that can be cancelled", field="seq")
    earlier = cancelled_seqs(log.since("command", 0))
    if order.seq in earlier:
        raise InvalidCommand(f"command {order.seq} is cancelled already", field="seq")
    kind = command_from_payload(event).type
    if kind in ("note", "cancel", "limits"):
        raise InvalidCommand(f"command {order.seq} is a {kind}, which holds at once", field="seq")
    if run.decided_seq > event.seq and run.epoch >= event.effective_from:
        raise InvalidCommand(
            f"command {order.seq} was delivered, for epoch {event.effective_from}: give one that undoes it", field="seq"
        )
    rest = fold_commands(log, earlier | {order.seq})
    overrides = tuple(each for each in rest.overrides if each.epoch >= effective_from)
    state = replace(run.state, overrides=overrides, stop=rest.stop)
    return _restore_stop(run, state, order.seq, earlier, log) if kind == "release" else state


def _restore_stop(run: Run, state: RunState, seq: int, cancelled: Collection[int], log: Log) -> RunState:
    """The state as the run's own policy had ended it before the release `seq`, unless another release stands."""
    decided = log.snapshot(run.epoch)
    if decided.seq > seq or decided.state is None:
        # Another policy came since, and what had ended the run may not be in it.
        return state
    for event in log.since("command", decided.seq):
        order = command_from_payload(event)
        if event.seq not in {seq, *cancelled} and order.type == "release" and order.only is None:
            return state
    before = RunState.from_json(decided.state)
    return replace(state, stopped_by=before.stopped_by, early_stopping=before.early_stopping)
