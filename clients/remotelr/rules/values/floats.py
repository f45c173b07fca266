"""Operations that neither overflow nor divide by zero."""

import math

# Far above any rate and far below the end of the floats, so that products of a few stay finite.
MAX_FACTOR = 1e30

# Beyond it floats do not represent every position.
LAST_POSITION = 2.0**53


def nearest_float(value: float) -> float:
    """The float nearest to a number; infinity for an integer beyond the floats."""
    try:
        return float(value)
    except OverflowError:
        return math.inf


def bounded_power(base: float, exponent: float) -> float:
    """`base ** exponent` for base >= 0, at most `MAX_FACTOR`."""
    if base == 0:
        return 1.0 if exponent == 0 else 0.0
    if exponent * math.log(base) > math.log(MAX_FACTOR):
        return MAX_FACTOR
    return float(base**exponent)


def clamp(value: float, least: float | None, most: float | None) -> float:
    """`value` inside [least, most]; an end that is None is open. Where they cross, `least` wins."""
    if most is not None and value > most:
        value = most
    if least is not None and value < least:
        return least
    return value


def blend(start: float, end: float, share: float) -> float:
    """`start` at share 0, exactly `end` at share 1, a straight line between and beyond."""
    return end + (start - end) * (1 - share)
