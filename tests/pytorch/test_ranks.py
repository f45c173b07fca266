"""Several ranks of one training: one rate at every step, and an error in seconds instead of two rates."""

import subprocess
import sys
import time
from datetime import timedelta
from typing import Any

import httpx
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed: `make adapters` runs these tests")

from remotelr import Client  # noqa: E402
from remotelr.errors import RanksDisagree  # noqa: E402
from remotelr.torch import TorchRanks  # noqa: E402
from support.ports import free_port  # noqa: E402
from support.pytorch.job import COSINE, PLATEAU, undisturbed  # noqa: E402
from support.pytorch.processes import Jobs  # noqa: E402

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
    pytest.importorskip("accelerate", reason="Accelerate is not installed: `make adapters` runs this test")
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


class _OneStore(TorchRanks):
    """Ranks with a store of the test instead of a process group."""

    def __init__(self, store: Any) -> None:
        self._store = store


def test_a_lost_store_is_no_late_rank():
    port = free_port()
    code = f"import os, torch.distributed as d; s = d.TCPStore('127.0.0.1', {port}, None, True, wait_for_workers=False)"
    with subprocess.Popen([sys.executable, "-c", f"{code}; input(); os._exit(1)"], stdin=subprocess.PIPE) as leader:
        store = torch.distributed.TCPStore("127.0.0.1", port, None, False, timeout=timedelta(seconds=90))
        leader.communicate(b"\n")

        with pytest.raises(RanksDisagree, match="has lost its store while rank 0 was awaited"):
            _OneStore(store)._wait("share/0", 90.0, "rank 0")


def test_a_command_reaches_all_ranks(new_job, url, key):
    job = new_job(ranks=2, url=url, run=key, policy=COSINE, wait_at={"2": ["commanded"]}).start()
    job.wait_for("commanded")
    with Client(url) as client:
        client.get_run(key).scale(0.5)
    job.go_on("commanded")

    assert [0, 0] == job.wait(), job.output

    halved = [[rate / 2 for rate in rates] for rates in undisturbed(COSINE)]
    assert [pytest.approx(rates) for rates in halved[15:]] == job.rates(0)[15:]
    assert job.rates(0) == job.rates(1)


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
