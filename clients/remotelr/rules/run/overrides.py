"""What a command leaves to be done in the state of a run: at once, or as orders from its first epoch on."""

from collections.abc import Collection
from dataclasses import replace

from remotelr.rules.run.command import Command, command_from_payload
from remotelr.rules.run.events import Event, Log
from remotelr.rules.run.model import Run
from remotelr.rules.run.state import Order, RunState


def first_undecided(run: Run) -> int:
    """The first epoch a command can bear on: `run.epoch` has its rate, unless no trainer was there to be given it."""
    untouched = run.attempt == 0 and run.epoch == 0
    return run.epoch if untouched else run.epoch + 1


def ordered(state: RunState, order: Command, holds_from: int) -> RunState:
    """The state with a command noted. A stop, its release and rails hold at once, rates from `holds_from` on."""
    match order.type:
        case "stop":
            return replace(state, stop=True)
        case "release":
            if order.only is not None:
                return state.ordering(Order(epoch=holds_from, over=order.only))
            early = None if state.early is None else {**state.early, "wait": 0}
            return replace(state.ordering(Order(epoch=holds_from)), stop=False, ended=None, early=early)
        case "set_learning_rate":
            return _rate_ordered(state, order, holds_from)
        case "scale":
            return state.ordering(Order(epoch=holds_from, factor=order.multiplier))
        case "pause":
            return state.ordering(Order(epoch=holds_from, clock="pause"))
        case "resume_schedule":
            return state.ordering(Order(epoch=holds_from, clock="resume"))
        case "rails":
            return replace(state, rails=order.rails)
        case "replace_policy" | "extend" | "note" | "cancel":
            return state


def _rate_ordered(state: RunState, order: Command, holds_from: int) -> RunState:
    if order.mode == "rebase":
        return state.ordering(Order(epoch=holds_from, base=order.value))
    until = order.until
    time = None if until is None else until.time
    ends = None if until is None else until.epoch
    if order.mode == "one_shot":
        state = state.ordering(Order(epoch=holds_from, once=order.value, until=time))
        if until is None:
            ends = holds_from + 1
        return state if ends is None else state.ordering(Order(epoch=ends, over="one_shot"))
    state = state.ordering(Order(epoch=holds_from, learning_rate=order.value, until=time))
    return state if ends is None else state.ordering(Order(epoch=ends, over="pin"))


def pending_orders(log: Log, cancelled: Collection[int], first: int) -> tuple[Order, ...]:
    """What the commands in the log, but for the cancelled ones, still have to do from epoch `first` on."""
    orders = folded(log, cancelled).orders
    return tuple(order for order in orders if order.epoch >= first)


def cancelled_in(events: Collection[Event]) -> frozenset[int]:
    """The numbers of the commands that commands among these events have cancelled."""
    orders = [command_from_payload(event) for event in events if event.payload["type"] == "cancel"]
    return frozenset(order.seq for order in orders if order.seq is not None)


def folded(log: Log, cancelled: Collection[int]) -> RunState:
    """Every command ever noted, but for the cancelled ones, with none of them carried out."""
    state = RunState()
    for event in log.since("command", 0):
        if event.seq not in cancelled:
            state = ordered(state, command_from_payload(event), event.holds_from)
    return state
