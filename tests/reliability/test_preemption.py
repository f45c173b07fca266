"""A job that is killed and restarted many times has the rates of an uninterrupted one: real Keras, real kills."""

import random
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import psutil
import pytest

from faults.job import BATCHES, Job
from faults.oracle import losses
from faults.service import Service
from reliability.conftest import LONG
from remotelr import Client

EPOCHS, KILLS = (40, 20) if LONG else (14, 2)
LOSSES = losses(seed=3, count=EPOCHS)
STEPS = EPOCHS * BATCHES
FALLING: dict[str, Any] = {
    "type": "reduce_on_plateau",
    "factor": 0.97,
    "patience": 1,
    "cooldown": 1,
    "min_delta": 0.0,
}
POLICIES: dict[str, dict[str, Any]] = {
    "plateau": FALLING,
    "warm-up, then plateau": {
        "unit": "step",
        "schedule": {
            "type": "sequential",
            "milestones": [18],
            "schedules": [
                {"type": "linear", "initial_learning_rate": 0.01, "end_learning_rate": 0.1, "decay_steps": 18},
                FALLING,
            ],
        },
    },
    "cosine of steps": {
        "unit": "step",
        "schedule": {
            "type": "cosine",
            "initial_learning_rate": 0.1,
            "decay_steps": STEPS,
            "warmup": {"steps": 5},
        },
    },
}
ENDS_S = 300.0


@pytest.fixture(scope="module")
def undisturbed(service: Service, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], list[list[float]]]:
    """The rates of an uninterrupted job with this policy."""

    @cache
    def rates(policy: str) -> list[list[float]]:
        remote = {"url": service.url, "run": f"whole-{list(POLICIES).index(policy)}", "policy": POLICIES[policy]}
        job = Job(folder=tmp_path_factory.mktemp("whole"), remote=remote, losses=LOSSES)
        completes(job)
        assert len({rate for epoch in job.rates for rate in epoch}) > 3
        return job.rates

    return rates


def completes(job: Job) -> None:
    process = job.start()
    process.join(ENDS_S)
    assert process.exitcode == 0, job.said


def is_killed(job: Job, at: tuple[int, int]) -> None:
    process = job.start(leaves="killed", at=at)
    process.join(ENDS_S)
    assert process.exitcode == -signal.SIGKILL, job.said


def is_halted(job: Job, at: tuple[int, int]) -> psutil.Process:
    """A process that stands still there."""
    process = psutil.Process(job.start(leaves="halted", at=at).pid)
    deadline = time.monotonic() + ENDS_S
    while process.status() != psutil.STATUS_STOPPED:
        assert time.monotonic() < deadline, job.said
        time.sleep(0.01)
    return process


def random_places(seed: int, count: int) -> list[tuple[int, int]]:
    """Where a job is killed: at the end of a batch or of an epoch, in order."""
    every = [(epoch, batch) for epoch in range(EPOCHS) for batch in range(BATCHES + 1)]
    return sorted(random.Random(seed).sample(every, count))


def stored(service: Service, run: str) -> list[tuple[Any, ...]]:
    """The stored history of the run: epochs, losses, rates."""
    with Client(service.url, timeout_s=60.0, trust_env=False) as client:
        rows = [row for row in client.get_run(run).history() if row.superseded_by is None]
    return [(row.epoch, row.metrics["val_loss"], row.learning_rate) for row in rows]


@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    ("policy", "checkpoints"),
    [
        ("plateau", {"order": "backup last", "every": 3}),
        ("warm-up, then plateau", {"order": "backup first"}),
        ("cosine of steps", {"order": "backup last", "every": 2}),
    ],
    ids=POLICIES,
)
def test_every_batch_has_the_rate_it_would_have_had(service, undisturbed, tmp_path, policy, checkpoints):
    """A checkpoint of every third epoch is older than the last report, so the run is rewound."""
    expected = undisturbed(policy)
    run = f"killed-{list(POLICIES).index(policy)}"
    remote = {"url": service.url, "run": run, "policy": POLICIES[policy], "timeout_s": 60.0}
    job = Job(folder=tmp_path / "job", remote=remote, losses=LOSSES, **checkpoints)
    for at in random_places(seed=len(policy), count=KILLS):
        is_killed(job, at)
    completes(job)

    assert expected == job.rates
    assert stored(service, run) == stored(service, run.replace("killed", "whole"))
    assert job.said == ""


@pytest.mark.timeout(300)
def test_a_job_whose_service_is_killed_with_it_goes_on_alone_and_tells_it_later(service, undisturbed, tmp_path):
    """The trainer restarts twice before the service, which starts during the third attempt."""
    expected = undisturbed("plateau")
    remote = {"url": service.url, "run": "both", "policy": FALLING, "timeout_s": 1.0}
    job = Job(folder=tmp_path / "job", remote=remote, losses=LOSSES, every=2)
    is_killed(job, (4, 1))
    service.kill()
    is_killed(job, (8, BATCHES))
    process = is_halted(job, (10, 2))
    service.start()
    process.resume()
    psutil.wait_procs([process], ENDS_S)
    late = False
    while list((tmp_path / "job" / "spool").iterdir()):
        late = True
        # The machine was too busy for the last report: a job without epochs left sends it.
        completes(job)

    assert expected == job.rates
    assert stored(service, "both") == stored(service, "whole-0")
    assert job.said.count("Training goes on by the same rules here.") >= 2
    assert late or job.said.count("answers again") >= 1


@pytest.mark.timeout(300)
def test_an_old_process_that_was_taken_for_dead_stops_and_changes_nothing(service, undisturbed, tmp_path):
    expected = undisturbed("plateau")
    remote = {"url": service.url, "run": "zombie", "policy": FALLING, "timeout_s": 60.0}
    old = Job(folder=tmp_path / "old", remote=remote, losses=LOSSES)
    zombie = is_halted(old, (5, 1))
    # Another machine, with the checkpoint and without the spool.
    shutil.copytree(tmp_path / "old" / "backup", tmp_path / "new" / "backup")
    shutil.copy(tmp_path / "old" / "seen.jsonl", tmp_path / "new" / "seen.jsonl")
    new = Job(folder=tmp_path / "new", remote=remote, losses=LOSSES)
    heir = is_halted(new, (7, 1))
    zombie.resume()
    psutil.wait_procs([zombie], ENDS_S)
    heir.resume()
    psutil.wait_procs([heir], ENDS_S)

    assert expected == new.rates
    assert stored(service, "zombie") == stored(service, "whole-0")
    assert "Epoch 6: RemoteLR stops training: a newer attempt has taken the run over." in old.said
    assert new.said == ""


def test_the_rate_in_a_checkpoint_never_wins(service, tmp_path):
    """The policy is replaced while the job is down; its checkpoint has the rate of the old policy."""
    remote = {"url": service.url, "run": "restored", "policy": FALLING, "timeout_s": 60.0}
    job = Job(folder=tmp_path / "job", remote=remote, losses=LOSSES[:6])
    is_killed(job, (3, 1))
    halving = {"type": "step", "step_size": 1, "gamma": 0.5, "initial_learning_rate": 0.5}
    completes(replace(job, remote={**remote, "policy": halving, "on_conflict": "restart"}))

    assert job.rates[3:] == [[0.5**4] * BATCHES, [0.5**5] * BATCHES, [0.5**6] * BATCHES]


def test_a_checkpoint_that_was_kept_before_its_epoch_was_reported_costs_the_plateau_that_epoch(service, tmp_path):
    """RemoteLR belongs before the checkpoint callback: then the epoch is trained again."""
    remote = {"url": service.url, "run": "between", "policy": FALLING, "timeout_s": 60.0}
    job = Job(folder=tmp_path / "job", remote=remote, losses=LOSSES[:6], order="backup first, killed between")
    is_killed(job, (3, BATCHES))
    completes(job)

    assert [epoch for epoch, *_ in stored(service, "between")] == [0, 1, 2, 4, 5]
    assert job.said.count("has reports of the epochs just before") == 1
