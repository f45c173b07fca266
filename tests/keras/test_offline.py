"""A fit whose service dies, comes late, or is not there at all has the rates of one that was never disturbed."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from remotelr import Client, ServiceUnreachable
from remotelr._session.journal import Journal
from remotelr._session.session import Session
from remotelr._session.spool import Spool
from remotelr.keras import RemoteLR
from remotelr.rules import PolicyConflict
from remotelr.testing import InMemoryService
from support.jobs import stopped_clock
from support.keras.outage import HURRIED_S, PATIENT_S, Outage
from support.keras.training_jobs import BATCH, Before, Losses, StepsTaken, data, linear, ones, unit_gradient

EPOCHS = 14
LOSSES = np.random.default_rng(3).normal(1, 0.1, EPOCHS).astype("float32").tolist()
PLATEAU = {"factor": 0.97, "patience": 1, "cooldown": 1, "min_delta": 0.0}
FALLING = {
    "unit": "step",
    "schedule": {"type": "linear", "initial_learning_rate": 0.8, "end_learning_rate": 0.0, "decay_steps": 16},
}
TESTS = Path(__file__).parents[1]
TRAINER = TESTS / "support" / "keras" / "trainer.py"
QUIET = pytest.mark.filterwarnings("ignore::remotelr.errors.RemoteLRWarning")
NOWHERE = "http://127.0.0.1:9"


def fit(*callbacks, epochs=EPOCHS, model=None, **arguments):
    x, y = data()
    settings = {"batch_size": BATCH, "epochs": epochs, "verbose": 0, **arguments}
    return (model or linear()).fit(x, y, callbacks=[Losses(LOSSES), *callbacks], **settings).history["learning_rate"]


def undisturbed(key, **remote):
    service = InMemoryService()
    rates = fit(RemoteLR(service.url, key, transport=service, **(remote or PLATEAU)))
    assert len(set(rates)) > 3
    return rates


def history(url, key):
    with Client(url) as client:
        rows = list(client.get_run(key).history())
    return [(row.epoch, row.metrics, row.learning_rate, row.used_learning_rate) for row in rows]


@QUIET
def test_a_service_that_is_killed_and_started_again_leaves_no_trace(mortal_service, key):
    mortal_service.start()
    expected = fit(RemoteLR(mortal_service.url, f"{key}-whole", **PLATEAU))

    remote = RemoteLR(mortal_service.url, key, timeout_s=PATIENT_S, **PLATEAU)
    rates = fit(Outage(mortal_service, remote, killed=3, started=9), remote)

    assert rates == expected == undisturbed(key)
    assert history(mortal_service.url, key) == history(mortal_service.url, f"{key}-whole")


@QUIET
def test_every_batch_of_an_epoch_without_the_service_has_the_rate_of_its_step(mortal_service, key):
    mortal_service.start()
    steps, (x, y) = StepsTaken(), ones()
    remote = RemoteLR(mortal_service.url, key, FALLING, timeout_s=PATIENT_S)
    callbacks = [Outage(mortal_service, remote, killed=1, started=3), remote, steps]

    unit_gradient(keras.optimizers.SGD(0.5)).fit(
        x, y, batch_size=BATCH, epochs=4, verbose=0, shuffle=False, callbacks=callbacks
    )

    assert steps.rates == pytest.approx([0.8 * (1 - step / 16) for step in range(16)], abs=1e-6)


@QUIET
def test_a_service_that_comes_late_gets_the_run_with_everything_in_it(mortal_service, key):
    remote = RemoteLR(mortal_service.url, key, timeout_s=HURRIED_S, **PLATEAU)

    rates = fit(Outage(mortal_service, remote, started=6), remote)

    assert rates == undisturbed(key)
    assert [epoch for epoch, *_ in history(mortal_service.url, key)] == list(range(EPOCHS))
    with Client(mortal_service.url) as client:
        assert client.get_run(key).view.status == "completed"


@QUIET
def test_a_trainer_killed_during_an_outage_delivers_in_a_later_process(mortal_service, key, tmp_path):
    """Two processes without a service, each ended by SIGKILL, the second from a checkpoint; then the service is up."""
    settings = {
        "url": mortal_service.url, "run": key, "epochs": EPOCHS, "losses": LOSSES, "order": "backup last",
        "plateau": {**PLATEAU, "timeout_s": HURRIED_S, "spool_dir": str(tmp_path / "spools")},
        "backup": str(tmp_path / "backup"), "seen": str(tmp_path / "seen.jsonl"),
    }  # fmt: skip

    for death in [(3, "batch"), (7, "end"), (-1, "never")]:
        file = tmp_path / "settings.json"
        if death[1] == "never":
            mortal_service.start()
            settings["plateau"]["timeout_s"] = PATIENT_S
        file.write_text(json.dumps({**settings, "dies_at": death}))
        ended = subprocess.run(
            [sys.executable, str(TRAINER), str(file)],
            env={**os.environ, "PYTHONPATH": str(TESTS)},
            check=False, capture_output=True, text=True, timeout=100,
        )  # fmt: skip
        assert ended.returncode == (0 if death[1] == "never" else -signal.SIGKILL), ended.stderr

    seen = {
        row["epoch"]: row["learning_rate"]
        for row in map(json.loads, (tmp_path / "seen.jsonl").read_text().splitlines())
    }
    assert [seen[epoch] for epoch in range(EPOCHS)] == undisturbed(key)
    stored = history(mortal_service.url, key)
    assert {epoch for epoch, *_ in stored} == set(range(EPOCHS))
    assert list((tmp_path / "spools").iterdir()) == []


@QUIET
def test_ten_minutes_of_epochs_without_the_service_are_delivered_when_it_answers(
    mortal_service, key, tmp_path, monkeypatch
):
    """Six hundred epochs that take no time, in the place of 600 that take a second."""
    # Nor may the disk take its time here: 5 ms for each, on a busy machine many more.
    monkeypatch.setattr("os.fsync", lambda _: None)
    policy = {"type": "reduce_on_plateau", "factor": 0.999, "patience": 1, "min_delta": 0.0}
    losses = np.random.default_rng(1).normal(1, 0.1, 4000).tolist()

    def train(session, epochs):
        rates = []
        for epoch in epochs:
            session.begin(epoch, step=0)
            rates.append(session.learning_rate(epoch, step=0))
            session.renew_budget()
            session.report(epoch, {"val_loss": losses[epoch], "loss": 0.5}, step=None, learning_rate=rates[-1])
        return rates

    def opened(client, journal=None):
        session = Session(client, key, {"policy": policy}, journal=journal or Journal(), say=print, clock=stopped_clock)
        session.open(initial_learning_rate=0.1)
        return session

    spool = tmp_path / "spool"
    with Client(mortal_service.url, timeout_s=HURRIED_S) as client:
        session = opened(client, Journal(Spool(spool)))
        rates = train(session, range(600))
        size = spool.stat().st_size
        mortal_service.start()
        session._service._budget.seconds = PATIENT_S
        while session.decision.local:
            rates += train(session, [len(rates)])
        client.close()
        session.abandon()

    assert rates == train(opened(None), range(len(rates)))
    assert [epoch for epoch, *_ in history(mortal_service.url, key)] == list(range(len(rates)))
    assert size <= 2**20


def test_without_an_address_the_rules_decide_here(monkeypatch, key, capsys):
    monkeypatch.delenv("REMOTELR_URL", raising=False)

    rates = fit(RemoteLR(run=key, **PLATEAU))

    assert rates == undisturbed(key)
    assert "no service is given, so the rules decide in this process alone" in capsys.readouterr().out


def test_a_state_file_carries_a_local_fit_over_its_end_and_makes_it_central_later(monkeypatch, key, tmp_path, url):
    monkeypatch.delenv("REMOTELR_URL", raising=False)
    model, file = linear(), tmp_path / "mnist.rates"

    rates = fit(RemoteLR(run=key, state_file=file, **PLATEAU), model=model, epochs=5)
    rates += fit(RemoteLR(run=key, state_file=file, **PLATEAU), model=model, epochs=9, initial_epoch=5)
    rates += fit(RemoteLR(url, key, state_file=file, **PLATEAU), model=model, initial_epoch=9)

    assert rates == undisturbed(key)
    assert [epoch for epoch, *_ in history(url, key)] == list(range(EPOCHS))


def test_another_policy_for_a_state_file_is_refused_before_the_first_epoch(monkeypatch, key, tmp_path):
    monkeypatch.delenv("REMOTELR_URL", raising=False)
    fit(RemoteLR(run=key, state_file=tmp_path / "rates", **PLATEAU), epochs=2)

    with pytest.raises(PolicyConflict, match="on_conflict"):
        fit(RemoteLR(run=key, state_file=tmp_path / "rates", patience=3), epochs=4)


def test_the_mode_local_sends_no_request(monkeypatch, key):
    monkeypatch.setenv("REMOTELR_MODE", "local")

    assert fit(RemoteLR(NOWHERE, key, **PLATEAU)) == undisturbed(key)


def test_a_disabled_callback_leaves_training_as_it_is(monkeypatch, key):
    monkeypatch.setenv("REMOTELR_MODE", "disabled")
    x, y = data()
    schedule = keras.optimizers.schedules.CosineDecay(0.1, 16)

    trained = linear(keras.optimizers.SGD(schedule)).fit(
        x, y, batch_size=BATCH, epochs=2, verbose=0, callbacks=[RemoteLR(NOWHERE, key)]
    )

    assert len(trained.history["loss"]) == 2
    assert "learning_rate" not in trained.history


def test_an_unknown_mode_is_rejected(monkeypatch):
    monkeypatch.setenv("REMOTELR_MODE", "offline")

    with pytest.raises(ValueError, match="online, local, disabled, got 'offline'"):
        RemoteLR(NOWHERE, "a")


def test_a_fit_that_must_not_go_on_alone_ends_with_the_reason(key):
    with pytest.raises(ServiceUnreachable):
        fit(RemoteLR(NOWHERE, key, on_unreachable="raise", timeout_s=0.2, **PLATEAU))


def test_a_fit_that_raised_gives_its_file_to_the_next_one(url, key):
    def fail():
        raise RuntimeError("as training does")

    remote = RemoteLR(url, key, **PLATEAU)
    with pytest.raises(RuntimeError, match="as training does"):
        fit(Before(2, fail), remote)

    assert fit(remote, initial_epoch=2) == undisturbed(key)[2:]


@QUIET
def test_a_file_that_cannot_be_used_is_a_warning_and_no_more(mortal_service, key, tmp_path):
    (tmp_path / "spools").touch()
    remote = RemoteLR(mortal_service.url, key, timeout_s=HURRIED_S, spool_dir=tmp_path / "spools", **PLATEAU)

    assert fit(Outage(mortal_service, remote, started=6), remote) == undisturbed(key)


def test_url_and_run_the_other_way_round_are_named():
    with pytest.raises(ValueError, match="url and run are the other way round: use url='http://a:8000', run='my-run'"):
        RemoteLR("my-run", "http://a:8000")
    with pytest.raises(ValueError, match="run must be the run's key, got the address 'http://a:8000'"):
        RemoteLR(run="http://a:8000")


@pytest.mark.parametrize(
    ("policy", "remedy"),
    [("cosine", "give a document such as"), (lambda epoch: 0.1, r"pass a function as RemoteLR\.from_callbacks")],
)
def test_a_policy_of_another_type_is_named_with_the_remedy(policy, remedy):
    with pytest.raises(TypeError, match=f"policy must be a document, .*, got .*; {remedy}"):
        RemoteLR("http://127.0.0.1:8000", "a", policy)
