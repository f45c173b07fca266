"""What operators order."""

from dataclasses import replace
from math import inf

from remotelr.rules.errors import InvalidCommand, SeqConflict
from remotelr.rules.log import Event, Log
from remotelr.rules.orders import Command, command_to_json
from remotelr.rules.run import Outcome, Run
from remotelr.rules.state import Order, RunState


def command(run: Run, order: Command, log: Log) -> Outcome:
    """The run with the command noted; it bears on the first epoch that is not yet decided.

    Raises InvalidCommand for a value outside the policy's bounds, or the key of another command.
    """
    known = None if order.key is None else log.keyed("command", order.key)
    if known is not None:
        if known.payload != command_to_json(order):
            raise InvalidCommand(f"the key {order.key!r} belongs to another command", field="key")
        return Outcome(run=run, event=None)
    if order.expected_seq is not None and order.expected_seq != run.seq:
        raise SeqConflict(
            f"the run is at event {run.seq}, not {order.expected_seq}: look again before you order",
            seq=run.seq,
            expected_seq=order.expected_seq,
        )
    _check_command(run, order)
    # Epoch `run.epoch` has its rate already, unless no trainer was there to be given it.
    untouched = run.attempt == 0 and run.epoch == 0
    holds_from = run.epoch if untouched else run.epoch + 1
    state = ordered(run.state, order, holds_from)
    event = Event(
        seq=run.seq + 1,
        kind="command",
        attempt=run.attempt,
        key=order.key,
        holds_from=holds_from,
        payload=command_to_json(order),
        state=state.to_json(),
    )
    return Outcome(run=replace(run, seq=event.seq, state=state), event=event)


def ordered(state: RunState, order: Command, holds_from: int) -> RunState:
    """The state with a command noted. A stop and its release hold at once, rates from `holds_from` on."""
    match order.type:
        case "stop":
            return replace(state, stop=True)
        case "release":
            return replace(state.ordering(Order(epoch=holds_from)), stop=False)
        case "set_learning_rate":
            return state.ordering(Order(epoch=holds_from, learning_rate=order.value))
        case "scale":
            return state.ordering(Order(epoch=holds_from, factor=order.multiplier))


def _check_command(run: Run, order: Command) -> None:
    if order.type not in ("set_learning_rate", "scale"):
        if order.value is not None:
            raise InvalidCommand(f"{order.type} takes no value, not {order.value!r}", field="value")
        return
    wanted = order.multiplier if order.type == "scale" else order.value
    if wanted is None or not 0 < wanted < inf:
        field = "value" if order.factor is None else "factor"
        raise InvalidCommand(f"{order.type} needs a {field} > 0, not {wanted!r}", field=field)
    if order.type == "set_learning_rate" and order.value is not None and run.policy.bounded(order.value) != order.value:
        raise InvalidCommand(
            f"{order.value!r} is outside the policy's bounds: the nearest it allows is "
            f"{run.policy.bounded(order.value)!r}",
            field="value",
        )
