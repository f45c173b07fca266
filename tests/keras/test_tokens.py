"""A fit at a service that requires a token."""

import keras
import pytest

from remotelr import Client, ServiceRefused
from remotelr.errors import RemoteLRWarning
from remotelr.keras import RemoteLR
from support.fixtures.service import serving
from support.keras.training_jobs import BATCH, BATCHES, StepsTaken, data, linear, ones, ours, unit_gradient

ADMIN = "a0B1c2D3e4F5g6H7i8J9k0L1m2N3o4P5"
HALVING = {"type": "step", "step_size": 1, "gamma": 0.5, "initial_learning_rate": 0.8}


@pytest.fixture(scope="module")
def guarded(sqlite_template, tmp_path_factory):
    """A service that asks for tokens, and a client that may make them."""
    file = tmp_path_factory.mktemp("guarded") / "remotelr.db"
    file.write_bytes(sqlite_template.read_bytes())
    with serving(f"sqlite:///{file}", auth="on", admin_token=ADMIN) as service:
        service.http.headers["authorization"] = f"Bearer {ADMIN}"
        yield service


def token(guarded, run: str) -> tuple[int, str]:
    """The number of a token for the trainer of that run, and the token."""
    made = guarded.http.post("/v1/tokens", json={"name": run[:60], "scope": "report", "run": run}).raise_for_status()
    return made.json()["id"], made.json()["token"]


class Ordered(keras.callbacks.Callback):
    """Does something after the second batch of the first epoch, and waits until `remote` has received an order."""

    def __init__(self, act, remote=None):
        super().__init__()
        self._act, self._remote, self._done = act, remote, False

    def on_train_batch_end(self, batch, logs=None):
        if batch != 1 or self._done:
            return
        self._done = True
        self._act()
        while self._remote is not None and not self._remote._session._listener._commands:
            self._remote._session._listener._closed.wait(0.01)


def test_a_trainer_with_a_token_for_its_run_reports_and_receives_commands(guarded, key, monkeypatch):
    monkeypatch.setenv("REMOTELR_TOKEN", token(guarded, key)[1])
    steps, remote, (x, y) = StepsTaken(), RemoteLR(guarded.url, key, HALVING, live=True), ones()
    with Client(guarded.url, token=ADMIN) as operator:
        order = Ordered(lambda: operator.get_run(key).set_learning_rate(0.25), remote)
        unit_gradient(keras.optimizers.SGD(0.1)).fit(
            x, y, batch_size=BATCH, epochs=2, shuffle=False, verbose=0, callbacks=[remote, order, steps]
        )
        run = operator.get_run(key)

    assert steps.rates == pytest.approx([0.8] * 2 + [0.25] * (2 * BATCHES - 2), abs=1e-4)
    assert run.view.status == "completed"


@pytest.mark.parametrize("wrong", [None, "rlr_neverissuedbyanyservice00000000000000"], ids=["none", "unknown"])
def test_an_unauthorized_trainer_fails_before_the_first_epoch(guarded, key, wrong):
    remote = RemoteLR(guarded.url, key, HALVING, token=wrong)

    with pytest.raises(ServiceRefused) as refused:
        linear().fit(*data(), epochs=1, verbose=0, callbacks=[remote])

    assert refused.value.status == 401
    assert "neverissued" not in str(refused.value) + repr(vars(remote))


def test_a_token_that_is_revoked_while_a_fit_runs_is_one_warning_and_the_same_rates(guarded, key):
    number, secret = token(guarded, key)
    revoked = Ordered(lambda: guarded.http.delete(f"/v1/tokens/{number}").raise_for_status())
    x, y = data()

    with pytest.warns(RemoteLRWarning) as warned:
        trained = linear().fit(
            x,
            y,
            batch_size=BATCH,
            epochs=4,
            verbose=0,
            callbacks=[RemoteLR(guarded.url, key, HALVING, token=secret), revoked],
        )

    assert trained.history["learning_rate"] == pytest.approx([0.8, 0.4, 0.2, 0.1])
    refused, left = ours(warned)
    assert "Training goes on by the same rules here" in refused
    assert "4 reports" in left
    assert secret not in refused + left
