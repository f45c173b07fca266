"""Training without `fit`, and training over several devices."""

import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from remotelr import Client
from remotelr.keras import RemoteLR
from support.keras.training_jobs import BATCH, BATCHES, data, linear

TESTS = Path(__file__).parents[1]
SPREAD = TESTS / "support" / "keras" / "spread.py"
PLATEAU = {"factor": 0.5, "patience": 2, "min_delta": 10.0}


def test_a_loop_over_batches_may_drive_the_callback_by_hand(url, key):
    x, y = data()
    model, rates = linear(), []
    callbacks = keras.callbacks.CallbackList(
        [RemoteLR(url, key, monitor="loss", **PLATEAU)], model=model, epochs=6, steps=BATCHES
    )

    callbacks.on_train_begin()
    for epoch in range(6):
        callbacks.on_epoch_begin(epoch)
        for batch in range(BATCHES):
            callbacks.on_train_batch_begin(batch)
            rows = slice(batch * BATCH, (batch + 1) * BATCH)
            loss = model.train_on_batch(x[rows], y[rows])
            callbacks.on_train_batch_end(batch)
        rates.append(float(model.optimizer.learning_rate.value))
        callbacks.on_epoch_end(epoch, {"loss": float(loss)})
    callbacks.on_train_end()

    assert rates == [float(np.float32(rate)) for rate in (0.1, 0.1, 0.1, 0.05, 0.05, 0.025)]
    with Client(url) as client:
        assert client.get_run(key).view.status == "completed"


def test_a_loop_may_drive_the_callback_alone_without_the_parameters_of_a_fit(url, key):
    model, callback, rates = linear(), RemoteLR(url, key, monitor="loss", **PLATEAU), []
    callback.set_model(model)

    callback.on_train_begin()
    for epoch in range(5):
        callback.on_epoch_begin(epoch)
        rates.append(float(model.optimizer.learning_rate))
        callback.on_epoch_end(epoch, {"loss": 1.0})
    callback.on_train_end()

    assert rates == [float(np.float32(rate)) for rate in (0.1, 0.1, 0.1, 0.05, 0.05)]


def test_a_loop_over_batches_may_ask_the_client_itself(url, key):
    x, y = data()
    model, used = linear(), []
    with Client(url) as client:
        run = client.run(key, policy={"type": "reduce_on_plateau", "monitor": "loss", **PLATEAU},
                         initial_learning_rate=0.1)  # fmt: skip
        decision = run.begin(epoch=0)
        for epoch in range(6):
            model.optimizer.learning_rate = decision.learning_rate
            used.append(float(model.optimizer.learning_rate.value))
            loss = float(model.train_on_batch(x, y))
            decision = run.report(epoch, {"loss": loss}, learning_rate=used[-1])
            assert decision.drift is None
        run.finish()

    assert used == pytest.approx([0.1, 0.1, 0.1, 0.05, 0.05, 0.025])


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="keras.distribution is for JAX")
def test_a_model_spread_over_several_devices_makes_one_report_an_epoch(url, key):
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
    environment["PYTHONPATH"] = str(TESTS)

    ended = subprocess.run(
        [sys.executable, str(SPREAD), url, key],
        env=environment,
        check=False,
        capture_output=True,
        text=True,
        timeout=100,
    )

    assert ended.returncode == 0, ended.stderr
    seen = json.loads(ended.stdout.splitlines()[-1])
    assert seen["devices"] == 4
    assert seen["rates"] == pytest.approx([0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1], abs=1e-6)
    with Client(url) as client:
        run = client.get_run(key)
        assert [(row.epoch, row.rank) for row in run.history()] == [(0, 0), (1, 0)]
        assert run.view.spec["world_size"] == 1
