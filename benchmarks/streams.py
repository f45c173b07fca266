"""What 500 open streams cost those who report: reports/s with them, beside reports/s without."""

import contextlib
import itertools
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

from benchmarks.servers import REPOSITORY, Server, database, service
from benchmarks.table import Line, at_least, interleaved, ratio

CONNECTIONS = 64
STREAMS = 500
_NUMBERS = itertools.count()


def measure(folder: Path, server: str, *, seconds: float, rounds: int) -> Iterator[Line]:
    """server: the URL of a PostgreSQL."""
    with ExitStack() as stack:
        services = {
            "SQLite": stack.enter_context(service(f"sqlite:///{folder}/streams.db", folder)),
            "PostgreSQL": stack.enter_context(service(stack.enter_context(database(server, "streams")), folder)),
        }
        for name, each in services.items():
            told: list[int] = []
            found = interleaved(
                {
                    "alone": _per_second(each, seconds, told, streams=0, of_all=0),
                    "quiet": _per_second(each, seconds, told, streams=STREAMS, of_all=0, is_quiet=True),
                    "followed": _per_second(each, seconds, told, streams=STREAMS, of_all=5),
                },
                rounds,
            )
            alone = statistics.median(found["alone"])
            yield at_least(
                f"reports/s with {STREAMS} streams of other runs open : without, {name}",
                f"{statistics.median(found['quiet']):,.0f}/s beside {alone:,.0f}/s",
                ratio(found["quiet"], found["alone"]),
                0.9,
            )
            yield at_least(
                f"reports/s with {STREAMS} streams told of all of them : without, {name}",
                f"{statistics.median(found['followed']):,.0f}/s beside {alone:,.0f}/s, {max(told):,} events sent",
                ratio(found["followed"], found["alone"]),
                0.5,
            )


def _per_second(
    server: Server, seconds: float, told: list[int], *, streams: int, of_all: int, is_quiet: bool = False
) -> Callable[[], float]:
    """A measure. is_quiet: the streams are of runs that do not report."""

    def one() -> float:
        run, quiet = (f"s{next(_NUMBERS)}-{{}}" for _ in range(2))
        server.create_runs(run, CONNECTIONS)
        if is_quiet:
            server.create_runs(quiet, CONNECTIONS)
        with _listening(server.port, quiet if is_quiet else run, streams, of_all, told):
            return server.load(run, connections=CONNECTIONS, seconds=seconds).per_second

    return one


@contextlib.contextmanager
def _listening(port: int, run: str, count: int, of_all: int, told: list[int]) -> Iterator[None]:
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
        told.append(int(listeners.communicate()[0]))
