"""Line charts as SVG text. The SVG loads and executes nothing, and has a description for screen readers.

All text is escaped.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import ceil, floor, log10
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 880, 440
_LEFT, _RIGHT, _TOP, _BOTTOM = 88.0, 24.0, 64.0, 56.0
_LINE = 18.0  # height of a legend row
_CHARACTER = 7.0  # approximate width in the legend

# Colours by Okabe and Ito, distinguishable with colour blindness; dashes are for prints in black.
_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f5539", "#6c757d")
_DASHES = ("", "8 4", "2 3", "10 3 2 3", "5 5", "12 4", "4 2", "1 3")

# Above this ratio of rates the y axis is logarithmic.
_WIDE = 1_000.0
_MAX_NAME = 40


@dataclass(frozen=True, slots=True)
class Line:
    """One curve. points: (x, y), x growing; all finite.

    held: y is constant until the next x, like the rate of an epoch; otherwise points are joined by lines.
    strong: drawn in black, for the actual rates.
    """

    name: str
    points: Sequence[tuple[float, float]]
    held: bool = False
    strong: bool = False


def line_chart(title: str, description: str, lines: Sequence[Line], *, x_name: str, y_name: str) -> str:
    """An SVG document with these lines, a legend for several lines, and ticks at round numbers."""
    legend = _legend_rows([line.name for line in lines]) if len(lines) > 1 else []
    top = _TOP + _LINE * len(legend)
    height = HEIGHT + _LINE * len(legend)
    xs = [x for line in lines for x, _ in line.points]
    ys = [y for line in lines for _, y in line.points]
    across = _linear(min(xs), max(xs), _LEFT, WIDTH - _RIGHT, 8)
    upward = _vertical(ys, height - _BOTTOM, top)
    # The strong line is drawn last, on top. Its legend position is unchanged.
    drawn = sorted(range(len(lines)), key=lambda index: lines[index].strong)
    parts = [
        _opening(height),
        f'<title id="title">{_text(title)}</title>',
        f'<desc id="desc">{_text(description)}</desc>',
        f'<rect width="{WIDTH}" height="{height:g}" fill="#ffffff"/>',
        f'<text x="{_LEFT:g}" y="30" font-size="16" font-weight="600" fill="#1b1f24">{_text(title)}</text>',
        *_drawn_legend(legend, lines),
        *_grid(across, upward, top, height - _BOTTOM),
        *(_curve(lines[index], index, across, upward) for index in drawn),
        *_names(x_name, y_name, top, height),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _opening(height: float) -> str:
    size = f'viewBox="0 0 {WIDTH} {height:g}" width="{WIDTH}" height="{height:g}"'
    font = 'font-family="system-ui, \'DejaVu Sans\', sans-serif" font-size="12"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-labelledby="title desc" {font}>'


@dataclass(frozen=True, slots=True)
class _Scale:
    """Converts values to coordinates. ticks: the marked values."""

    first: float
    last: float
    begin: float
    end: float
    ticks: tuple[float, ...]
    is_log: bool = False

    def __call__(self, value: float) -> float:
        place = log10(value) if self.is_log else value
        first, last = (log10(self.first), log10(self.last)) if self.is_log else (self.first, self.last)
        return self.begin + (place - first) / (last - first) * (self.end - self.begin)


def _linear(least: float, most: float, begin: float, end: float, count: int) -> _Scale:
    if least == most:
        margin = abs(least) * 0.5 or 1.0
        least, most = (least - margin if least else 0.0), most + margin
    step = _round_step((most - least) / count)
    first = ceil(least / step - 1e-9)
    last = floor(most / step + 1e-9)
    return _Scale(least, most, begin, end, tuple(index * step for index in range(first, last + 1)))


def _vertical(values: Sequence[float], bottom: float, top: float) -> _Scale:
    least, most = min(values), max(values)
    if least > 0 and most / least > _WIDE:
        first, last = floor(log10(least)), ceil(log10(most))
        every = ceil((last - first) / 8)
        ticks = tuple(10.0**power for power in range(first, last + 1, every))
        return _Scale(10.0**first, 10.0**last, bottom, top, ticks, is_log=True)
    # The linear axis begins at 0, so that heights are proportional to rates.
    most = most or 1.0
    step = _round_step(most / 6)
    steps = ceil(most / step - 1e-9)
    return _Scale(0.0, steps * step, bottom, top, tuple(index * step for index in range(steps + 1)))


def _round_step(rough: float) -> float:
    """The next larger value of 1, 2, 5 or 10 times a power of ten."""
    power = 10.0 ** floor(log10(rough))
    return next((factor * power for factor in (1.0, 2.0, 5.0) if factor * power >= rough * (1 - 1e-9)), 10 * power)


def _curve(line: Line, index: int, across: _Scale, upward: _Scale) -> str:
    places = [(across(x), upward(y)) for x, y in line.points]
    if len(places) == 1:
        (x, y), color = places[0], _color(line, index)
        return f'<circle cx="{x:.2f}" cy="{y:.2f}" r="3" fill="{color}"/>'
    return f'<path d="{_path(places, held=line.held)}" fill="none" {_pen(line, index)}/>'


def _path(places: Sequence[tuple[float, float]], *, held: bool) -> str:
    (x, y), *rest = _thinned(places)
    steps = [f"M{x:.2f} {y:.2f}"]
    for at, height in rest:
        if not held:
            steps.append(f"L{at:.2f} {height:.2f}")
        elif height != y:
            steps.append(f"H{at:.2f}V{height:.2f}")
            y = height
    if held:
        steps.append(f"H{rest[-1][0]:.2f}")
    return "".join(steps)


def _thinned(places: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most four points for each pixel column: the first, lowest, highest and last one."""
    if len(places) <= 2 * WIDTH:
        return list(places)
    thinned: list[tuple[float, float]] = []
    column: list[tuple[float, float]] = []
    for place in places:
        if column and int(place[0]) != int(column[0][0]):
            thinned += _outline(column)
            column = []
        column.append(place)
    return thinned + _outline(column)


def _outline(column: list[tuple[float, float]]) -> list[tuple[float, float]]:
    heights = [y for _, y in column]
    ends = {0, heights.index(min(heights)), heights.index(max(heights)), len(column) - 1}
    return [column[index] for index in sorted(ends)]


def _grid(across: _Scale, upward: _Scale, top: float, bottom: float) -> Iterable[str]:
    yield '<g stroke="#e3e6ea" stroke-width="1">'
    for tick in upward.ticks:
        yield f'<path d="M{_LEFT:g} {upward(tick):.2f}H{WIDTH - _RIGHT:g}"/>'
    yield "</g>"
    yield f'<path d="M{_LEFT:g} {top:g}V{bottom:g}H{WIDTH - _RIGHT:g}" fill="none" stroke="#8a929b"/>'
    yield '<g fill="#57606a" text-anchor="end">'
    for tick in upward.ticks:
        yield f'<text x="{_LEFT - 8:g}" y="{upward(tick) + 4:.2f}">{_number(tick)}</text>'
    yield '</g><g fill="#57606a" text-anchor="middle">'
    for tick in across.ticks:
        yield f'<text x="{across(tick):.2f}" y="{bottom + 18:g}">{_number(tick)}</text>'
    yield '</g><g stroke="#8a929b">'
    for tick in across.ticks:
        yield f'<path d="M{across(tick):.2f} {bottom:g}v4"/>'
    yield "</g>"


def _names(x_name: str, y_name: str, top: float, height: float) -> Iterable[str]:
    middle = (_LEFT + WIDTH - _RIGHT) / 2
    upright = (top + height - _BOTTOM) / 2
    yield f'<text x="{middle:g}" y="{height - 14:g}" text-anchor="middle" fill="#1b1f24">{_text(x_name)}</text>'
    yield (
        f'<text transform="translate(20 {upright:g}) rotate(-90)" text-anchor="middle" '
        f'fill="#1b1f24">{_text(y_name)}</text>'
    )


def _legend_rows(names: Sequence[str]) -> list[list[int]]:
    rows: list[list[int]] = [[]]
    used = 0.0
    for index, name in enumerate(names):
        if rows[-1] and used + _entry_width(name) > WIDTH - _LEFT - _RIGHT:
            rows.append([])
            used = 0.0
        rows[-1].append(index)
        used += _entry_width(name)
    return rows


def _drawn_legend(rows: Sequence[Sequence[int]], lines: Sequence[Line]) -> Iterable[str]:
    for number, row in enumerate(rows):
        x, y = _LEFT, 54 + _LINE * number
        for index in row:
            line = lines[index]
            yield f'<path d="M{x:g} {y - 4:g}h26" fill="none" {_pen(line, index)}/>'
            yield f'<text x="{x + 32:g}" y="{y:g}" fill="#1b1f24">{_text(_short(line.name))}</text>'
            x += _entry_width(line.name)


def _entry_width(name: str) -> float:
    return 56 + _CHARACTER * len(_short(name))


def _pen(line: Line, index: int) -> str:
    dash = "" if line.strong else _DASHES[index % len(_DASHES)]
    dashes = f' stroke-dasharray="{dash}"' if dash else ""
    return f'stroke="{_color(line, index)}" stroke-width="{2.5 if line.strong else 2}" stroke-linejoin="round"{dashes}'


def _color(line: Line, index: int) -> str:
    return "#1b1f24" if line.strong else _COLORS[index % len(_COLORS)]


def _short(name: str) -> str:
    return name if len(name) <= _MAX_NAME else f"{name[: _MAX_NAME - 1]}…"


def _number(value: float) -> str:
    """The value in short form: 0.05, 2500, 1e-6."""
    text = f"{value:.6g}"
    mantissa, e, exponent = text.partition("e")
    return f"{mantissa}e{int(exponent)}" if e else text


def _text(text: str) -> str:
    """The escaped text without unprintable characters."""
    return escape("".join(c for c in text if c.isprintable()))
