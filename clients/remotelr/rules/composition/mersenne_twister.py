"""The outputs of MT19937 after `init_genrand(seed)`, as torch seeds it; Python's own `seed` initialises differently.

Initialising the 624 words of the state costs far more than drawing from it, and noise needs a new seed at every
position but only a few outputs. So the first outputs are computed without the rest of the state. For consecutive
seeds, as a curve asks for them, they are computed for a block of seeds at once: each seed is a lane of 64 bits in one
large integer. Measured per seed on one core: whole state 160 us, alone 60 us, in a block 6 us.
"""

from collections.abc import Iterator
from functools import lru_cache
from itertools import islice
from random import Random
from typing import Final

_WORDS, _MIDDLE = 624, 397
_MULTIPLIER, _MATRIX, _MASK = 1812433253, 0x9908B0DF, 0xFFFFFFFF

# Outputs computed without the whole state; at most _WORDS - _MIDDLE.
_FIRST: Final = 16

# Seeds of one block, and the same constant in each lane of it.
_LANES: Final = 256
_ONES: Final = sum(1 << 64 * lane for lane in range(_LANES))
_RAMP: Final = sum(lane << 64 * lane for lane in range(_LANES))


def outputs(seed: int) -> Iterator[int]:
    """The 32-bit outputs of the generator with this seed (taken modulo 2**32), without end."""
    first = _first_outputs(seed % 2**32)
    yield from first
    yield from islice(_all_outputs(seed), _FIRST, None)


class _Previous:
    """The seed computed alone last. Threads may overwrite it; a wrong value costs time and changes no output."""

    seed = -2


def _first_outputs(seed: int) -> tuple[int, ...]:
    begin = seed - seed % _LANES
    if seed in (_Previous.seed, _Previous.seed + 1) or _Previous.seed - _Previous.seed % _LANES == begin:
        return _block(begin)[seed - begin]
    _Previous.seed = seed
    return _alone(seed)


def _alone(seed: int) -> tuple[int, ...]:
    keys = [seed]
    for index in range(1, _MIDDLE + _FIRST):
        seed = (_MULTIPLIER * (seed ^ seed >> 30) + index) & _MASK
        keys.append(seed)
    drawn = []
    for index in range(_FIRST):
        joined = keys[index] & 0x80000000 | keys[index + 1] & 0x7FFFFFFF
        drawn.append(_tempered(keys[index + _MIDDLE] ^ joined >> 1 ^ (joined & 1) * _MATRIX, 1))
    return tuple(drawn)


@lru_cache(maxsize=64)
def _block(begin: int) -> list[tuple[int, ...]]:
    """The first outputs of the seeds from `begin` on, by the same steps as `_alone` on all lanes."""
    mask = _MASK * _ONES
    lanes = (begin * _ONES + _RAMP) & mask
    low, high = [lanes], []
    for index in range(1, _MIDDLE + _FIRST):
        lanes = ((lanes ^ lanes >> 30 & 3 * _ONES) * _MULTIPLIER + index * _ONES) & mask
        if index <= _FIRST:
            low.append(lanes)
        elif index >= _MIDDLE:
            high.append(lanes)
    drawn = []
    for index in range(_FIRST):
        joined = low[index] & 0x80000000 * _ONES | low[index + 1] & 0x7FFFFFFF * _ONES
        twisted = high[index] ^ joined >> 1 & 0x7FFFFFFF * _ONES ^ (joined & _ONES) * _MATRIX
        drawn.append(memoryview(_tempered(twisted, _ONES).to_bytes(8 * _LANES, "little")).cast("Q").tolist())
    return list(zip(*drawn, strict=True))


def _tempered(word: int, ones: int) -> int:
    """MT19937's tempering of one word, or of each lane where `ones` has a 1 in each."""
    word ^= word >> 11 & 0x1FFFFF * ones
    word ^= word << 7 & 0x9D2C5680 * ones
    word ^= word << 15 & 0xEFC60000 * ones
    return word ^ word >> 18 & 0x3FFF * ones


def _all_outputs(seed: int) -> Iterator[int]:
    key = seed % 2**32
    keys = [key]
    for index in range(1, _WORDS):
        key = (_MULTIPLIER * (key ^ key >> 30) + index) & _MASK
        keys.append(key)
    generator = Random()
    generator.setstate((3, (*keys, _WORDS), None))
    while True:
        yield generator.getrandbits(32)
