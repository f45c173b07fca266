"""Where a position falls in a chain of cycles, each a constant factor longer than the one before.

start(i) = first * (t_mul ** i - 1) / (t_mul - 1)        i * first when t_mul is 1
length(i) = first * t_mul ** i
"""

from dataclasses import dataclass
from math import ceil, floor, log
from typing import Literal

from remotelr.rules.values.floats import bounded_power

# A cycle of a shrinking chain shorter than this share of the first is not resolved.
_SHORTEST = 1e-9


@dataclass(frozen=True, slots=True)
class Cycle:
    """The cycle a position falls in: its number from 0, and how much of it is over (0 to 1)."""

    index: int
    progress: float

    def peak(self, initial: float, end: float, m_mul: float, m_mul_on: Literal["range", "peak"]) -> float:
        """The rate this cycle begins at: `m_mul` per cycle scales the peak, or the range between the end and it."""
        scale = bounded_power(m_mul, self.index)
        return initial * scale if m_mul_on == "peak" else end + (initial - end) * scale


def cycle_at(t: float, *, first: float, t_mul: float, limit: int | None = None) -> Cycle:
    """The cycle of position t >= 0 and the progress in it, in constant time however large t is.

    After `limit` cycles, and after the whole of a shrinking chain (t_mul < 1), the last one stays over.
    """
    index = _index_at(t / first, t_mul)
    last = _last_index(t_mul, limit)
    if last is not None and index > last:
        return Cycle(last, 1.0)
    start, length = _start(index, t_mul), bounded_power(t_mul, index)
    return Cycle(index, min(max((t / first - start) / length, 0.0), 1.0))


def _index_at(x: float, t_mul: float) -> int:
    """The cycle of x, in units of the first cycle's length."""
    if _near_one(t_mul):
        return floor(x)
    grown = 1 + x * (t_mul - 1)
    if t_mul < 1 and grown <= _SHORTEST:
        return _shrinking_cycles(t_mul)
    index = floor(log(grown) / log(t_mul))
    # The logarithm may land on the wrong side of a boundary by one, and a boundary such as 8 + 8 * 1.3 may come out a
    # rounding error too late: the floor of a cycle would be there where the peak of the next should.
    reached = x * (1 + 1e-12)
    if _start(index + 1, t_mul) <= reached:
        return index + 1
    return index - 1 if _start(index, t_mul) > reached else index


def _last_index(t_mul: float, limit: int | None) -> int | None:
    ends = [] if limit is None else [limit - 1]
    if t_mul < 1 and not _near_one(t_mul):
        ends.append(_shrinking_cycles(t_mul) - 1)
    return min(ends, default=None)


def _shrinking_cycles(t_mul: float) -> int:
    return max(ceil(log(_SHORTEST) / log(t_mul)), 1)


def _start(index: int, t_mul: float) -> float:
    return float(index) if _near_one(t_mul) else (bounded_power(t_mul, index) - 1) / (t_mul - 1)


def _near_one(t_mul: float) -> bool:
    # Closer than this, the sum above loses itself in rounding, and no run is long enough to see the difference.
    return abs(t_mul - 1) < 1e-9
