"""Noise on the rate, drawn from a generator seeded by the position: the same position has the same noise for ever.

It gives what timm and torch give, bit for bit, without either: torch seeds its Mersenne Twister by init_genrand,
Python's own `seed` does not.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import cos, erf, floor, log1p, pi, sin, sqrt
from struct import pack, unpack
from typing import Annotated, Literal

from remotelr.rules.composition.mersenne_twister import outputs
from remotelr.rules.errors import InvalidPolicy
from remotelr.rules.values.fields import Offset, Range, check_fields

# At the smallest pct / std that is allowed, 10,000 draws miss once in 10**34 positions.
_MAX_DRAWS = 10_000

# Parts, of 0.1 us each.
_SEEDING_COST = 1_000
_DRAW_COST = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Noise:
    """A factor 1 + z on the rate, z anew at every whole position.

        normal:  z ~ N(0, std), drawn again until |z| < pct
        uniform: z ~ U(-pct, pct)

    on: from this position on, or [from, to) when two are given.
    seed: of the run; position t is seeded with seed + t.

    timm's `noise_range_t`, `noise_pct`, `noise_std`, `noise_seed` and `noise_type`.
    """

    on: Offset | tuple[Offset, Offset] = 0.0
    pct: Annotated[float, Range(above=0, most=1)] = 0.67
    std: Annotated[float, Range(above=0, most=100)] = 1.0
    seed: Annotated[int, Range(least=0, most=2**32 - 1)] = 42
    distribution: Literal["normal", "uniform"] = "normal"

    def __post_init__(self) -> None:
        check_fields(self)
        if isinstance(self.on, tuple) and self.on[0] > self.on[1]:
            raise InvalidPolicy(f"must not end ({self.on[1]:g}) before it begins ({self.on[0]:g})", "on")
        if self.pct < self.std / 100:
            raise InvalidPolicy(f"must be at least a hundredth of std ({self.std:g}), is {self.pct:g}", "pct")

    @property
    def cost(self) -> int:
        """The parts evaluated for one factor, as expected; see `policy.cost`."""
        if self.distribution == "uniform":
            return _SEEDING_COST
        return _SEEDING_COST + round(_DRAW_COST / erf(self.pct / self.std / sqrt(2)))

    def factor(self, position: float) -> float:
        """What to multiply the rate at `position` with, in [1 - pct, 1 + pct]; 1 where the noise is off."""
        begin, end = self.on if isinstance(self.on, tuple) else (self.on, None)
        if position < begin or (end is not None and position >= end):
            return 1.0
        words = outputs(self.seed + floor(position))
        if self.distribution == "uniform":
            return 1 + 2 * (next(words) % 2**24 / 2**24 - 0.5) * self.pct
        return 1 + self._normal(words)

    def _normal(self, words: Iterator[int]) -> float:
        draws = _normals(words)
        for _ in range(_MAX_DRAWS):
            z = next(draws) * self.std
            if abs(z) < self.pct:
                return z
        return 0.0


def _normals(words: Iterator[int]) -> Iterator[float]:
    """Standard normal numbers as torch draws them into a float32: Box and Muller, the cosine first, then the sine."""
    while True:
        u1, u2 = _uniform(words), _uniform(words)
        radius, angle = sqrt(-2 * log1p(-u2)), 2 * pi * u1
        yield _float32(radius * cos(angle))
        yield _float32(radius * sin(angle))


def _uniform(words: Iterator[int]) -> float:
    high, low = next(words), next(words)
    return ((high << 32 | low) % 2**53) / 2**53


def _float32(value: float) -> float:
    number: float = unpack("<f", pack("<f", value))[0]
    return number
