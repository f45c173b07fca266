"""A curve as text: braille characters of eight dots, or stars if the encoding has no braille."""

import math
from collections.abc import Sequence

from remotelr_service.cli.support.output import rate, shows

# The dots of a braille character, by row and column.
_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
_BRAILLE = 0x2800


def plot(values: Sequence[float], *, start: int = 0, width: int = 72, height: int = 12, unit: str = "epoch") -> str:
    """The curve of `values` with its axes. Values that are not finite are left out.

    start: position of the first value. width, height: of the plot area, in characters.
    """
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return "nothing to draw"
    low, high = min(finite), max(finite)
    braille = shows(chr(_BRAILLE))
    across, down = (2, 4) if braille else (1, 1)
    cells = [[0] * width for _ in range(height)]
    before = None
    for column in range(width * across):
        row = _row(_value_at(values, column, width * across), height * down, low, high)
        for covered in _covered(before, row):
            cells[covered // down][column // across] |= _DOTS[covered % down][column % across]
        before = row
    lines = ["".join(_character(dots, braille) for dots in row) for row in cells]
    return "\n".join(_with_axes(lines, (low, high), (start, start + len(values) - 1), unit))


def _value_at(values: Sequence[float], column: int, columns: int) -> float:
    return values[round(column / max(columns - 1, 1) * (len(values) - 1))]


def _row(value: float, rows: int, low: float, high: float) -> int | None:
    """The row, 0 at the top; None for a value that is not finite. Constant values are in the middle."""
    if not math.isfinite(value):
        return None
    share = 0.5 if high == low else (value - low) / (high - low)
    return min(int((1 - share) * rows), rows - 1)


def _covered(before: int | None, row: int | None) -> range:
    """The rows that the curve covers in a column, from the row of the column before."""
    if row is None:
        return range(0)
    if before is None or before == row:
        return range(row, row + 1)
    return range(before + 1, row + 1) if before < row else range(row, before)


def _character(dots: int, braille: bool) -> str:
    if braille:
        return chr(_BRAILLE + dots) if dots else " "
    return "*" if dots else " "


def _with_axes(lines: list[str], rates: tuple[float, float], positions: tuple[int, int], unit: str) -> list[str]:
    low, high = rates
    labels = {0: rate(high), len(lines) // 2: rate((low + high) / 2), len(lines) - 1: rate(low)}
    margin = max(len(label) for label in labels.values())
    bar = "│" if shows("│") else "|"
    picture = [f"{labels.get(index, ''):>{margin}} {bar}{line}".rstrip() for index, line in enumerate(lines)]
    first, last = (str(position) for position in positions)
    gap = max(len(lines[0]) - len(first) - len(unit) - 1 - len(last), 1)
    return [*picture, f"{'':>{margin}}  {unit} {first}{'':>{gap}}{last}"]
