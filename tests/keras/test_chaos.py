"""A real fit behind a network that misbehaves: it ends, its rates are the oracle's, and nothing of it is left over.

`reliability/test_client_chaos.py` has every known fault, at a session; here some of them are met by Keras itself,
also while a thread listens for commands.
"""

import re
import threading
import time
from typing import Any

import keras
import numpy as np
import psutil
import pytest

from faults import hostile, oracle, proxy
from faults.proxy import Proxy
from remotelr import Client
from remotelr.errors import RemoteLRWarning
from remotelr.keras import RemoteLR
from support.keras.outage import HURRIED_S, PATIENT_S, Outage
from support.keras.training_jobs import BATCH, Losses, data, linear, ours

EPOCHS, TROUBLE, HEALED = 12, 3, 8
LOSSES = oracle.losses(seed=11, count=EPOCHS)
# What a busy machine may add to a boundary, and how far that is from waiting for ever.
SLACK_S, FAR_S = 5.0, 20.0


def rates() -> list[float]:
    """The oracle's, for the rate that the optimizer began with."""
    plateau = oracle.Plateau(rate=float(np.float32(oracle.INITIAL)))
    return [plateau.rate, *(plateau.report(loss) for loss in LOSSES[:-1])]


class Network:
    """The way to the service, in the words of `Outage`."""

    def __init__(self, way: Proxy, behaviour: proxy.Behaviour | None) -> None:
        self._way, self._behaviour = way, behaviour

    def kill(self) -> None:
        if self._behaviour is None:
            self._way.shut()
        else:
            self._way.turn(self._behaviour)

    def start(self) -> None:
        if self._behaviour is None:
            self._way.open()
        else:
            self._way.turn(proxy.plain)


class Timed(RemoteLR):
    """How long each boundary took between two epochs in trouble."""

    def __init__(self, *arguments, **settings) -> None:
        super().__init__(*arguments, **settings)
        self.took_s: list[float] = []

    def on_epoch_end(self, epoch, logs=None):
        began = time.monotonic()
        super().on_epoch_end(epoch, logs)
        if TROUBLE <= epoch < HEALED:
            self.took_s.append(time.monotonic() - began)


def await_nothing_of(way: Proxy) -> None:
    """No thread of the client, and no connection: what is given up takes a moment to be gone."""
    deadline = time.monotonic() + 30
    while left := [
        *(thread.name for thread in threading.enumerate() if thread.name in ("remotelr-call", "remotelr-live")),
        *(each for each in psutil.Process().net_connections() if is_open(each, to=way.address[1])),
    ]:
        assert time.monotonic() < deadline, left
        time.sleep(0.02)


def is_open(connection: Any, to: int) -> bool:
    return bool(connection.raddr) and connection.raddr.port == to and connection.status == psutil.CONN_ESTABLISHED


TROUBLES: dict[str, tuple[proxy.Behaviour | None, bool]] = {
    "refused": (None, False),
    "black hole": (proxy.blackhole, False),
    "answers lost": (proxy.reset_after_request, False),
    "one byte at a time": (proxy.Drip(HURRIED_S / 4), False),
    "black hole, live": (proxy.blackhole, True),
    "answers lost, live": (proxy.reset_after_request, True),
    "half closed, live": (proxy.half_close, True),
    "a rate that is none, live": (hostile.Forged({"learning_rate": "NaN"}), True),
}


@pytest.mark.parametrize(("behaviour", "live"), TROUBLES.values(), ids=TROUBLES.keys())
def test_a_fit_in_trouble_ends_with_the_rates_it_would_have_had(shared_service, key, capfd, behaviour, live):
    way = Proxy(("127.0.0.1", int(shared_service.url.rpartition(":")[2])))
    remote = Timed(way.url, key, oracle.POLICY, timeout_s=PATIENT_S, live=live)
    outage = Outage(Network(way, behaviour), remote, killed=TROUBLE, started=HEALED)
    x, y = data()

    with pytest.warns(RemoteLRWarning) as warned:
        trained = linear(keras.optimizers.SGD(oracle.INITIAL)).fit(
            x, y, batch_size=BATCH, epochs=EPOCHS, verbose=0, callbacks=[Losses(LOSSES), outage, remote]
        )
    await_nothing_of(way)
    way.close()

    assert trained.history["learning_rate"] == [float(np.float32(rate)) for rate in rates()]
    with Client(shared_service.url) as client:
        run = client.get_run(key)
        stored = [(row.epoch, row.metrics["val_loss"], row.learning_rate) for row in run.history()]
    assert stored == [(epoch, LOSSES[epoch], rates()[epoch]) for epoch in range(EPOCHS)]
    assert run.view.status == "completed"
    assert sorted(remote.took_s)[len(remote.took_s) // 2] <= HURRIED_S + SLACK_S
    assert max(remote.took_s) <= HURRIED_S + FAR_S
    assert ["Training goes on by the same rules here." in message for message in ours(warned)] == [True]
    printed = "".join(capfd.readouterr())
    lines = re.findall(r"^RemoteLR: .*", printed, re.MULTILINE)
    assert lines[1:-1] == [f"RemoteLR: {way.url} answers again."]
    assert "Traceback" not in printed
