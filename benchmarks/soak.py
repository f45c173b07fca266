"""Whether the memory of the service stays bounded under load."""

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import psutil

from benchmarks.servers import database, service
from benchmarks.table import Line, at_most
from benchmarks.throughput import CONNECTIONS, fresh

LAP_S = 5.0


def measure(folder: Path, server: str, *, seconds: float) -> Iterator[Line]:
    """The resident memory at the end of so many seconds of load on new runs all the time, by that after a fifth."""
    for kind in ("SQLite", "PostgreSQL"):
        with ExitStack() as stack:
            sqlite_url = f"sqlite:///{folder}/soak.db"
            url = sqlite_url if kind == "SQLite" else stack.enter_context(database(server, "soak"))
            target = stack.enter_context(service(url, folder))
            process, began, sizes = psutil.Process(target.pid), time.monotonic(), list[float]()
            while time.monotonic() - began < seconds:
                target.load(fresh(target, CONNECTIONS), connections=CONNECTIONS, seconds=min(LAP_S, seconds / 10))
                sizes.append(process.memory_info().rss / 2**20)
            early = sizes[len(sizes) // 5]
            figures = f"{early:.0f} MiB, then {sizes[-1]:.0f} MiB after {seconds:.0f} s"
            yield at_most(f"resident memory, {kind}, end : after a fifth", figures, sizes[-1] / early, 1.2)
