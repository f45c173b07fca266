"""Starts the demo's service and trainers as processes, and compares the curves."""

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from math import isclose
from pathlib import Path

from typer import echo

from remotelr import Client, ReportRecord, ServiceUnreachable

# The epoch in which a trainer is killed: after one epoch without improvement. The next one reaches the patience of 2,
# so a counter that is lost with the process would miss the reduction.
FATAL_EPOCH = 9

# Mostly for importing Keras and compiling.
TRAINER_TIMEOUT_S = 120.0


def run_demo() -> int:
    """Train three models with a service on a new SQLite file; 0 if the killed run has the expected curve, else 1."""
    missing = [name for name in ("keras", "jax", "sklearn") if find_spec(name) is None]
    if missing:
        echo(f"The demo trains real models and needs {', '.join(missing)}: pip install 'remotelr-service[demo]'")
        return 1
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="remotelr-demo-") as folder, serving(Path(folder)) as url:
        echo(f"The service runs at {url}, on a new SQLite file. Three Keras jobs use it.")
        train_all(url, Path(folder))
        with Client(url) as client:
            curves = {run.key: list(run.history()) for run in client.runs()}
    for key, epochs in curves.items():
        show(key, epochs)
    same = compare(effective(curves["plateau"]), effective(curves["plateau-killed"]))
    echo(f"Took {time.monotonic() - began:.0f} s.")
    return 0 if same else 1


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """The URL of a service process, which ends with the block."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    database = f"sqlite:///{folder / 'demo.db'}"
    arguments = ["serve", "--port", str(port), "--database-url", database]
    with (folder / "service.log").open("w") as log:
        command = [sys.executable, "-m", "remotelr_service", *arguments]
        # Settings and tokens of another service must not apply.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("REMOTELR_")}
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)
        try:
            wait_until_up(url, process, folder / "service.log")
            yield url
        finally:
            process.terminate()
            process.wait()


def wait_until_up(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 15
    with Client(url, timeout_s=0.5, trust_env=False) as client:
        while time.monotonic() < deadline and process.poll() is None:
            with suppress(ServiceUnreachable):
                list(client.runs())
                return
            time.sleep(0.05)
    raise RuntimeError(f"the service did not start:\n{log.read_text()}")


def train_all(url: str, folder: Path) -> None:
    """Run all trainers at once, and restart the killed one from its checkpoint, as a scheduler does."""
    others = [start_trainer(url, run, folder) for run in ("plateau", "warmup-cosine")]
    killed = start_trainer(url, "plateau-killed", folder, FATAL_EPOCH)
    code = killed.wait(TRAINER_TIMEOUT_S)
    echo(f"plateau-killed was killed in epoch {FATAL_EPOCH} (exit code {code}); restarting it.")
    for process in (start_trainer(url, "plateau-killed", folder), *others):
        if process.wait(TRAINER_TIMEOUT_S) != 0:
            raise RuntimeError("a trainer failed; its message is above")


def start_trainer(url: str, run: str, folder: Path, die_in_epoch: int | None = None) -> subprocess.Popen[bytes]:
    arguments = [url, run, str(folder / f"{run}-checkpoint")]
    if die_in_epoch is not None:
        arguments.append(str(die_in_epoch))
    command = [sys.executable, "-m", "remotelr_service.demo.trainer", *arguments]
    return subprocess.Popen(command)


def effective(epochs: Sequence[ReportRecord]) -> Mapping[int, ReportRecord]:
    """The effective reports by epoch."""
    return {row.epoch: row for row in epochs if row.superseded_by is None}


def show(key: str, epochs: Sequence[ReportRecord]) -> None:
    echo(f"\n{key}")
    echo(f"  {'epoch':>5}  {'attempt':>7}  {'val_loss':>8}  {'rate':>9}  {'next rate':>9}  why")
    for row in epochs:
        val_loss, rate, following = row.metrics["val_loss"], row.learning_rate or 0.0, row.next_learning_rate or 0.0
        note = f"  (superseded by attempt {row.superseded_by})" if row.superseded_by else ""
        echo(
            f"  {row.epoch:>5}  {row.attempt:>7}  {val_loss:>8.4f}  {rate:>9.6f}  {following:>9.6f}  {row.reason}{note}"
        )


def compare(whole: Mapping[int, ReportRecord], killed: Mapping[int, ReportRecord]) -> bool:
    """Whether the killed run has the same rates and losses as the uninterrupted one; prints the result."""
    same_rates = [row.learning_rate for row in whole.values()] == [row.learning_rate for row in killed.values()]
    same_losses = whole.keys() == killed.keys() and all(
        isclose(row.metrics["val_loss"], killed[epoch].metrics["val_loss"], rel_tol=1e-6)
        for epoch, row in whole.items()
    )
    echo(f"\nThe killed run's rates {'equal' if same_rates else 'DIFFER FROM'} those of the uninterrupted one;")
    echo(f"its losses {'do too' if same_losses else 'differ'}.")
    return same_rates and same_losses


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
