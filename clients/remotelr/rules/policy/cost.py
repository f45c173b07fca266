"""The cost of a policy: how much is evaluated for its rate at one position.

A document is bounded in depth and in objects, and each node in what it evaluates, but not their sum: 500 recursive
formulas would hold the writer of a service for minutes. So the sum is bounded too, wherever a document is read.

The unit is a part, about 0.1 us on one core: the evaluation of one node of a formula. What a node costs at most
stands in its class, as `cost`; a node without one is a few arithmetic operations.
"""

from collections.abc import Iterator
from dataclasses import fields
from typing import Any, Final

from remotelr.rules.composition.modifiers import WithModifiers
from remotelr.rules.errors import InvalidPolicy
from remotelr.rules.schedules.base import Schedule

# About 20 ms on one core: twice what one recursive formula may take.
MAX_COST: Final = 200_000
NODE_COST: Final = 10


def cost_of(schedule: Schedule) -> int:
    """The parts that are evaluated at most for the rate of `schedule` at one position."""
    return sum(cost for _, cost in _costs(schedule, ""))


def check_cost(schedule: Schedule) -> None:
    """Raises InvalidPolicy where the nodes of `schedule` cost more than MAX_COST together, at the node that exceeds."""
    total, exceeding = 0, ""
    for path, cost in _costs(schedule, ""):
        total += cost
        if total - cost <= MAX_COST < total:
            exceeding = path
    if total > MAX_COST:
        raise InvalidPolicy(
            f"the schedule costs {total:,} evaluated parts at one position and may cost {MAX_COST:,}: use fewer "
            f"formulas that use lr, fewer formulas without a value at some positions, or less noise",
            exceeding,
        )


def _costs(node: Schedule, path: str) -> Iterator[tuple[str, int]]:
    yield path, getattr(node, "cost", NODE_COST)
    for field in fields(node):  # type: ignore[arg-type]  # every schedule is a dataclass; a protocol cannot say so
        value: Any = getattr(node, field.name)
        # In a document modifiers are members of the node that they modify.
        name = "" if isinstance(node, WithModifiers) else field.name
        if isinstance(value, tuple):
            for index, part in enumerate(value):
                if hasattr(part, "observe"):
                    yield from _costs(part, _join(path, f"{name}[{index}]"))
        elif hasattr(value, "observe"):
            yield from _costs(value, _join(path, name))


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path and name else path or name
