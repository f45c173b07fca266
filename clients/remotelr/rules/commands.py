"""What operators order, and what it does to a run.

A command bears on the first epoch that is not yet decided. Rates and pauses wait for it as `state.Order`s; a stop, a
note, a cancel and rails hold at once; replace_policy and extend change the run's spec, in an event of kind `policy`.
"""

from collections.abc import Collection
from dataclasses import replace
from datetime import datetime
from typing import Any

from remotelr.rules.allowed import check_members, refuse_off_rails
from remotelr.rules.deciding import begin_of
from remotelr.rules.errors import InvalidCommand, SeqConflict
from remotelr.rules.extending import extended
from remotelr.rules.lifecycle import asked_for, remembered
from remotelr.rules.log import Event, Log
from remotelr.rules.orders import Command, Held, command_from_payload, command_to_json
from remotelr.rules.run import Outcome, Run
from remotelr.rules.state import Order, RunState, rate_at


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


def pending_orders(log: Log, cancelled: Collection[int], first: int) -> tuple[Order, ...]:
    """What the commands in the log, but for the cancelled ones, still have to do from epoch `first` on."""
    orders = _folded(log, cancelled).orders
    return tuple(order for order in orders if order.epoch >= first)


def cancelled_in(events: Collection[Event]) -> frozenset[int]:
    """The numbers of the commands that commands among these events have cancelled."""
    orders = [command_from_payload(event) for event in events if event.payload["type"] == "cancel"]
    return frozenset(order.seq for order in orders if order.seq is not None)


def next_until(run: Run) -> datetime | None:
    """The next time at which `until_due` has something to say; None while no rate is held until a time."""
    return min((datetime.fromisoformat(time) for time in _times(run).values()), default=None)


def until_due(run: Run, now: datetime) -> Command | None:
    """The command that ends a rate held until a time that has come, for who has a clock to append it; else None.

    now: with a time zone. Ask again after appending it: pin and one-shot may both have ended.
    """
    due = [held for held, time in _times(run).items() if datetime.fromisoformat(time) <= now]
    return Command(type="release", only=due[0], actor="remotelr", reason="until") if due else None


def _times(run: Run) -> dict[Held, str]:
    """The times until which rates are held by the first undecided epoch."""
    pin, one_shot = run.state.pin_until, run.state.one_shot_until
    for order in run.state.orders:
        if order.epoch > first_undecided(run):
            continue
        if order.once is not None or order.over == "one_shot" or order.releases:
            one_shot = order.until
        if order.learning_rate is not None or order.base is not None or order.over == "pin" or order.releases:
            pin = order.until
    times: dict[Held, str | None] = {"pin": pin, "one_shot": one_shot}
    return {held: time for held, time in times.items() if time is not None}


_MODES = {
    ("replace_policy", "keep"): "replace",
    ("replace_policy", "reset"): "restart",
    ("extend", "keep"): "extend",
}


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
            return replace(run, state=_cancelled(run, order, holds_from, log))
        case "rails":
            spec = replace(run.spec, rails=order.rails)
            return replace(run, spec=spec, state=ordered(run.state, order, holds_from))
        case _:
            return replace(run, state=ordered(run.state, order, holds_from))


def _effect(run: Run, after: Run, order: Command, holds_from: int) -> dict[str, Any]:
    """What the command does to the rate of its first epoch. Raises InvalidCommand where the rails forbid it."""
    if order.type == "note":
        return {}
    position = begin_of(run, holds_from)
    old = rate_at(run.policy, run.state, holds_from, position)
    new = rate_at(after.policy, after.state, holds_from, position)
    refuse_off_rails(run, order, old, new)
    return {"before": old.learning_rate, "after": new.learning_rate}


def _cancelled(run: Run, order: Command, holds_from: int, log: Log) -> RunState:
    """The state without a command that nobody was told of yet. Raises InvalidCommand where there is no such command."""
    assert order.seq is not None
    since = log.since("command", order.seq - 1)
    event = since[0] if since and since[0].seq == order.seq else None
    if event is None:
        raise InvalidCommand(f"event {order.seq} is no command that can be cancelled", field="seq")
    cancelled = cancelled_in(log.since("command", 0))
    if order.seq in cancelled:
        raise InvalidCommand(f"command {order.seq} is cancelled already", field="seq")
    kind = command_from_payload(event).type
    if kind in ("note", "cancel", "rails"):
        raise InvalidCommand(f"command {order.seq} is a {kind}, which holds at once", field="seq")
    if run.decided_seq > event.seq and run.epoch >= event.holds_from:
        raise InvalidCommand(
            f"command {order.seq} was delivered, for epoch {event.holds_from}: give one that undoes it", field="seq"
        )
    folded = _folded(log, cancelled | {order.seq})
    orders = tuple(each for each in folded.orders if each.epoch >= holds_from)
    return replace(run.state, orders=orders, stop=folded.stop)


def _folded(log: Log, cancelled: Collection[int]) -> RunState:
    """Every command ever noted, but for the cancelled ones, with none of them carried out."""
    state = RunState()
    for event in log.since("command", 0):
        if event.seq not in cancelled:
            state = ordered(state, command_from_payload(event), event.holds_from)
    return state


def _alike(order: Command) -> Command:
    """The command without what a repetition may say otherwise."""
    if order.type == "scale":
        order = replace(order, factor=order.multiplier, value=None)
    return replace(order, key=None, expected_seq=None)


def _without_policy(document: dict[str, Any]) -> dict[str, Any]:
    """It stands in the event once, as the run's own."""
    return {name: value for name, value in document.items() if name != "policy"}
