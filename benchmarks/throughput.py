"""How many reports a second one process takes, and how long a lone trainer waits."""

import itertools
import statistics
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

from benchmarks.load import WARM_UP
from benchmarks.servers import Server, database, echo, service
from benchmarks.table import Line, at_least, at_most, interleaved, ratio
from benchmarks.yardsticks import pgbench_tps, postgres_commit_s, sqlite_commit_s

CONNECTIONS = 64
_NUMBERS = itertools.count()


def measure(folder: Path, server: str, binaries: Path, *, seconds: float, rounds: int) -> Iterator[Line]:
    """server: the URL of a PostgreSQL."""
    with ExitStack() as stack:
        beside = stack.enter_context(echo(folder))
        services = {
            "SQLite": stack.enter_context(service(f"sqlite:///{folder}/bench.db", folder)),
            "PostgreSQL": stack.enter_context(service(stack.enter_context(database(server, "bench")), folder)),
        }
        bench_url = stack.enter_context(database(server, "pgbench"))
        commits = {"SQLite": sqlite_commit_s(folder), "PostgreSQL": postgres_commit_s(bench_url)}
        many = {name: per_second(each, seconds) for name, each in services.items()}
        found = interleaved({"echo": per_second(beside, seconds), **many}, rounds)
        for name in services:
            yield at_least(
                f"reports/s, {CONNECTIONS} connections, {name} : echo",
                f"{_median(found[name]):,.0f}/s beside {_median(found['echo']):,.0f}/s",
                ratio(found[name], found["echo"]),
                0.5,
            )
        yield from _processor_time(services, beside, seconds=seconds, rounds=rounds)
        yield from _lone(services, beside, commits, seconds=seconds, rounds=rounds)
        # Last: its checkpoints and vacuum take the disk and a core from the next measurement.
        measures = {"service": many["PostgreSQL"], "pgbench": pgbench_tps(bench_url, seconds, binaries)}
        found = interleaved(measures, rounds)
        yield at_least(
            "reports/s, PostgreSQL : pgbench -N, 32 clients",
            f"{_median(found['service']):,.0f}/s beside {_median(found['pgbench']):,.0f} TPS",
            ratio(found["service"], found["pgbench"]),
            2.0,
        )


def per_second(server: Server, seconds: float) -> Callable[[], float]:
    """A measure: reports per second over 64 connections, on runs made for it."""

    def one() -> float:
        run = fresh(server, CONNECTIONS)
        return server.load(run, connections=CONNECTIONS, seconds=seconds).per_second

    return one


def lone_s(server: Server, seconds: float) -> Callable[[], float]:
    """A measure: the median seconds a trainer alone waits for its answer."""
    return lambda: server.load(fresh(server, 1), connections=1, seconds=seconds).p50_s


def cpu_s(server: Server, seconds: float) -> Callable[[], float]:
    """A measure: the seconds of its own processor's time that a report costs the server, over 64 connections."""

    def one() -> float:
        run = fresh(server, CONNECTIONS)
        before = server.cpu_s
        measured = server.load(run, connections=CONNECTIONS, seconds=seconds)
        # The answers during the warm-up took time too.
        return (server.cpu_s - before) / (measured.answers * (1 + WARM_UP))

    return one


def fresh(server: Server, count: int) -> str:
    """The name of `count` new runs, with `{}` as their number. (An echo needs none.)"""
    name = f"bench{next(_NUMBERS)}-{{}}"
    if not server.is_echo:
        server.create_runs(name, count)
    return name


def _processor_time(services: dict[str, Server], beside: Server, *, seconds: float, rounds: int) -> Iterator[Line]:
    """The result that a busy machine disturbs least."""
    measures = {name: cpu_s(each, seconds) for name, each in {"echo": beside, **services}.items()}
    found = interleaved(measures, rounds)
    for name in services:
        figures = f"{_median(found[name]) * 1e6:.0f} µs beside {_median(found['echo']) * 1e6:.0f} µs"
        yield Line(f"CPU of a report, {name} : CPU of an echo", figures, ratio(found[name], found["echo"]))


def _lone(
    services: dict[str, Server],
    beside: Server,
    commits: dict[str, Callable[[], float]],
    *,
    seconds: float,
    rounds: int,
) -> Iterator[Line]:
    for name, each in services.items():
        measures = {"echo": lone_s(beside, seconds / 2), "commit": commits[name], "service": lone_s(each, seconds / 2)}
        found = interleaved(measures, rounds)
        floor = [a + b for a, b in zip(found["echo"], found["commit"], strict=True)]
        yield at_most(
            f"p50 of a lone trainer, {name} : echo + bare commit",
            f"{_median(found['service']) * 1e3:.2f} ms beside {_median(floor) * 1e3:.2f} ms",
            ratio(found["service"], floor),
            1.5,
        )


def _median(values: list[float]) -> float:
    return statistics.median(values)
