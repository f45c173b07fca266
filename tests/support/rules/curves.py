"""What a policy document gives: its rates, position by position, as a run would get them."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from remotelr.rules import Binding, Point, policy_from_json
from remotelr.rules.policy.codec import node_from_json


def curve(document: Mapping[str, Any], positions: Iterable[float], initial: float | None = None) -> list[float]:
    """The rates of an open-loop policy at these positions."""
    policy = policy_from_json(document).bind(Binding(initial_learning_rate=initial))
    state = policy.start(initial or policy.initial_learning_rate or 0.0)
    return [policy.learning_rate(state, position) for position in positions]


def epoch_rates(document: Mapping[str, Any], losses: Sequence[float], initial: float | None = None) -> list[float]:
    """The rate of every epoch when `losses[e]` is reported as val_loss after epoch e, and of the epoch after."""
    policy = policy_from_json(document).bind(Binding(initial_learning_rate=initial))
    state = policy.start(initial or policy.initial_learning_rate or 0.0)
    rates = [policy.learning_rate(state, 0)]
    for epoch, loss in enumerate(losses):
        state = policy.observe(state, Point(epoch, {"val_loss": loss}))
        rates.append(policy.learning_rate(state, epoch + 1))
    return rates


def states(document: Mapping[str, Any], losses: Iterable[float | None], initial: float = 1.0) -> Iterator[Any]:
    """The state of a node after each of these losses; None is a report without one."""
    node = node_from_json(document)
    state = node.start(initial)
    for epoch, loss in enumerate(losses):
        state = node.observe(state, Point(float(epoch), {} if loss is None else {"val_loss": loss}))
        yield state
