"""Print the table of ratios.

python -m benchmarks                                  all but competitors, some 15 minutes
python -m benchmarks --quick                          the same with little load and few runs, some 3 minutes
python -m benchmarks --only throughput growth         some parts of it
python -m benchmarks --competitors rivals/bin/python  Optuna and MLflow too; see competitors.txt
"""

import argparse
import datetime as dt
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks import bulk, competitors, expensive, growth, soak, streams, throughput, training
from benchmarks.servers import binaries_of_postgres, postgres
from benchmarks.table import Line, load_average


@dataclass(frozen=True, slots=True)
class Size:
    """How much is measured: seconds of one load, rounds of each comparison, what the big database holds, and how many
    runs one command is for."""

    seconds: float
    rounds: int
    copies: int
    long: int
    soak_s: float
    ordered: int


QUICK = Size(seconds=2, rounds=3, copies=2_000, long=10_000, soak_s=20, ordered=2_000)
FULL = Size(seconds=5, rounds=5, copies=100_000, long=100_000, soak_s=60, ordered=10_000)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", nargs="+", default=[], metavar="PART")
    parser.add_argument("--competitors", type=Path, metavar="PYTHON")
    parser.add_argument("--soak", type=float, metavar="SECONDS", help="how long each soak lasts; 600 for a real one")
    given = parser.parse_args()
    size = QUICK if given.quick else FULL
    with tempfile.TemporaryDirectory(prefix="remotelr-bench-") as name, postgres() as server:
        folder = Path(name)
        parts = _parts(folder, server, size, given.soak or size.soak_s, given.competitors)
        unknown = set(given.only) - parts.keys()
        if unknown:
            parser.error(f"no part is named {', '.join(sorted(unknown))}: there are {', '.join(parts)}")
        return _print({part: lines for part, lines in parts.items() if not given.only or part in given.only})


def _parts(
    folder: Path, server: str, size: Size, soak_s: float, rivals: Path | None
) -> dict[str, Callable[[], Iterator[Line]]]:
    seconds, rounds = size.seconds, size.rounds

    def grown(kind: str) -> Iterator[Line]:
        return growth.measure(folder, server, kind, seconds=seconds, rounds=rounds, copies=size.copies, long=size.long)

    def ordered(kind: str) -> Iterator[Line]:
        return bulk.measure(folder, server, kind, runs=size.ordered, seconds=seconds, rounds=rounds)

    def beside() -> Iterator[Line]:
        if rivals is None:
            print("competitors: left out; give --competitors PYTHON of an environment with competitors.txt")
            return iter(())
        # Not resolved: a virtual environment's Python is a link.
        return competitors.measure(folder, server, rivals.absolute(), seconds=seconds, rounds=rounds)

    return {
        "throughput": lambda: throughput.measure(
            folder, server, binaries_of_postgres(), seconds=seconds, rounds=rounds
        ),
        "growth-sqlite": lambda: grown("SQLite"),
        "growth-postgresql": lambda: grown("PostgreSQL"),
        "bulk-sqlite": lambda: ordered("SQLite"),
        "bulk-postgresql": lambda: ordered("PostgreSQL"),
        "training": lambda: training.measure(folder, rounds=rounds),
        "streams": lambda: streams.measure(folder, server, seconds=seconds, rounds=rounds),
        "expensive": lambda: expensive.measure(folder, server, seconds=seconds, rounds=rounds),
        "soak": lambda: soak.measure(folder, server, seconds=soak_s),
        "competitors": beside,
    }


def _print(parts: dict[str, Callable[[], Iterator[Line]]]) -> int:
    """The table; 1 when a target was missed."""
    now = dt.datetime.now(dt.UTC)
    print(f"{now:%Y-%m-%d %H:%M} UTC, {os.cpu_count()} cores, Python {platform.python_version()}, {platform.system()}")
    print(f"{'':<58} {'ratio':>8}  target")
    missed = False
    for part, measure in parts.items():
        began = time.monotonic()
        print(f"-- {part} (load average {load_average()})", flush=True)
        for line in measure():
            print(line, flush=True)
            missed |= line.met is False
        print(f"   {time.monotonic() - began:.0f} s (load average {load_average()})", flush=True)
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
