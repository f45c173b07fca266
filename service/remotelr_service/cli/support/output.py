"""Output of the command line: JSON, numbers, ages, sparklines and tables.

rich is imported with the first drawing, not with this module: `remotelr --help` and `remotelr serve` start sooner.
"""

import json
import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table
    from rich.text import Text

_BLOCKS = "▁▂▃▄▅▆▇█"
_PLAIN_BLOCKS = "_.-=+*#@"

# Wide enough that no line of a file or pipe is cut.
_PIPE_WIDTH = 1000

_STATUS_STYLES = {"running": "green", "completed": "blue", "failed": "red", "stopped": "yellow", "stalled": "red"}
_STATE_STYLES = {"applied": "green", "rejected": "red", "queued": "yellow", "delivered": "cyan"}


def console(*, errors: bool = False) -> "Console":
    """The console of stdout or stderr. Without a terminal, and with `NO_COLOR`, there are no colours."""
    from rich.console import Console

    file = sys.stderr if errors else sys.stdout
    width = None if file.isatty() else _PIPE_WIDTH
    return Console(file=file, width=width, highlight=False, markup=False, emoji=False, soft_wrap=not file.isatty())


def show(document: Any, as_json: bool, draw: "Callable[[], RenderableType]") -> None:
    """Print the document as JSON, or else what `draw` returns."""
    if as_json:
        print_json(document)
    else:
        print_drawn(draw())


def show_list(name: str, rows: Sequence[Any], as_json: bool, draw: "Callable[[], RenderableType]") -> None:
    """Print the rows as the member `name` of a JSON document, or else what `draw` returns, or that there are none."""
    show({name: rows}, as_json, draw)
    if not rows and not as_json:
        say(f"no {name}")


def print_drawn(drawn: "RenderableType") -> None:
    """Print a drawing; into a pipe, without the trailing blanks of table lines."""
    terminal = console()
    if terminal.is_terminal:
        terminal.print(drawn)
        return
    with terminal.capture() as captured:
        terminal.print(drawn)
    sys.stdout.write("".join(f"{line.rstrip()}\n" for line in captured.get().splitlines()))
    sys.stdout.flush()


def print_json(document: Any) -> None:
    sys.stdout.write(json.dumps(document, indent=2) + "\n")


def print_line(document: Any) -> None:
    """Print the document on one line and flush, for programs that read along."""
    sys.stdout.write(json.dumps(document) + "\n")
    sys.stdout.flush()


def say(line: str) -> None:
    """Print a remark to stderr, so that stdout holds the result only."""
    console(errors=True).print(safe(line))


def safe(value: object) -> str:
    """The value as text with control characters escaped, so that it cannot control the terminal."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in str(value))


def rate(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


def measured(value: float | str | None) -> str:
    """A metric; values that are not finite arrive as their name."""
    return "" if value is None else value if isinstance(value, str) else f"{value:.5g}"


def ago(time: str, now: datetime | None = None) -> str:
    """The age of an ISO 8601 time."""
    seconds = ((now or datetime.now(UTC)) - datetime.fromisoformat(time)).total_seconds()
    if seconds < 1.5:
        return "now"
    for limit, length, unit in ((90, 1, "s"), (5400, 60, "min"), (129_600, 3600, "h")):
        if seconds < limit:
            return f"{seconds / length:.0f} {unit} ago"
    return f"{seconds / 86_400:.0f} days ago"


def clock(time: str) -> str:
    """An ISO 8601 time in the local time zone; with the date, unless it is today's."""
    moment = datetime.fromisoformat(time).astimezone()
    today = datetime.now(UTC).astimezone().date()
    return moment.strftime("%H:%M:%S" if moment.date() == today else "%Y-%m-%d %H:%M")


def status(name: str) -> "Text":
    from rich.text import Text

    return Text(name, _STATUS_STYLES.get(name, ""))


def state(name: str) -> "Text":
    from rich.text import Text

    return Text(name, _STATE_STYLES.get(name, "dim"))


def tags(named: Mapping[str, str]) -> str:
    return safe(" ".join(f"{name}:{value}" for name, value in sorted(named.items())))


def spark(values: Sequence[float], width: int = 20, *, logarithmic: bool = False) -> str:
    """The newest `width` values as a line of bars; a value that is not finite is an x.

    logarithmic: the bars show the logarithm, so that a fall from 1 to 0.1 equals one from 0.1 to 0.01.
    """
    shown = values[-width:]
    heights = [_height(value, logarithmic) for value in shown]
    known = [height for height in heights if height is not None and math.isfinite(height)]
    low, high = min(known, default=0.0), max(known, default=0.0)
    blocks = _BLOCKS if shows(_BLOCKS) else _PLAIN_BLOCKS
    return "".join("x" if height is None else blocks[_level(height, low, high, len(blocks))] for height in heights)


def thinned(values: Sequence[float], width: int) -> list[float]:
    """At most `width` of the values, evenly spaced, with the first and the last."""
    if len(values) <= width:
        return list(values)
    return [values[round(place / (width - 1) * (len(values) - 1))] for place in range(width)]


def _height(value: float, logarithmic: bool) -> float | None:
    if not math.isfinite(value):
        return None
    if not logarithmic:
        return value
    return math.log(value) if value > 0 else -math.inf


def _level(height: float, low: float, high: float, levels: int) -> int:
    """The level of a bar. Constant values are at the bottom."""
    return 0 if high == low or height == -math.inf else min(int((height - low) / (high - low) * levels), levels - 1)


def shows(characters: str) -> bool:
    """Whether the encoding of stdout has these characters."""
    # A live display of rich replaces sys.stdout by a proxy without an encoding; the console still has the real file.
    encoding = getattr(console().file, "encoding", None) or "ascii"
    try:
        characters.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True


def table(*columns: str, right: Iterable[str] = ()) -> "Table":
    """An empty table with these columns; those in `right` are aligned right."""
    from rich.table import Table

    numbers = set(right)
    made = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for column in columns:
        made.add_column(
            column, justify="right" if column in numbers else "left", no_wrap=column != "tags", overflow="ellipsis"
        )
    return made


def facts(pairs: "Mapping[str, RenderableType | None]") -> "Table":
    """A table of names and values, without the empty ones."""
    from rich.table import Table

    made = Table.grid(padding=(0, 2, 0, 0))
    made.add_column(style="dim", no_wrap=True)
    made.add_column(overflow="fold")
    for name, value in pairs.items():
        if value is not None and value != "":
            made.add_row(name, value)
    return made
