"""The commands of docs/operations.md: a backup taken while the service writes is whole, and can be gone on from."""

import os
import re
import shutil
import sqlite3
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import psycopg

from remotelr_service.features.runs import runs
from support.fixtures.processes import Process
from support.postgres import find_binaries

PAGE = (Path(__file__).parents[3] / "docs" / "operations.md").read_text()
BACKUP, DUMP, RESTORE = [
    re.search(rf"`({program} [^`]+)`", PAGE)[1]  # type: ignore[index]
    for program in ("sqlite3", "pg_dump", "pg_restore")
]


@contextmanager
def training(process: Process) -> Iterator[None]:
    """A trainer reports continuously."""
    stop, begun = threading.Event(), threading.Event()

    def train() -> None:
        epoch = 0
        while not stop.is_set():
            process.report("run", epoch, 1.0 / (1 + epoch % 5))
            epoch += 1
            if epoch == 20:
                begun.set()

    process.put("run")
    thread = threading.Thread(target=train)
    thread.start()
    assert begun.wait(60)
    try:
        yield
    finally:
        stop.set()
        thread.join()


def goes_on(process: Process) -> None:
    """The backup is complete, and the trainer sends the later reports again."""
    stood = process.stored_run("run").epoch

    assert stood >= 20
    assert process.replayed("run") == process.stored_run("run")
    assert ["run"] == [view.run.key for view in runs.list_runs(process.reads).runs]
    assert stood + 1 == process.report("run", stood, 0.5).epoch


def test_an_sqlite_file_is_copied_while_it_is_written_to(
    sqlite_url: str, start_process: Callable[..., Process], tmp_path: Path
):
    process = start_process(sqlite_url)
    with training(process):
        if shutil.which("sqlite3"):
            subprocess.run(BACKUP, shell=True, cwd=tmp_path, check=True)
        else:
            # The same, by the interface beneath that command.
            source, copy = (sqlite3.connect(tmp_path / name) for name in ("remotelr.db", "copy.db"))
            with closing(source), closing(copy):
                source.backup(copy)

    goes_on(start_process(f"sqlite:///{tmp_path / 'copy.db'}"))


def test_a_postgresql_is_dumped_while_it_is_written_to_and_restored_into_another(
    postgres_url: str, empty_postgres_url: str, start_process: Callable[..., Process], tmp_path: Path
):
    environment = {**os.environ, "PATH": f"{find_binaries()}{os.pathsep}{os.environ['PATH']}"}

    def run(command: str, documented: str, url: str) -> None:
        real = command.replace(documented, url.replace("postgresql+psycopg", "postgresql"))
        assert real != command
        subprocess.run(real, shell=True, cwd=tmp_path, env=environment, check=True)

    process = start_process(postgres_url)
    with training(process):
        run(DUMP, "postgresql://…/remotelr", postgres_url)
    run(RESTORE, "postgresql://…/new", empty_postgres_url)
    with psycopg.connect(empty_postgres_url.replace("postgresql+psycopg", "postgresql")) as connection:
        connection.execute("ANALYZE")

    goes_on(start_process(empty_postgres_url))
