"""An operator steers twenty live jobs: the session of docs/operating.md, with real processes on PostgreSQL.

The jobs wait at each step of the session, so that it does not depend on the speed of the machine.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from math import cos, pi
from pathlib import Path
from typing import Any

import pytest

from faults.service import Service
from remotelr import Client, ReportRecord
from support.fixtures.terminal import Terminal

TESTS = Path(__file__).parents[1]

EPOCHS = 8
COSINE = {"type": "cosine", "decay_steps": EPOCHS}
PLATEAU = {"type": "reduce_on_plateau", "patience": 50}

# The jobs. One is a real fit of Keras, which is killed in the middle of epoch 4.
PINNED, EXTENDED, SWAPPED, STOPPED = "job-00", "job-01", "job-02", "job-03"
HOT = [f"job-{number:02}" for number in range(4, 10)]
CLOSED_LOOP = {PINNED, SWAPPED, STOPPED, *HOT[2:]}
ALL = [f"job-{number:02}" for number in range(20)]
LEFT_ALONE = ALL[10:]


class Job:
    """One job: a process that trains up to a given epoch."""

    def __init__(self, key: str, folder: Path, url: str, token: str) -> None:
        self.key = key
        self._used = folder / f"{key}.used"
        self._settings = folder / f"{key}.json"
        self._errors = folder / f"{key}.err"
        self._environment = {**os.environ, "REMOTELR_TOKEN": token, "NO_PROXY": "*"}
        self._given: dict[str, Any] = {
            "url": url,
            "run": key,
            "keras": key == PINNED,
            "epochs": 12 if key == EXTENDED else EPOCHS,
            "dies_in": 4 if key == PINNED else None,
            "checkpoint": str(folder / f"{key}.checkpoint"),
            "used": str(self._used),
            "spec": {
                "policy": PLATEAU if key in CLOSED_LOOP else COSINE,
                "initial_learning_rate": 0.1,
                "experiment": "nightly",
                "tags": {"team": "vision" if key in HOT else "audio"},
                "total_epochs": EPOCHS,
            },
        }
        self.start()

    def start(self, **changed: Any) -> None:
        """Start it, or restart it from its checkpoint."""
        self._settings.write_text(json.dumps({**self._given, **changed}))
        with self._errors.open("a") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "support.operator_job", self._settings],
                env={**self._environment, "PYTHONPATH": str(TESTS)},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                cwd=self._settings.parent,
            )

    def go_on(self, until: int) -> None:
        """Let it train every epoch before `until`."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(f"until {until}\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            # It has ended; `waits` says so.
            pass

    def waits(self) -> int | None:
        """The epoch before which it waits; None if it has ended."""
        assert self.process.stdout is not None
        # The callback prints too.
        for line in self.process.stdout:
            if line.startswith("at "):
                return int(line.removeprefix("at "))
        self.ended()
        return None

    def ended(self) -> int:
        """Its exit code, negative for a signal."""
        code = self.process.wait(60)
        assert code in (0, -9), self._errors.read_text()
        return code

    def close(self) -> None:
        """Kill it, if it runs; it may be started again."""
        self.process.kill()
        # Closes the pipes.
        self.process.communicate()

    @property
    def used(self) -> dict[int, float]:
        """The rate that each epoch was trained with, in its last attempt."""
        lines = [json.loads(line) for line in self._used.read_text().splitlines()]
        return {each["epoch"]: each["learning_rate"] for each in lines}


def approx(expected: Any) -> Any:
    """Equal within the precision of Keras's rates, which are float32."""
    return pytest.approx(expected, rel=1e-6)


def cosine(epoch: float, length: int = EPOCHS) -> float:
    """The curve of most jobs, computed by hand."""
    return 0.1 * (1 + cos(pi * min(epoch / length, 1))) / 2


@pytest.fixture
def start_job(tmp_path: Path) -> Iterator[Callable[..., Job]]:
    jobs: list[Job] = []

    def start(key: str, url: str, token: str) -> Job:
        jobs.append(Job(key, tmp_path, url, token))
        return jobs[-1]

    yield start
    for job in jobs:
        job.close()


# The timeout is for a hanging test only.
@pytest.mark.timeout(600)
def test_an_operator_steers_twenty_live_jobs_and_the_audit_has_the_rates_they_trained_with(
    postgres_url: str,
    start_service: Callable[..., Service],
    start_job: Callable[..., Job],
    terminal: Terminal,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    service = start_service(postgres_url)
    monkeypatch.setenv("REMOTELR_URL", service.url)

    def remotelr(*words: str) -> Any:
        """The output of a command that succeeds."""
        said = terminal(*words, "--json")
        assert 0 == said.code, said.err
        return said.json

    admin = remotelr("token", "create", "admin", "--scope", "admin")["token"]
    monkeypatch.setenv("REMOTELR_TOKEN", admin)
    trainers = remotelr("token", "create", "trainers", "--scope", "report", "--experiment", "nightly")["token"]
    operator = remotelr("token", "create", "night shift", "--scope", "operate", "--lasts", "12h")["token"]
    monkeypatch.setenv("REMOTELR_TOKEN", operator)

    jobs = {key: start_job(key, service.url, trainers) for key in ALL}

    def go_on(until: int, *keys: str) -> list[int | None]:
        """Let these jobs train up to the epoch together. Returns where they wait then."""
        for key in keys:
            jobs[key].go_on(until)
        return [jobs[key].waits() for key in keys]

    assert {0} == {job.waits() for job in jobs.values()}
    assert {2} == set(go_on(2, *ALL))

    # Those of a team run too hot: look first, then halve their rates. One is held where it did well before.
    rehearsed = remotelr("bulk", "scale", "0.5", "--tag", "team:vision", "--dry-run")
    assert {2} == set(go_on(2, *ALL)), "a dry run changes nothing"
    halved = remotelr("bulk", "scale", "0.5", "--tag", "team:vision", "--yes", "--reason", "too hot")
    pinned = remotelr("runs", "set-lr", PINNED, "0.004", "--reason", "as in May")
    others = [key for key in ALL if key != PINNED]
    assert {4} == set(go_on(4, *ALL))

    # The one that is held dies in the middle of an epoch, and starts again from its checkpoint.
    assert [None] == go_on(6, PINNED)
    assert -9 == jobs[PINNED].ended()
    jobs[PINNED].close()
    jobs[PINNED].start(dies_in=None)
    assert 4 == jobs[PINNED].waits()

    remotelr("runs", "extend", EXTENDED, "12", "--continuity", "keep_lr")
    remotelr("runs", "replace-policy", SWAPPED, '{"type": "cosine", "decay_steps": 3}', "--keep-rate")
    remotelr("runs", "stop", STOPPED, "--reason", "has learned enough")
    went_on = [key for key in others if key != STOPPED]
    assert {6} == set(go_on(6, PINNED, *went_on))
    assert [None] == go_on(6, STOPPED)

    released = remotelr("runs", "release", PINNED)
    assert [8, *([None] * 18)] == go_on(8, EXTENDED, PINNED, *(key for key in went_on if key != EXTENDED))
    assert [None] == go_on(12, EXTENDED)
    assert {0} == {job.ended() for job in jobs.values()}

    used = {key: job.used for key, job in jobs.items()}
    commands = {key: remotelr("runs", "commands", key)["commands"] for key in ALL}
    statuses = {run["run"]: run["status"] for run in remotelr("runs", "list", "-e", "nightly")["runs"]}
    with Client(service.url, token=operator, timeout_s=60.0, trust_env=False) as client:
        audit = {run.key: counting(run.history()) for run in client.runs(experiment="nightly")}

    assert [each["run"] for each in rehearsed["runs"]] == [each["run"] for each in halved["runs"]] == HOT
    assert approx([3, 0.1, 0.05]) == [rehearsed["runs"][-1][name] for name in ("effective_from", "before", "after")]
    assert [pinned["seq"], released["seq"]] == [each["seq"] for each in commands[PINNED]]
    assert {STOPPED: "stopped"} == {key: status for key, status in statuses.items() if status != "completed"}
    check_curves(used)
    check_audit(used, audit, commands)


def check_curves(used: dict[str, dict[int, float]]) -> None:
    """Every job trained with the rates of the session, computed by hand.

    An epoch that is about to begin has its rate already: a command before epoch 2 changes epoch 3.
    """
    curve = {epoch: cosine(epoch) for epoch in range(EPOCHS)}
    halved = {epoch: rate / (2 if epoch >= 3 else 1) for epoch, rate in curve.items()}
    assert {"the curve of all"} == {"the curve of all" if used[key] == approx(curve) else key for key in LEFT_ALONE}
    assert [approx(halved)] * 2 == [used[key] for key in HOT[:2]]
    assert [approx([0.1] * 3 + [0.05] * 5)] * 4 == [list(used[key].values()) for key in HOT[2:]]
    assert approx([0.1] * 3 + [0.004] * 4 + [0.1]) == list(used[PINNED].values())
    assert approx([0.1] * 6 + [0.075, 0.025]) == list(used[SWAPPED].values())
    assert approx([0.1] * 5) == list(used[STOPPED].values())
    rest = [used[EXTENDED][epoch] for epoch in range(4, 12)]
    assert (approx(curve[4]), sorted(rest, reverse=True)) == (rest[0], rest)
    assert rest[3] > curve[7]


def check_audit(
    used: dict[str, dict[int, float]],
    audit: dict[str, dict[int, ReportRecord]],
    by_run: dict[str, list[dict[str, Any]]],
) -> None:
    """The log has the rate that each job used, and every command was applied and has its actor."""
    commands = [each for orders in by_run.values() for each in orders]
    assert used == {
        key: {epoch: approx(report.learning_rate) for epoch, report in reports.items()}
        for key, reports in audit.items()
    }
    assert used == {
        key: {epoch: approx(report.used_learning_rate) for epoch, report in reports.items()}
        for key, reports in audit.items()
    }
    assert {("applied", "night shift")} == {(each["state"], each["command"]["actor"]) for each in commands}
    assert len(HOT) + 5 == len(commands)


def counting(reports: Iterator[ReportRecord]) -> dict[int, ReportRecord]:
    """The effective reports, by epoch."""
    return {report.epoch: report for report in reports if report.superseded_by is None}
