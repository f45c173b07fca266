"""What others give for the same need, measured beside: Optuna's pruning loop and MLflow's metrics."""

import contextlib
import json
import os
import signal
import socket
import statistics
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from http.client import HTTPConnection, HTTPException
from pathlib import Path

from benchmarks.servers import database, service
from benchmarks.table import Line, at_least, interleaved, ratio
from benchmarks.throughput import per_second

HERE = Path(__file__).parent
MLFLOW_WORKERS = 4
MLFLOW_CLIENTS = 16
START_S = 90.0


def measure(folder: Path, server: str, python: Path, *, seconds: float, rounds: int) -> Iterator[Line]:
    """python: of an environment with competitors.txt installed."""
    for kind in ("SQLite", "PostgreSQL"):
        with ExitStack() as stack:

            def make(name: str, kind: str = kind, stack: ExitStack = stack) -> str:
                sqlite = f"sqlite:///{folder}/{name}.db"
                return sqlite if kind == "SQLite" else stack.enter_context(database(server, name))

            ours = stack.enter_context(service(make("ours"), folder))
            mlflow_url, optuna_url = make("mlflow"), make("optuna")
            found = interleaved(
                {
                    "ours": per_second(ours, seconds),
                    "Optuna": lambda url=optuna_url: _optuna(python, url, seconds),  # type: ignore[misc]
                    "MLflow": lambda url=mlflow_url: _mlflow_per_second(python, url, folder, seconds),  # type: ignore[misc]
                },
                rounds,
            )
            for name, least in (("Optuna", 30.0), ("MLflow", 50.0)):
                figures = f"{statistics.median(found['ours']):,.0f}/s beside {statistics.median(found[name]):,.1f}/s"
                yield at_least(f"reports/s, {kind} : {name}", figures, ratio(found["ours"], found[name]), least)


def _optuna(python: Path, url: str, seconds: float) -> float:
    command = [str(python), str(HERE / "optuna_loop.py"), url, str(seconds)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def _mlflow_per_second(python: Path, url: str, folder: Path, seconds: float) -> float:
    # Its workers use the processor also without requests, so they are stopped while the others are measured.
    with _mlflow(python, url, folder) as mlflow:
        # They load much of it when they are first asked.
        mlflow.per_second(seconds)
        return mlflow.per_second(seconds)


class _MLflow:
    def __init__(self, port: int) -> None:
        self._port = port

    def ask(self, path: str, document: object) -> dict[str, dict[str, dict[str, str]]]:
        with contextlib.closing(HTTPConnection("127.0.0.1", self._port, timeout=60)) as connection:
            return self._ask(connection, path, document)

    def per_second(self, seconds: float) -> float:
        """Metrics logged per second by some clients, one run each, over kept connections."""
        counts = [0] * MLFLOW_CLIENTS
        until = time.perf_counter() + seconds
        threads = [threading.Thread(target=self._log, args=(counts, number, until)) for number in range(MLFLOW_CLIENTS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return sum(counts) / seconds

    def _log(self, counts: list[int], number: int, until: float) -> None:
        made = self.ask("runs/create", {"experiment_id": "0"})
        run = made["run"]["info"]["run_id"]
        with contextlib.closing(HTTPConnection("127.0.0.1", self._port, timeout=60)) as connection:
            while time.perf_counter() < until:
                step = counts[number]
                metric = {"run_id": run, "key": "val_loss", "value": 0.5, "timestamp": step, "step": step}
                self._ask(connection, "runs/log-metric", metric)
                counts[number] += 1

    def _ask(self, connection: HTTPConnection, path: str, document: object) -> dict[str, dict[str, dict[str, str]]]:
        headers = {"content-type": "application/json"}
        connection.request("POST", f"/api/2.0/mlflow/{path}", json.dumps(document), headers)
        response = connection.getresponse()
        said = response.read()
        if response.status != 200:
            raise RuntimeError(f"MLflow says {response.status}: {said[:300]!r}")
        answer: dict[str, dict[str, dict[str, str]]] = json.loads(said)
        return answer


@contextlib.contextmanager
def _mlflow(python: Path, url: str, folder: Path) -> Iterator[_MLflow]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [str(python), "-m", "mlflow", "server", "--backend-store-uri", url, "--host", "127.0.0.1"]
    command += ["--port", str(port), "--workers", str(MLFLOW_WORKERS), "--artifacts-destination", str(folder)]
    with (folder / "mlflow.log").open("ab") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, start_new_session=True)
    try:
        deadline = time.monotonic() + START_S
        while not _answers(port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"mlflow does not start:\n{(folder / 'mlflow.log').read_text()[-2000:]}")
            time.sleep(0.2)
        yield _MLflow(port)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)


def _answers(port: int) -> bool:
    with contextlib.closing(HTTPConnection("127.0.0.1", port, timeout=5)) as connection:
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        except (OSError, HTTPException):
            return False
