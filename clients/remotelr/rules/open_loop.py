"""What the nodes that remember nothing have in common: their rate is a function of the position alone."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

from remotelr.rules.errors import InvalidPolicy
from remotelr.rules.fields import Rate, check_fields
from remotelr.rules.schedule import Binding, Point, State


class OpenLoop:
    """A schedule that takes no notice of metrics. Its state is None."""

    __slots__ = ()

    remembers = False

    def __post_init__(self) -> None:
        check_fields(self)
        # What one field alone cannot tell, the nodes that have such rules refuse themselves.
        refuse_contradictions = getattr(self, "_refuse_contradictions", None)
        if refuse_contradictions is not None:
            refuse_contradictions()

    def start(self, learning_rate: float) -> State:
        return None

    def observe(self, state: State, point: Point) -> State:
        return state

    def plateau(self, state: State) -> Mapping[str, Any] | None:
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class FromInitialRate(OpenLoop):
    """An open-loop node that begins at a rate of its own, or at the run's where it names none."""

    initial_learning_rate: Rate | None = None

    def bind(self, binding: Binding) -> Self:
        if self.initial_learning_rate is not None:
            return self
        return replace(self, initial_learning_rate=rate_of_run(binding))

    def momentum(self, state: State, position: float) -> float | None:
        return None

    @property
    def _initial(self) -> float:
        return bound(self.initial_learning_rate)


class FromOwnRates(OpenLoop):
    """An open-loop node that names all its rates itself."""

    __slots__ = ()

    def bind(self, binding: Binding) -> Self:
        return self

    def momentum(self, state: State, position: float) -> float | None:
        return None


def rate_of_run(binding: Binding) -> float:
    """The run's initial rate. Raises InvalidPolicy when nobody ever said it."""
    if binding.initial_learning_rate is None:
        raise InvalidPolicy("is missing, and the run has no rate of its own", "initial_learning_rate")
    return binding.initial_learning_rate


def bound(learning_rate: float | None) -> float:
    """The rate that `bind` has filled in. Raises InvalidPolicy when nothing did."""
    if learning_rate is None:
        raise InvalidPolicy("is open; bind the policy to a run first", "initial_learning_rate")
    return learning_rate
