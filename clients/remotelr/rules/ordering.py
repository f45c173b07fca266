"""What a command leaves to be done in the state of a run: at once, or as orders from its first epoch on."""

from dataclasses import replace

from remotelr.rules.orders import Command
from remotelr.rules.run import Run
from remotelr.rules.state import Order, RunState


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
