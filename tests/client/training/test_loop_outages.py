"""A training loop of the user's own, with real services and processes that are killed."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time

import httpx
import pytest

import remotelr
from remotelr import Client

PLATEAU = {"type": "reduce_on_plateau", "factor": 0.5, "patience": 1, "flavor": "torch"}
PER_STEP = {
    "unit": "step",
    "schedule": {
        "type": "sequential",
        "milestones": [9],
        "schedules": [{"type": "linear", "end_learning_rate": 0.2, "decay_steps": 9}, PLATEAU],
    },
}
EPOCHS = 9

# Trains until the end, or kills itself after the report of an epoch. Its checkpoint is the last whole epoch; arguments:
# address, run, spool folder, file of rates, first epoch, epoch of death.
PROGRAM = """
import json, os, pathlib, signal, sys
import remotelr
from remotelr import Client

url, run, spool, file, first, death = sys.argv[1:]
policy = json.loads(os.environ["POLICY"])
rates = pathlib.Path(file)
with remotelr.training(
    url, run, policy=policy, initial_learning_rate=0.1, total_epochs=9, steps_per_epoch=3, spool_dir=spool, timeout_s=20
) as training:
    for epoch in training.epochs(first=int(first)):
        used = [training.learning_rate(step) for step in range(3)]
        with rates.open("a") as out:
            print(epoch, *used, file=out)
        training.report(val_loss=1.0 if epoch else 2.0)
        if epoch == int(death):
            os.kill(os.getpid(), signal.SIGKILL)
"""


def program(policy, *arguments):
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(PROGRAM), *map(str, arguments)],
        env={**os.environ, "POLICY": json.dumps(policy)},
        check=False,
        timeout=120,
    ).returncode


def last_rates(file):
    """The rates of each epoch's steps, of the last process that trained it."""
    lines = [line.split() for line in file.read_text().splitlines()]
    return {int(epoch): rates for epoch, *rates in lines}


def history(url, run):
    reports = httpx.get(f"{url}/v1/runs/{run}/history", trust_env=False).json()["reports"]
    return [(row["epoch"], row["metrics"]) for row in reports if row.get("superseded_by") is None]


@pytest.mark.parametrize("policy", [PLATEAU, PER_STEP], ids=["plateau", "per-step"])
def test_a_killed_loop_goes_on_as_if_it_had_never_ended(policy, shared_service, tmp_path):
    run, url = f"killed-loop-{policy.get('unit', 'epoch')}", shared_service.url

    assert program(policy, url, f"{run}-whole", tmp_path / "a", tmp_path / "whole", 0, -1) == 0
    # The checkpoint of epoch 4 is not kept: the second process trains epoch 4 again.
    assert program(policy, url, run, tmp_path / "b", tmp_path / "parts", 0, 4) == -signal.SIGKILL
    assert program(policy, url, run, tmp_path / "b", tmp_path / "parts", 4, -1) == 0

    whole = last_rates(tmp_path / "whole")
    assert last_rates(tmp_path / "parts") == whole
    assert len({tuple(rates) for rates in whole.values()}) > 3
    assert history(url, run) == history(url, f"{run}-whole")


@pytest.mark.filterwarnings("ignore::remotelr.errors.RemoteLRWarning")
@pytest.mark.parametrize("policy", [PLATEAU, PER_STEP], ids=["plateau", "per-step"])
def test_a_killed_service_loses_nothing_and_changes_no_rate(policy, mortal_service, tmp_path):
    mortal_service.start()
    runs = {}
    for run, down, up in (("whole", None, None), ("outage", 3, 6)):
        rates = runs[run] = []
        with remotelr.training(
            mortal_service.url,
            run,
            policy=policy,
            initial_learning_rate=0.1,
            total_epochs=EPOCHS,
            steps_per_epoch=3,
            spool_dir=tmp_path / "spools",
            timeout_s=20.0 if down is None else 3.0,
            verbose=False,
        ) as training:
            for epoch in training.epochs():
                if epoch == down:
                    mortal_service.kill()
                if epoch == up:
                    mortal_service.start()
                rates += [training.learning_rate(step) for step in range(3)]
                training.report(val_loss=1.0 if epoch else 2.0)

    assert runs["outage"] == runs["whole"]
    assert len(set(runs["whole"])) > 3
    assert history(mortal_service.url, "outage") == history(mortal_service.url, "whole")
    assert [epoch for epoch, _ in history(mortal_service.url, "outage")] == list(range(EPOCHS))
    view = httpx.get(f"{mortal_service.url}/v1/runs/outage", trust_env=False).json()
    assert view["status"] == "completed"


def test_a_live_stop_cuts_the_epoch_short_and_it_is_not_reported(shared_service, tmp_path):
    url, run = shared_service.url, "live-loop"
    with remotelr.training(
        url,
        run,
        policy=PLATEAU,
        initial_learning_rate=0.1,
        total_epochs=5,
        live=True,
        spool_dir=tmp_path,
        timeout_s=20,
        verbose=False,
    ) as training:
        for epoch in training.epochs():
            rate = training.learning_rate()
            if epoch == 2:
                with Client(url) as client:
                    client.get_run(run).stop()
                deadline = time.monotonic() + 60
                while not training.apply_live_commands():
                    assert time.monotonic() < deadline
                    time.sleep(0.01)
                assert training.stopped
            training.report(val_loss=rate)

    assert epoch == 2
    assert [number for number, _ in history(url, run)] == [0, 1]
    assert httpx.get(f"{url}/v1/runs/{run}", trust_env=False).json()["status"] == "stopped"
