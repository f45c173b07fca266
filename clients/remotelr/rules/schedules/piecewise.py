"""Curves given by their points: piecewise_constant, piecewise_interpolate."""

from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from itertools import pairwise
from math import cos, pi
from typing import ClassVar, Literal

from remotelr.rules.errors import InvalidPolicy
from remotelr.rules.schedules.base import FromOwnRates, State
from remotelr.rules.values.fields import Offset, RateOrZero
from remotelr.rules.values.floats import blend


@dataclass(frozen=True, slots=True, kw_only=True)
class _Piecewise(FromOwnRates):
    boundaries: tuple[Offset, ...]
    values: tuple[RateOrZero, ...]

    @property
    def initial_learning_rate(self) -> float | None:
        return self.values[0]

    @property
    def span(self) -> float | None:
        return max(self.boundaries, default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class PiecewiseConstant(_Piecewise):
    """One rate between each two boundaries; there is one value more than boundaries.

        lr(t) = values[number of boundaries <= t]      boundary at: the boundary itself has the new value
        lr(t) = values[number of boundaries < t]       boundary after: it still has the old one

    The most common off-by-one of the field: `after` is Keras `PiecewiseConstantDecay`; `at` is torch `MultiStepLR` and
    `ConstantLR`, and optax `piecewise_constant_schedule`.
    """

    type: ClassVar[str] = "piecewise_constant"

    boundary: Literal["at", "after"] = "at"

    def _check_consistency(self) -> None:
        refuse_unsorted(self.boundaries, "boundaries")
        if len(self.values) != len(self.boundaries) + 1:
            raise InvalidPolicy(
                f"must hold one value more than there are boundaries ({len(self.boundaries)}), has {len(self.values)}",
                "values",
            )

    def learning_rate(self, state: State, position: float) -> float:
        count = bisect_right if self.boundary == "at" else bisect_left
        return self.values[count(self.boundaries, position)]


@dataclass(frozen=True, slots=True, kw_only=True)
class PiecewiseInterpolate(_Piecewise):
    """From point to point, in straight lines or half cosines; the first and the last value are held.

        p = (t - boundaries[i]) / (boundaries[i + 1] - boundaries[i])
        linear: values[i + 1] + (values[i] - values[i + 1]) * (1 - p)
        cosine: values[i + 1] + (values[i] - values[i + 1]) * (1 + cos(pi * p)) / 2

    optax `piecewise_interpolate_schedule` and both of its one-cycle schedules, torch `SWALR`.
    """

    type: ClassVar[str] = "piecewise_interpolate"

    interpolation: Literal["linear", "cosine"] = "linear"

    def _check_consistency(self) -> None:
        refuse_unsorted(self.boundaries, "boundaries")
        if not self.boundaries:
            raise InvalidPolicy("must hold at least one point", "boundaries")
        if len(self.values) != len(self.boundaries):
            raise InvalidPolicy(
                f"must hold one value for each of {len(self.boundaries)} boundaries, has {len(self.values)}", "values"
            )

    def learning_rate(self, state: State, position: float) -> float:
        after = bisect_right(self.boundaries, position)
        if after == 0:
            return self.values[0]
        if after == len(self.boundaries):
            return self.values[-1]
        begin, end = self.boundaries[after - 1 : after + 1]
        progress = (position - begin) / (end - begin)
        if self.interpolation == "cosine":
            progress = (1 - cos(pi * progress)) / 2
        return blend(self.values[after - 1], self.values[after], progress)


def refuse_unsorted(boundaries: tuple[float, ...], name: str) -> None:
    """Raises InvalidPolicy unless every boundary lies after the one before. Keras adds up values where one does not."""
    for index, (earlier, later) in enumerate(pairwise(boundaries)):
        if later <= earlier:
            raise InvalidPolicy(f"must be after the one before ({earlier:g}), is {later:g}", f"{name}[{index + 1}]")
