"""The table of ratios, printed line by line as they are measured."""

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from typing_extensions import override


@dataclass(frozen=True, slots=True)
class Line:
    """One ratio. target: the required value, as text; met: whether it is reached, None without a target."""

    name: str
    figures: str
    ratio: float
    target: str = ""
    met: bool | None = None

    @override
    def __str__(self) -> str:
        mark = {True: "yes", False: "NO", None: ""}[self.met]
        return f"{self.name:<58} {self.ratio:>8.2f}  {self.target:<10} {mark:<4} {self.figures}"


def at_least(name: str, figures: str, ratio: float, least: float) -> Line:
    return Line(name, figures, ratio, f">= {least:g}", ratio >= least)


def at_most(name: str, figures: str, ratio: float, most: float) -> Line:
    return Line(name, figures, ratio, f"<= {most:g}", ratio <= most)


def interleaved(measures: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Each measure once per round, A B C A B C: what disturbs one round disturbs all of it."""
    found: dict[str, list[float]] = {name: [] for name in measures}
    for _ in range(rounds):
        for name, measure in measures.items():
            found[name].append(measure())
    return found


def ratio(one: list[float], other: list[float]) -> float:
    """The median of the ratios of the rounds."""
    return statistics.median(a / b for a, b in zip(one, other, strict=True))


def load_average() -> str:
    return " ".join(Path("/proc/loadavg").read_text().split()[:3])
