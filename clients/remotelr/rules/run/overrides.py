"""The effect of commands on the state of a run."""

from collections.abc import Collection
from dataclasses import replace

from remotelr.rules.run.command import Command, command_from_payload
from remotelr.rules.run.events import Event, Log
from remotelr.rules.run.model import Run
from remotelr.rules.run.state import Override, RunState


def first_undecided(run: Run) -> int:
    """The first epoch that a command can affect: the one after `run.epoch`, or epoch 0 of a run without an attempt."""
    untouched = run.attempt == 0 and run.epoch == 0
    return run.epoch if untouched else run.epoch + 1


def with_command(state: RunState, command: Command, effective_from: int) -> RunState:
    """The state with the command. A stop, its release and limits apply immediately, rates from `effective_from` on."""
    match command.type:
        case "stop":
            return replace(state, stop=True)
        case "release":
            if command.only is not None:
                return state.with_override(Override(epoch=effective_from, ends=command.only))
            early = None if state.early_stopping is None else {**state.early_stopping, "wait": 0}
            state = state.with_override(Override(epoch=effective_from))
            return replace(state, stop=False, stopped_by=None, early_stopping=early)
        case "set_learning_rate":
            return _with_rate(state, command, effective_from)
        case "scale":
            return state.with_override(Override(epoch=effective_from, factor=command.multiplier))
        case "pause":
            return state.with_override(Override(epoch=effective_from, clock="pause"))
        case "resume_schedule":
            return state.with_override(Override(epoch=effective_from, clock="resume"))
        case "limits":
            return replace(state, limits=command.limits)
        case _:
            return state


def _with_rate(state: RunState, command: Command, effective_from: int) -> RunState:
    if command.mode == "rebase":
        return state.with_override(Override(epoch=effective_from, base=command.value))
    until = command.until
    time = None if until is None else until.time
    ends = None if until is None else until.epoch
    if command.mode == "one_shot":
        state = state.with_override(Override(epoch=effective_from, one_shot=command.value, until=time))
        if until is None:
            ends = effective_from + 1
        return state if ends is None else state.with_override(Override(epoch=ends, ends="one_shot"))
    state = state.with_override(Override(epoch=effective_from, learning_rate=command.value, until=time))
    return state if ends is None else state.with_override(Override(epoch=ends, ends="pin"))


def pending_overrides(log: Log, cancelled: Collection[int], first: int) -> tuple[Override, ...]:
    """The overrides of the log's commands, without the cancelled ones, from epoch `first` on."""
    overrides = fold_commands(log, cancelled).overrides
    return tuple(override for override in overrides if override.epoch >= first)


def cancelled_seqs(events: Collection[Event]) -> frozenset[int]:
    """The numbers of the commands that these events cancel."""
    cancels = [command_from_payload(event) for event in events if event.payload["type"] == "cancel"]
    return frozenset(each.seq for each in cancels if each.seq is not None)


def fold_commands(log: Log, cancelled: Collection[int]) -> RunState:
    """A fresh state with all commands of the log but the cancelled ones, none of them applied."""
    state = RunState()
    for event in log.since("command", 0):
        if event.seq not in cancelled:
            state = with_command(state, command_from_payload(event), event.effective_from)
    return state
