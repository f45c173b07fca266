"""The cost of 500 open streams: CPU time of the service for a report, with and without them.

Not reports/s: the subscribers run on the same machine and take a core from the trainers.
"""

import contextlib
import itertools
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

from benchmarks.servers import REPOSITORY, Server, database, service
from benchmarks.table import Line, at_most, interleaved, ratio

CONNECTIONS = 64
STREAMS = 500
_NUMBERS = itertools.count()


def measure(folder: Path, server: str, *, seconds: float, rounds: int) -> Iterator[Line]:
    """server: the URL of a PostgreSQL."""
    # All streams come from one address, which may have a quarter.
    limit = {"REMOTELR_MAX_STREAMS": str(4 * STREAMS)}
    with ExitStack() as stack:
        postgres = stack.enter_context(database(server, "streams"))
        services = {
            "SQLite": stack.enter_context(service(f"sqlite:///{folder}/streams.db", folder, **limit)),
            "PostgreSQL": stack.enter_context(service(postgres, folder, **limit)),
        }
        for name, each in services.items():
            counts: list[int] = []
            found = interleaved(
                {
                    "alone": _cpu_us(each, seconds, counts, streams=0, of_all=0),
                    "quiet": _cpu_us(each, seconds, counts, streams=STREAMS, of_all=0, is_quiet=True),
                    "followed": _cpu_us(each, seconds, counts, streams=STREAMS, of_all=5),
                },
                rounds,
            )
            alone = statistics.median(found["alone"])
            yield at_most(
                f"CPU of a report, {STREAMS} streams of other runs : none, {name}",
                f"{statistics.median(found['quiet']):.0f} us beside {alone:.0f} us",
                ratio(found["quiet"], found["alone"]),
                1.1,
            )
            yield Line(
                f"CPU of a report, {STREAMS} streams of all events : none, {name}",
                f"{statistics.median(found['followed']):.0f} us beside {alone:.0f} us, {max(counts):,} events sent",
                ratio(found["followed"], found["alone"]),
            )


def _cpu_us(
    server: Server, seconds: float, counts: list[int], *, streams: int, of_all: int, is_quiet: bool = False
) -> Callable[[], float]:
    """A measure. is_quiet: the streams are of runs that do not report."""

    def one() -> float:
        run, quiet = (f"s{next(_NUMBERS)}-{{}}" for _ in range(2))
        server.create_runs(run, CONNECTIONS)
        if is_quiet:
            server.create_runs(quiet, CONNECTIONS)
        with _listening(server.port, quiet if is_quiet else run, streams, of_all, counts):
            # To open them costs something too, and is over then.
            time.sleep(2.0)
            before = _cpu_s(server.pid)
            server.load(run, connections=CONNECTIONS, seconds=seconds)
            took_s = _cpu_s(server.pid) - before
        reports = sum(server.ask("GET", f"/v1/runs/{run.format(number)}")["epoch"] for number in range(CONNECTIONS))
        return took_s / reports * 1e6

    return one


def _cpu_s(pid: int) -> float:
    """The seconds of CPU a process has taken, all its threads together."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def _listening(port: int, run: str, count: int, of_all: int, counts: list[int]) -> Iterator[None]:
    if not count:
        yield
        return
    words = {"port": port, "count": count, "run": run, "runs": CONNECTIONS, "all": of_all}
    command = [sys.executable, "-m", "benchmarks.listeners"]
    for name, value in words.items():
        command += [f"--{name}", str(value)]
    with subprocess.Popen(
        command, cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as listeners:
        assert listeners.stdin is not None and listeners.stdout is not None
        if listeners.stdout.readline() != "ready\n":
            raise RuntimeError("the streams could not be opened")
        yield
        counts.append(int(listeners.communicate()[0]))
