"""A report is on the disk before its answer is sent. A kill cannot show this: the page cache survives the process.

`failures.md` protocol a3: the order of system calls is the proof. SQLite under `strace`; PostgreSQL syncs by
itself, so there it is asked whether it does, and whether our sessions leave it so.
"""

import asyncio
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from sqlalchemy import Connection, event

from faults.databases import query
from faults.oracle import INITIAL, POLICY
from faults.service import Service
from remotelr.rules import Report, RunSpec, policy_from_json
from remotelr_service.features.runs.runs import put_run
from remotelr_service.features.training.reports import report
from remotelr_service.http.context import Context

SYNCED = re.compile(r"\bf(data)?sync\(\d+<[^>]*-wal>\) *= 0|\bf(data)?sync resumed>.*= 0")
# strace splits a call if another thread makes one meanwhile: the data then follows `resumed>`.
ASKED = re.compile(r"\b(read|recv|recvfrom|recvmsg)(\(| resumed>).*POST /v1/runs/")
ANSWERED = re.compile(r"\b(write|writev|send|sendto|sendmsg)\(.*HTTP/1\.1 200")


def test_every_report_is_answered_after_its_own_sync_of_the_log(
    sqlite_url: str, start_service: Callable[..., Service], tmp_path: Path, tell: Callable[[str], None]
):
    """
    With synchronous=NORMAL the trace has no sync: see `test_mutants.py`.
    """
    count = 200
    trace = traced_reports(sqlite_url, start_service, tmp_path, count)
    unsynced = answers_without_sync(trace)
    tell(f"{count} reports: {sum(kind == 'sync' for kind in trace)} syncs, {len(unsynced)} answers without one")

    assert (count, count) == (trace.count("asked"), trace.count("answered"))
    assert [] == unsynced


def test_postgresql_syncs_commits_and_our_sessions_leave_it_so(postgres_url: str):
    names = ("fsync", "synchronous_commit", "full_page_writes")

    seen = _shown_at_commits(postgres_url, [f"SHOW {name}" for name in names])

    assert {("on", "on", "on")} == set(seen)
    assert [("on",)] == query(postgres_url, "SHOW synchronous_commit")


def test_the_connection_that_writes_to_sqlite_waits_for_the_disk(sqlite_url: str):
    pragmas = ("synchronous", "journal_mode", "fullfsync")

    seen = _shown_at_commits(sqlite_url, [f"PRAGMA {name}" for name in pragmas])

    full = 2
    assert {(full, "wal")} == {each[:2] for each in seen}


def _shown_at_commits(url: str, statements: list[str]) -> list[tuple[object, ...]]:
    """The answers to the statements on the writer's connection, at each commit of a short training."""
    resources = Context.open(url)
    seen: list[tuple[object, ...]] = []

    def look(connection: Connection) -> None:
        seen.append(tuple(connection.exec_driver_sql(statement).scalar_one() for statement in statements))

    event.listen(resources.writer._engine, "commit", look)
    try:
        asyncio.run(_train_a_little(resources))
    finally:
        resources.close()
    return seen


async def _train_a_little(resources: Context) -> None:
    await put_run(resources.writer, "a", RunSpec(policy=policy_from_json(POLICY), initial_learning_rate=INITIAL))
    for epoch in range(3):
        await report(resources.writer, "a", Report(epoch=epoch, metrics={"val_loss": 1.0}))


def traced_reports(url: str, start_service: Callable[..., Service], folder: Path, count: int) -> list[str]:
    """What the service did while one trainer sent `count` reports: `asked`, `sync` and `answered`, in order."""
    strace = shutil.which("strace")
    if strace is None:
        pytest.fail("strace is needed to see the order of system calls: install Debian's package strace")
    trace = folder / "trace"
    calls = "trace=fsync,fdatasync,read,recvfrom,recvmsg,write,writev,send,sendto,sendmsg"
    # -D: the started process is the service, and strace is its child.
    words = [strace, "-D", "-f", "-y", "-s", "64", "-e", calls, "-e", "signal=none", "-o", str(trace)]
    service = start_service(url, wrapped=words)
    with service.client() as http:
        _report(http, count)
    service.stop()
    deadline = time.monotonic() + 60
    while not re.search(rf"^{service.process.pid} .*exited with 0", trace.read_text(), re.MULTILINE):
        assert time.monotonic() < deadline, "strace did not write its trace to the end"
        time.sleep(0.02)
    return steps(trace.read_text())


def steps(trace: str) -> list[str]:
    """The trace from the creation of the run on."""
    _, created, reports = trace.partition("HTTP/1.1 201")
    assert created, "the trace holds no answer to the creation of the run"
    kinds = {"sync": SYNCED, "asked": ASKED, "answered": ANSWERED}
    return [kind for line in reports.splitlines() for kind, pattern in kinds.items() if pattern.search(line)]


def answers_without_sync(found: list[str]) -> list[int]:
    """The indexes of answers without a sync between request and answer."""
    groups = [group.rpartition("asked")[2] for group in " ".join(found).split("answered")]
    return [index for index, group in enumerate(groups[:-1]) if "sync" not in group]


def _report(http: httpx.Client, count: int) -> None:
    http.put("/v1/runs/a", json={"policy": POLICY, "initial_learning_rate": INITIAL}).raise_for_status()
    for epoch in range(count):
        # A pause now and then shows work that the service does after its answer.
        time.sleep(1.0 if epoch % 40 == 0 else 0)
        http.post("/v1/runs/a/reports", json={"epoch": epoch, "metrics": {"val_loss": 1.0}}).raise_for_status()
