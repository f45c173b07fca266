"""The processes under measure: the service on either database, the echo beside it, and PostgreSQL."""

import contextlib
import importlib.util
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from types import ModuleType
from typing import Any

import psutil
import psycopg

from benchmarks.load import Measured
from remotelr_service.db.migrate import upgrade

REPOSITORY = Path(__file__).parents[1]
START_S = 30.0

# A plateau of a flavour whose rate never reaches a floor: every point moves the state.
POLICY = {"schedule": {"type": "reduce_on_plateau", "factor": 0.999, "patience": 2, "cooldown": 1}}


class Server:
    """An HTTP server of this benchmark, running. port: where. pid: its process."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, adds: int) -> None:
        self.process, self.port, self._adds = process, port, adds
        self.is_echo = adds == 0

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def cpu_s(self) -> float:
        """The seconds of processor time its process has used so far."""
        used = psutil.Process(self.pid).cpu_times()
        return float(used.user + used.system)

    def ask(self, method: str, path: str, document: Any = None, timeout_s: float = 30.0) -> Any:
        """The JSON that is answered. Raises RuntimeError for anything but success."""
        with contextlib.closing(HTTPConnection("127.0.0.1", self.port, timeout=timeout_s)) as connection:
            body = None if document is None else json.dumps(document)
            connection.request(method, path, body, {"content-type": "application/json"} if body else {})
            response = connection.getresponse()
            said = response.read()
        if response.status >= 300:
            raise RuntimeError(f"{method} {path}: {response.status} {said.decode()}")
        return json.loads(said) if said else None

    def create_runs(self, name: str, count: int) -> None:
        """Runs `name` (with `{}` as their number) in their first attempt."""
        for number in range(count):
            path = f"/v1/runs/{name.format(number)}"
            self.ask("PUT", path, {"policy": POLICY, "initial_learning_rate": 0.1})
            self.ask("POST", f"{path}/attempts", {"key": "bench", "epoch": 0})

    def load(self, run: str, *, connections: int, seconds: float, epoch: int = 0) -> Measured:
        """Report to it from a process of its own; see `benchmarks.load`."""
        words = {
            "port": self.port,
            "connections": connections,
            "seconds": seconds,
            "run": run,
            "epoch": epoch,
            "adds": self._adds,
        }
        command = [sys.executable, "-m", "benchmarks.load"]
        for name, value in words.items():
            command += [f"--{name}", str(value)]
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"the load generator failed: {done.stderr[-2000:]}")
        return Measured(**json.loads(done.stdout))


@contextlib.contextmanager
def service(database_url: str, folder: Path, **environment: str) -> Iterator[Server]:
    """`remotelr serve` with its defaults or `environment`, its log in a file, on a database that it has migrated."""
    upgrade(database_url)
    given = {**os.environ, "REMOTELR_DATABASE_URL": database_url, **environment}
    with _running(["-m", "remotelr_service", "serve"], folder, given, adds=1) as server:
        yield server


@contextlib.contextmanager
def echo(folder: Path) -> Iterator[Server]:
    """`benchmarks.echo`, running."""
    with _running(["-m", "benchmarks.echo"], folder, {**os.environ}, adds=0) as server:
        yield server


@contextlib.contextmanager
def postgres() -> Iterator[str]:
    """The URL of a PostgreSQL that syncs every commit; the tests' own, or REMOTELR_TEST_POSTGRES_URL."""
    with _of_the_tests().running_postgres() as url:
        plain = url.replace("postgresql+psycopg", "postgresql")
        with psycopg.connect(plain) as connection:
            settings = connection.execute("SELECT current_setting('fsync'), current_setting('synchronous_commit')")
            if (found := settings.fetchone()) != ("on", "on"):
                raise RuntimeError(f"fsync and synchronous_commit of PostgreSQL are {found}: they must be on")
        yield plain


def binaries_of_postgres() -> Path:
    """The folder of PostgreSQL's programs."""
    folder: Path = _of_the_tests().find_binaries()
    return folder


@contextlib.contextmanager
def database(server: str, name: str) -> Iterator[str]:
    """The URL of a new database of this PostgreSQL; it is dropped at the end."""
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"'.encode())
    try:
        yield f"{server.rpartition('/')[0]}/{name}"
    finally:
        with psycopg.connect(server, autocommit=True) as connection:
            connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)'.encode())


def _of_the_tests() -> ModuleType:
    """tests/support/postgres.py."""
    spec = importlib.util.spec_from_file_location("tests_postgres", REPOSITORY / "tests" / "support" / "postgres.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@contextlib.contextmanager
def _running(words: list[str], folder: Path, environment: dict[str, str], adds: int) -> Iterator[Server]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, *words, "--port", str(port)]
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")]))
    with (folder / f"{port}.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
    try:
        _await(process, port, folder / f"{port}.log")
        yield Server(process, port, adds)
    finally:
        process.terminate()
        process.wait(30)


def _await(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + START_S
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.005)
    raise RuntimeError(f"{process.args!r} does not start:\n{log.read_text()}")
