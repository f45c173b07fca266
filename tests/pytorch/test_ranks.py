"""Several ranks of one training: one rate at every step, and an error in seconds instead of two rates."""

import time
from typing import Any

import httpx
import pytest

pytest.importorskip("torch", reason="PyTorch is not installed: `make backends` runs these tests")

from remotelr import Client
from support.pytorch.job import COSINE, PLATEAU, undisturbed
from support.pytorch.processes import Jobs

POLICIES = pytest.mark.parametrize("policy", [PLATEAU, COSINE], ids=["plateau", "cosine"])


def run_of(url: str, key: str) -> Any:
    return httpx.get(f"{url}/v1/runs/{key}", trust_env=False).json()


def both(job: Jobs) -> list[list[list[float]]]:
    return [job.rates(0), job.rates(1)]


@POLICIES
def test_the_ranks_have_one_rate_at_every_step_through_an_outage(new_job, mortal_service, key, policy):
    mortal_service.start()
    url = mortal_service.url
    job = new_job(
        ranks=2, url=url, run=key, policy=policy, timeout_s=1.0, wait_at={"2": ["away"], "5": ["back"]}
    ).start()
    job.wait_for("away")
    mortal_service.kill()
    job.go_on("away")
    job.wait_for("back")
    mortal_service.start()
    job.go_on("back")

    assert [0, 0] == job.wait(), job.output

    assert [undisturbed(policy)] * 2 == both(job)
    run = run_of(url, key)
    assert ("completed", 6, 1) == (run["status"], run["epoch"], run["world_size"])


def test_the_ranks_of_a_sharded_model_have_one_rate_at_every_step(new_job, url, key):
    job = new_job(ranks=2, url=url, run=key, policy=COSINE, wrapper="fsdp").start()

    assert [0, 0] == job.wait(), job.output

    assert [undisturbed(COSINE)] * 2 == both(job)


def test_the_processes_of_accelerate_have_the_rates_of_one_process(new_job, url, key):
    """torch's own plateau, prepared by Accelerate, falls twice as fast in two processes."""
    pytest.importorskip("accelerate", reason="Accelerate is not installed")
    job = new_job(url=url, run=key, policy=PLATEAU, wrapper="accelerate").start_torchrun(ranks=2)

    assert [0] == job.wait(), job.output

    assert [undisturbed(PLATEAU)] * 2 == both(job)


def test_a_step_of_rank_0_alone_is_an_error_in_seconds(new_job, url, key):
    job = new_job(ranks=2, url=url, run=key, policy=PLATEAU, alone_at=1).start()
    began = time.monotonic()

    codes = job.wait()

    assert 0 not in codes
    assert "RanksDisagree: rank 1 did not come to RemoteLR within 3 s" in job.output[0]
    assert time.monotonic() - began < 100


def test_a_refused_run_is_an_error_on_all_ranks(new_job, url, key):
    with Client(url) as client:
        client.run(key, policy=COSINE, initial_learning_rate=0.1, steps_per_epoch=5)
    job = new_job(ranks=2, url=url, run=key, policy=PLATEAU).start()

    assert 0 not in job.wait()

    assert "ServiceRefused" in job.output[0] and "policy_conflict" in job.output[0]
    assert "RanksDisagree: rank 0 failed: " in job.output[1]


def test_the_mean_over_the_ranks_is_weighted(new_job, url, key):
    job = new_job(ranks=2, url=url, run=key, policy=PLATEAU, reduce="mean", epochs=2).start()

    assert [0, 0] == job.wait(), job.output

    events = httpx.get(f"{url}/v1/runs/{key}/events", trust_env=False).json()["events"]
    losses = [event["payload"]["metrics"]["val_loss"] for event in events if event["kind"] == "report"]
    # Rank 0 has the losses 1.0 and 1.1 with the weight 1, rank 1 has 1.0 more with the weight 3.
    assert [pytest.approx(1.75), pytest.approx(1.85)] == losses


@POLICIES
def test_a_restarted_rank_of_torchrun_is_a_new_attempt_at_the_same_rates(new_job, url, key, policy):
    job = new_job(url=url, run=key, policy=policy, kill_at=[3, 2, 1])

    job.start_torchrun("--max-restarts=1", ranks=2)

    assert [0] == job.wait(), job.output
    assert [undisturbed(policy)] * 2 == both(job)
    assert ("completed", 2) == (run_of(url, key)["status"], run_of(url, key)["attempt"])
