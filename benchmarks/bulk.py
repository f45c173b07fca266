"""How long one command to many runs takes, and its effect on a trainer meanwhile."""

import sqlite3
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import psycopg

from benchmarks import preload
from benchmarks.load import Measured
from benchmarks.servers import Server, database, service
from benchmarks.table import Line, at_most

# Tens of thousands of trainers do not report every few milliseconds each: so many connections are a busy service.
CONNECTIONS = 16
# A command never holds up a report for longer, on a machine that has nothing else to do.
P99_S = 0.25


def measure(folder: Path, server: str, kind: str, *, runs: int, seconds: float, rounds: int) -> Iterator[Line]:
    """kind: `SQLite` or `PostgreSQL`. runs: how many the command is for; others report meanwhile."""
    with ExitStack() as stack:
        url = f"sqlite:///{folder}/bulk.db" if kind == "SQLite" else stack.enter_context(database(server, "bulk"))
        with service(url, folder) as made:
            preload.make_templates(made, _LONG)
        if kind == "SQLite":
            preload.fill_sqlite(folder / "bulk.db", runs, _LONG)
            with closing(sqlite3.connect(folder / "bulk.db")) as connection, connection:
                connection.execute(_MARK_STALLED)
        else:
            preload.fill_postgres(url, runs, _LONG)
            with psycopg.connect(url) as connection:
                connection.execute(_MARK_STALLED)
        busy = stack.enter_context(service(url, folder))
        began = time.perf_counter()
        busy.ask("POST", "/v1/commands", {**_ORDER, "dry_run": True})
        rehearsed_s = time.perf_counter() - began
        quiet, meanwhile, took_s = [], [], []
        for number in range(rounds):
            quiet.append(_load(busy, f"quiet-{kind}-{number}-{{}}", seconds))
            under_way = threading.Event()
            took: list[float] = []
            order = threading.Thread(target=_order, args=(busy, runs, under_way, took))
            order.start()
            # So many times in a row that the command is under way for as long as the load lasts.
            meanwhile.append(_load(busy, f"busy-{kind}-{number}-{{}}", seconds))
            under_way.set()
            order.join()
            took_s += took
        yield Line(f"a command to {runs:,} runs, {kind}, s", f"rehearsed in {rehearsed_s:.2f} s", min(took_s))
        for name in ("p50_s", "p99_s"):
            before, after = ([getattr(each, name) for each in measured] for measured in (quiet, meanwhile))
            pairs = zip(after, before, strict=True)
            figures = f"{statistics.median(after) * 1e3:.1f} ms beside {statistics.median(before) * 1e3:.1f} ms"
            ratio = statistics.median(one / other for one, other in pairs)
            yield Line(f"{name[:3]} of a report meanwhile : quiet, {kind}", figures, ratio)
        worst = statistics.median(each.p99_s for each in meanwhile)
        yield at_most(f"p99 of a report meanwhile, {kind} : 250 ms", f"{worst * 1e3:.1f} ms", worst / P99_S, 1.0)


# Their trainers do not report. Detecting that is work that this benchmark must not measure.
_MARK_STALLED = "UPDATE runs SET stalled_at = created_at WHERE key LIKE 'copy-%'"
# Of no interest here; a run of a single report cannot be made longer.
_LONG = 2
_ORDER = {"selector": {"status": "running"}, "command": {"type": "scale", "factor": 0.999}}


def _load(busy: Server, run: str, seconds: float) -> Measured:
    busy.create_runs(run, CONNECTIONS)
    return busy.load(run, connections=CONNECTIONS, seconds=seconds)


def _order(busy: Server, runs: int, over: threading.Event, took: list[float]) -> None:
    """Order it again and again until `over`; each time, the seconds until every run had it."""
    while not over.is_set():
        began = time.perf_counter()
        answer = busy.ask("POST", "/v1/commands?wait=0&limit=1", _ORDER)
        while answer["status"] != "finished":
            time.sleep(0.1)
            answer = busy.ask("GET", f"/v1/commands/{answer['id']}?limit=1")
        took.append(time.perf_counter() - began)
        if answer["done"] < runs or answer["failed"]:
            raise RuntimeError(f"the command did not reach every run: {answer}")
