"""Whether a database with many runs and long histories costs more than an empty one."""

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks import preload
from benchmarks.servers import Server, database, service
from benchmarks.table import Line, at_most, interleaved, ratio
from benchmarks.throughput import lone_s, per_second

LIST_LIMIT_MS = 50.0
REPETITIONS = 200


def measure(
    folder: Path, server: str, kind: str, *, seconds: float, rounds: int, copies: int, long: int
) -> Iterator[Line]:
    """kind: `SQLite` or `PostgreSQL`. copies: runs of 50 events each. long: reports of the longest run."""
    with ExitStack() as stack:

        def make(name: str) -> str:
            if kind == "SQLite":
                return f"sqlite:///{folder}/{name}.db"
            return stack.enter_context(database(server, name))

        full_url, empty_url = make("full"), make("empty")
        empty_start_s = _timed(lambda: None, empty_url, folder)
        with service(full_url, folder) as made:
            preload.make_templates(made, long)
        if kind == "SQLite":
            preload.fill_sqlite(folder / "full.db", copies, long)
        else:
            preload.fill_postgres(full_url, copies, long)
        full_start_s = _timed(lambda: None, full_url, folder)
        size = f"{copies:,} runs and {copies * 50 + long:,} events"
        yield at_most(
            f"start, {kind}, full : empty",
            f"{full_start_s:.2f} s beside {empty_start_s:.2f} s, {size}",
            full_start_s / empty_start_s,
            1.5,
        )
        full = stack.enter_context(service(full_url, folder))
        empty = stack.enter_context(service(empty_url, folder))
        yield from _compared(kind, full, empty, seconds=seconds, rounds=rounds)
        yield _long_run(kind, full, long, seconds=seconds, rounds=rounds)
        yield _again(kind, full, empty, long)
        yield from _lists(kind, full, copies)


def _compared(kind: str, full: Server, empty: Server, *, seconds: float, rounds: int) -> Iterator[Line]:
    found = interleaved({"empty": per_second(empty, seconds), "full": per_second(full, seconds)}, rounds)
    yield at_most(
        f"reports/s, {kind}, empty : full",
        f"{statistics.median(found['empty']):,.0f}/s beside {statistics.median(found['full']):,.0f}/s",
        ratio(found["empty"], found["full"]),
        1.2,
    )
    found = interleaved({"empty": lone_s(empty, seconds / 2), "full": lone_s(full, seconds / 2)}, rounds)
    yield at_most(f"p50, {kind}, full : empty", _ms(found, "full", "empty"), ratio(found["full"], found["empty"]), 1.2)


def _long_run(kind: str, full: Server, long: int, *, seconds: float, rounds: int) -> Line:
    epoch = long

    def late() -> float:
        nonlocal epoch
        measured = full.load("long", connections=1, seconds=seconds / 2, epoch=epoch)
        epoch = full.ask("GET", "/v1/runs/long")["epoch"]
        return measured.p50_s

    found = interleaved({"early": lone_s(full, seconds / 2), "late": late}, rounds)
    name = f"report {long + 1:,} : report 10 of a run, {kind}"
    return at_most(name, _ms(found, "late", "early"), ratio(found["late"], found["early"]), 1.2)


def _again(kind: str, full: Server, empty: Server, long: int) -> Line:
    """A report that is sent again, of the middle of the longest run: only that one asks the log."""
    empty.create_runs("again", 1)
    empty.ask("POST", "/v1/runs/again/reports", {"epoch": 0, "metrics": {"val_loss": 1.0}})
    found = interleaved(
        {"full": _repeated_s(full, "long", long // 2), "empty": _repeated_s(empty, "again", 0)}, REPETITIONS
    )
    name = f"a report sent again, {kind}, full : empty"
    return at_most(name, _ms(found, "full", "empty"), ratio(found["full"], found["empty"]), 1.2)


def _repeated_s(server: Server, run: str, epoch: int) -> Callable[[], float]:
    """A measure: the seconds in which the report of that epoch, which is stored, is answered."""
    events = server.ask("GET", f"/v1/runs/{run}/events?kind=report&limit=1&after={epoch + 2}")["events"]
    body = {"epoch": epoch, "metrics": events[0]["payload"]["metrics"]}

    def once() -> float:
        began = time.perf_counter()
        answer = server.ask("POST", f"/v1/runs/{run}/reports", body)
        took = time.perf_counter() - began
        if not answer["replayed"]:
            raise RuntimeError(f"the report of epoch {epoch} of {run} was not sent again: {answer}")
        return took

    return once


def _lists(kind: str, full: Server, copies: int) -> Iterator[Line]:
    pages = {
        "first page of the runs": "/v1/runs?limit=100",
        "last page of the runs": f"/v1/runs?limit=100&after=copy-{1_000_000 + copies - 100}",
        "first page by status": "/v1/runs?limit=100&status=completed",
        "last events of the long run": "/v1/runs/long/events?limit=100&after=50",
        "history of the long run": "/v1/runs/long/history?limit=100&after=50",
    }
    for name, path in pages.items():
        seconds = statistics.median(_seconds(full.ask, path) for _ in range(7))
        yield at_most(f"{name}, {kind} : 50 ms", f"{seconds * 1e3:.1f} ms", seconds * 1e3 / LIST_LIMIT_MS, 1.0)


def _timed(then: Callable[[], None], url: str, folder: Path) -> float:
    """The seconds in which a service on `url` begins to answer; the second of two starts, when all is migrated."""
    took = 0.0
    for _ in range(2):
        began = time.perf_counter()
        with service(url, folder):
            took = time.perf_counter() - began
            then()
    return took


def _seconds(ask: Callable[[str, str], Any], path: str) -> float:
    began = time.perf_counter()
    ask("GET", path)
    return time.perf_counter() - began


def _ms(found: dict[str, list[float]], one: str, other: str) -> str:
    return f"{statistics.median(found[one]) * 1e3:.2f} ms beside {statistics.median(found[other]) * 1e3:.2f} ms"
