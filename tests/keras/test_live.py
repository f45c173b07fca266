"""`live=True`: what an operator orders holds at the next batch, and training pays nothing for it."""

import threading
import time
import timeit

import keras
import numpy as np
import pytest

from remotelr import Client
from remotelr.errors import RemoteLRWarning
from remotelr.keras import RemoteLR
from support.keras.outage import PATIENT_S, Outage
from support.keras.training_jobs import BATCH, Losses, StepsTaken, data, linear, ones, ours, unit_gradient

STEADY = {"type": "constant", "initial_learning_rate": 0.5}
BATCHES = 40


class At(keras.callbacks.Callback):
    """Orders something after a batch of the first epoch, and waits until `remote` has received so many orders."""

    def __init__(self, batch, order, remote=None, orders=1):
        super().__init__()
        self._batch, self._order, self._remote, self._orders = batch, order, remote, orders
        self._epoch = 0

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if (self._epoch, batch) == (0, self._batch):
            self._order()
            deadline = time.monotonic() + 60
            while self._remote is not None and len(self._remote._session._listener._commands) < self._orders:
                assert time.monotonic() < deadline, "the orders were never received"
                time.sleep(0.01)


def fit(*callbacks, epochs=2):
    model = unit_gradient(keras.optimizers.SGD(0.1))
    x, y = ones(BATCH * BATCHES)
    return model.fit(x, y, batch_size=BATCH, epochs=epochs, shuffle=False, verbose=0, callbacks=list(callbacks)).history


def listeners():
    """Those that do not end by themselves in a moment."""
    found = [thread for thread in threading.enumerate() if thread.name == "remotelr-live"]
    for thread in found:
        thread.join(30)
    return [thread for thread in found if thread.is_alive()]


def test_a_live_rate_is_effective_from_the_next_batch_on(url, key):
    steps, remote = StepsTaken(), RemoteLR(url, key, STEADY, live=True)
    with Client(url) as client:
        order = At(9, lambda: client.get_run(key).set_learning_rate(0.25), remote)

        history = fit(remote, order, steps)

        stored = list(client.get_run(key).history())
    assert steps.rates == pytest.approx([0.5] * 10 + [0.25] * (2 * BATCHES - 10), abs=1e-4)
    assert history["learning_rate"] == [0.25, 0.25]
    assert [(row.learning_rate, row.used_learning_rate) for row in stored] == [(0.5, 0.25), (0.25, 0.25)]
    assert listeners() == []


def test_the_log_distinguishes_live_commands_from_drift(url, key, shared_service):
    remote = RemoteLR(url, key, STEADY, live=True)
    with Client(url) as client:
        fit(remote, At(9, lambda: client.get_run(key).scale(0.5), remote))

    events = shared_service.http.get(f"/v1/runs/{key}/events?kind=report").json()["events"]
    assert [event["notes"] for event in events] == [{"live": 0.5}, {}]


def test_a_live_factor_scales_the_remaining_steps_of_the_epoch(url, key):
    falling = {"type": "linear", "initial_learning_rate": 0.8, "end_learning_rate": 0.0, "decay_steps": 2 * BATCHES}
    steps, remote = StepsTaken(), RemoteLR(url, key, {"schedule": falling, "unit": "step"}, live=True)
    with Client(url) as client:
        order = At(9, lambda: client.get_run(key).scale(0.5), remote)
        fit(remote, order, steps)

    curve = [0.8 * (1 - step / (2 * BATCHES)) for step in range(2 * BATCHES)]
    assert steps.rates == pytest.approx(curve[:10] + [rate / 2 for rate in curve[10:]], abs=1e-4)


def test_a_live_stop_ends_the_fit_at_the_next_batch(url, key, capsys):
    steps, remote = StepsTaken(), RemoteLR(url, key, STEADY, live=True)
    with Client(url) as client:
        fit(remote, At(9, lambda: client.get_run(key).stop(), remote), steps, epochs=5)
        status = client.get_run(key).view.status

    assert len(steps.rates) == 11
    assert status == "stopped"
    assert "Epoch 1: RemoteLR stops training: the run received the command stop." in capsys.readouterr().out


def test_a_live_release_is_applied(url, key):
    steps, remote = StepsTaken(), RemoteLR(url, key, STEADY, live=True)
    with Client(url) as client:

        def order():
            run = client.get_run(key)
            run.set_learning_rate(0.25)
            run.release()

        fit(remote, At(9, order, remote, orders=2), steps, epochs=1)

    assert steps.rates == pytest.approx([0.5] * BATCHES, abs=1e-4)


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        # One epoch is what the service says, which begins with the next; live, the rest of this one is added.
        (lambda run: run.set_learning_rate(0.25, mode="one_shot"), [0.25, 0.25, 0.5]),
        (lambda run: run.set_learning_rate(0.25, mode="rebase"), [0.25, 0.25, 0.25]),
        (lambda run: run.set_learning_rate(0.25, until_epoch=2), [0.25, 0.25, 0.5]),
        # Where the schedule stands is known from the next epoch on.
        (lambda run: run.pause(), [0.5, 0.5, 0.5]),
        (lambda run: run.note("a remark"), [0.5, 0.5, 0.5]),
        (lambda run: run.replace_policy({"type": "constant", "learning_rate": 0.25}), [0.5, 0.25, 0.25]),
    ],
    ids=["one shot", "rebase", "until", "pause", "note", "policy"],
)
def test_other_live_commands_have_the_same_effect_from_the_next_epoch_on(url, key, order, expected):
    steps, remote = StepsTaken(), RemoteLR(url, key, STEADY, live=True)
    with Client(url) as client:
        fit(remote, At(9, lambda: order(client.get_run(key)), None if expected[0] == 0.5 else remote), steps, epochs=3)

    curve = [0.5] * 10 + [
        rate for number, rate in enumerate(expected) for _ in range(BATCHES - (10 if number == 0 else 0))
    ]
    assert steps.rates == pytest.approx(curve, abs=1e-4)


def test_without_live_a_command_waits_for_the_next_epoch(url, key):
    steps, seen = StepsTaken(), []
    with Client(url) as client:

        def order():
            seen.extend(listeners())
            client.get_run(key).set_learning_rate(0.25)

        fit(RemoteLR(url, key, STEADY), At(9, order), steps)

    assert seen == []
    assert steps.rates == pytest.approx([0.5] * BATCHES + [0.25] * BATCHES, abs=1e-4)


def test_a_service_that_dies_while_it_is_listened_to_costs_nothing_more(mortal_service, key):
    mortal_service.start()
    remote = RemoteLR(mortal_service.url, key, STEADY, live=True, timeout_s=PATIENT_S)
    outage = Outage(mortal_service, remote)

    with pytest.warns(RemoteLRWarning) as warned:
        history = fit(outage, remote, At(9, outage.kill), epochs=3)

    assert ["Training goes on", "did not reach the service"] == [
        next(words for words in ("Training goes on", "did not reach the service") if words in message)
        for message in ours(warned)
    ]
    assert history["learning_rate"] == [0.5, 0.5, 0.5]
    assert listeners() == []


def test_ranks_cannot_be_live(key):
    with pytest.raises(ValueError, match="live=True needs world_size=1"):
        RemoteLR("http://127.0.0.1:9", key, world_size=2, attempt_key="a", live=True)


def test_listening_for_commands_adds_less_than_50_us_to_a_batch():
    """A batch costs the read of an empty queue, not a request. The fastest of many reads counts: a machine is busy."""
    from remotelr._http.transport import HttpTransport
    from remotelr._session.listener import Listener

    listener = Listener(HttpTransport("http://127.0.0.1:9"), "a")
    durations = timeit.repeat(listener.take, number=100, repeat=100)

    assert min(durations) / 100 < 50e-6


def test_another_callback_that_sets_the_rate_is_warned_of_once(url, key):
    class Meddler(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            self.model.optimizer.learning_rate = 0.05

    x, y = data()
    with pytest.warns(RemoteLRWarning, match="something else sets the optimizer's rate") as warned:
        history = (
            linear()
            .fit(x, y, epochs=4, verbose=0, callbacks=[Losses([1.0] * 4), Meddler(), RemoteLR(url, key, STEADY)])
            .history
        )

    assert len(ours(warned)) == 1
    assert history["learning_rate"] == [float(np.float32(0.05))] * 4
