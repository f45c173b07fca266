"""What `max_change` of the limits forbids: a rate that leaps, in force or beneath what is held above it."""

from collections.abc import Iterator
from dataclasses import replace

from remotelr.rules.errors import InvalidCommand
from remotelr.rules.run.model import Run
from remotelr.rules.run.state import apply_due_overrides, rate_at
from remotelr.rules.transitions.decide import start_position


def check_max_change(run: Run, after: Run, epoch: int, *, field: str, curve: bool) -> None:
    """Raises InvalidCommand where the rate of `epoch` changes from `run` to `after` by more than the limits allow.

    Compared are the rates in force, then those that come when what holds them for a while is over.
    field: what is to blame. curve: the curve itself is another, so it is compared beneath a pin too.
    """
    limits = run.state.limits
    if limits is None or limits.max_change is None:
        return
    for old, new in zip(_rates(run, epoch, curve=curve), _rates(after, epoch, curve=curve), strict=True):
        lower, higher = sorted((old, new))
        # A factor of exactly max_change may come out of the division a little larger.
        if higher > lower * limits.max_change * (1 + 1e-9):
            raise InvalidCommand(
                f"from {old!r} to {new!r} is more than a factor of {limits.max_change:g}, the most that the limits of "
                f"the experiment let one command change",
                field=field,
            )


def _rates(run: Run, epoch: int, *, curve: bool) -> Iterator[float]:
    """The rate of `epoch`, without a one-shot and a guard that holds it, and with `curve` without a pin."""
    place = start_position(run, epoch)
    state = apply_due_overrides(run.policy, run.state, epoch, place)
    yield rate_at(run.policy, state, epoch, place).learning_rate
    state = replace(state, one_shot=None, guard=replace(state.guard, held=None))
    yield rate_at(run.policy, state, epoch, place).learning_rate
    if curve:
        yield rate_at(run.policy, replace(state, pin=None), epoch, place).learning_rate
