"""How things look in a terminal: numbers, ages, sparklines, tables. Nothing here asks a service.

rich is imported when something is drawn: `remotelr --help` and `remotelr serve` begin sooner for it.
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

# Where output goes to a file or a pipe, a line is as long as what it says.
_PIPE_WIDTH = 1000

_STATUS_STYLES = {"running": "green", "completed": "blue", "failed": "red", "stopped": "yellow", "stalled": "red"}
_LIFE_STYLES = {"applied": "green", "rejected": "red", "queued": "yellow", "delivered": "cyan"}


def console(*, errors: bool = False) -> "Console":
    """The terminal. Without one there are no colours, and no line is cut; `NO_COLOR` is heeded."""
    from rich.console import Console

    file = sys.stderr if errors else sys.stdout
    width = None if file.isatty() else _PIPE_WIDTH
    return Console(file=file, width=width, highlight=False, markup=False, emoji=False, soft_wrap=not file.isatty())


def show(document: Any, as_json: bool, draw: "Callable[[], RenderableType]") -> None:
    """Print the document: as JSON for programs, or as `draw` makes it for people."""
    if as_json:
        print_json(document)
    else:
        print_drawn(draw())


def print_drawn(drawn: "RenderableType") -> None:
    """Print it; into a pipe without the blanks that fill a table's lines."""
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
    """The document on a line of its own, at once: for who reads while we write."""
    sys.stdout.write(json.dumps(document) + "\n")
    sys.stdout.flush()


def say(line: str) -> None:
    """A remark beside the result: on stderr, so that the result can be piped on."""
    console(errors=True).print(safe(line))


def safe(value: object) -> str:
    """The value as text that can only be read: whatever could steer a terminal is shown as its code."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in str(value))


def rate(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


def measured(value: float | str | None) -> str:
    """A metric, which may be the name of what is no number."""
    return "" if value is None else value if isinstance(value, str) else f"{value:.5g}"


def ago(time: str, now: datetime | None = None) -> str:
    """How long ago an ISO 8601 time was."""
    seconds = ((now or datetime.now(UTC)) - datetime.fromisoformat(time)).total_seconds()
    if seconds < 1.5:
        return "now"
    for limit, length, unit in ((90, 1, "s"), (5400, 60, "min"), (129_600, 3600, "h")):
        if seconds < limit:
            return f"{seconds / length:.0f} {unit} ago"
    return f"{seconds / 86_400:.0f} days ago"


def clock(time: str) -> str:
    """An ISO 8601 time as a clock on this wall says it."""
    moment = datetime.fromisoformat(time).astimezone()
    today = datetime.now(UTC).astimezone().date()
    return moment.strftime("%H:%M:%S" if moment.date() == today else "%Y-%m-%d %H:%M")


def status(name: str) -> "Text":
    from rich.text import Text

    return Text(name, _STATUS_STYLES.get(name, ""))


def life(name: str) -> "Text":
    from rich.text import Text

    return Text(name, _LIFE_STYLES.get(name, "dim"))


def tags(named: Mapping[str, str]) -> str:
    return safe(" ".join(f"{name}:{value}" for name, value in sorted(named.items())))


def spark(values: Sequence[float], width: int = 20, *, logarithmic: bool = False) -> str:
    """The newest values as a line of bars. What is no finite number is an x.

    logarithmic: a fall from 1 to 0.1 is as high as one from 0.1 to 0.01, as rates are read.
    """
    shown = values[-width:]
    heights = [_height(value, logarithmic) for value in shown]
    known = [height for height in heights if height is not None and math.isfinite(height)]
    low, high = min(known, default=0.0), max(known, default=0.0)
    blocks = _BLOCKS if shows(_BLOCKS) else _PLAIN_BLOCKS
    return "".join("x" if height is None else blocks[_level(height, low, high, len(blocks))] for height in heights)


def thinned(values: Sequence[float], width: int) -> list[float]:
    """At most so many of the values, from the first to the last, evenly."""
    if len(values) <= width:
        return list(values)
    return [values[round(place / (width - 1) * (len(values) - 1))] for place in range(width)]


def _height(value: float, logarithmic: bool) -> float | None:
    if not math.isfinite(value):
        return None
    if not logarithmic:
        return value
    # A rate of 0 is as low as it goes.
    return math.log(value) if value > 0 else -math.inf


def _level(height: float, low: float, high: float, levels: int) -> int:
    """A line that does not change runs along the bottom."""
    return 0 if high == low or height == -math.inf else min(int((height - low) / (high - low) * levels), levels - 1)


def shows(characters: str) -> bool:
    """Whether the terminal's encoding has these."""
    try:
        characters.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return False
    return True


def table(*columns: str, right: Iterable[str] = ()) -> "Table":
    """An empty table with these columns; those in `right` hold numbers."""
    from rich.table import Table

    numbers = set(right)
    made = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for column in columns:
        made.add_column(
            column, justify="right" if column in numbers else "left", no_wrap=column != "tags", overflow="ellipsis"
        )
    return made


def facts(pairs: "Mapping[str, RenderableType | None]") -> "Table":
    """Names and what is said of them, one to a line; those with nothing to say are left out."""
    from rich.table import Table

    made = Table.grid(padding=(0, 2, 0, 0))
    made.add_column(style="dim", no_wrap=True)
    made.add_column(overflow="fold")
    for name, said in pairs.items():
        if said is not None and said != "":
            made.add_row(name, said)
    return made
