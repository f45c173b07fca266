"""What a `fit` does when the service is away, refuses, or tells it to stop. It always finishes."""

import re
import time
import warnings

import keras
import numpy as np
import pytest

from remotelr import Client, ServiceRefused
from remotelr.errors import RemoteLRWarning
from remotelr.keras import RemoteLR
from remotelr.rules import InvalidPolicy
from support.keras.outage import HURRIED_S, PATIENT_S, Outage
from support.keras.training_jobs import BATCH, Before, Losses, data, linear, ours

HALVING = {"type": "step", "step_size": 1, "gamma": 0.5, "initial_learning_rate": 0.8}
NOWHERE = "http://127.0.0.1:9"


def fit(model, *callbacks, epochs=6, **arguments):
    x, y = data()
    return model.fit(x, y, epochs=epochs, callbacks=list(callbacks), batch_size=BATCH, verbose=0, **arguments).history


def float32(*rates):
    return [float(np.float32(rate)) for rate in rates]


def test_a_service_that_never_was_there_costs_two_warnings_and_its_budget(key):
    began = time.monotonic()

    with pytest.warns(RemoteLRWarning) as warned:
        history = fit(linear(), RemoteLR(NOWHERE, key, HALVING, timeout_s=0.3), epochs=4)

    first, last = ours(warned)
    assert "Training goes on by the same rules here" in first
    assert f"4 reports of run {key!r} did not reach the service: they are in " in last
    assert history["learning_rate"] == float32(0.8, 0.4, 0.2, 0.1)
    # Three boundaries between epochs until the service counts as away; the rest is a machine that is busy.
    assert time.monotonic() - began < 3 * 0.3 + 30


def test_hold_keeps_the_last_rate_when_the_service_dies(mortal_service, key):
    mortal_service.start()
    remote = RemoteLR(mortal_service.url, key, HALVING, timeout_s=PATIENT_S, on_unreachable="hold")

    with pytest.warns(RemoteLRWarning) as warned:
        history = fit(linear(), Outage(mortal_service, remote, killed=2), remote, epochs=6)

    assert "Training goes on with the last learning rate" in ours(warned)[0]
    assert history["learning_rate"] == float32(0.8, 0.4, 0.2, 0.2, 0.2, 0.2)


def test_after_holding_the_decisions_of_a_restarted_service_count(mortal_service, key, capsys):
    mortal_service.start()
    remote = RemoteLR(mortal_service.url, key, HALVING, timeout_s=PATIENT_S, on_unreachable="hold")

    with pytest.warns(RemoteLRWarning) as warned:
        history = fit(linear(), Outage(mortal_service, remote, killed=2, started=4), remote, epochs=7)

    assert len(ours(warned)) == 1
    # With the reports of the outage, the service decides as if it had been there.
    assert history["learning_rate"] == float32(0.8, 0.4, 0.2, 0.2, 0.2, 0.025, 0.0125)
    assert capsys.readouterr().out.splitlines()[1:-1] == [f"RemoteLR: {mortal_service.url} answers again."]


def test_a_service_that_comes_up_during_training_gets_the_run_then(mortal_service, key, capsys):
    remote = RemoteLR(mortal_service.url, key, HALVING, timeout_s=HURRIED_S)

    with pytest.warns(RemoteLRWarning) as warned:
        history = fit(linear(), Outage(mortal_service, remote, started=2), remote)

    assert len(ours(warned)) == 1
    assert history["learning_rate"] == float32(0.8, 0.4, 0.2, 0.1, 0.05, 0.025)
    assert "answers again" in capsys.readouterr().out


def test_an_older_process_of_the_same_run_stops(url, key, capsys, tmp_path):
    """A zombie: the scheduler took it for dead and started another one, elsewhere."""

    def another():
        fit(linear(), RemoteLR(url, key, HALVING, spool_dir=tmp_path), epochs=3, initial_epoch=2)

    history = fit(linear(), RemoteLR(url, key, HALVING), Before(3, another), epochs=10)

    assert history["learning_rate"] == float32(0.8, 0.4, 0.2, 0.1)
    assert "Epoch 4: RemoteLR stops training: a newer attempt has taken the run over." in capsys.readouterr().out
    with Client(url) as client:
        assert client.get_run(key).view.attempt == 2


def test_a_stop_ends_the_fit_after_its_epoch(url, key, capsys):
    with Client(url) as client:

        def order():
            client.get_run(key).stop(reason="too hot")

        history = fit(linear(), RemoteLR(url, key, HALVING), Before(2, order), epochs=10)
        status = client.get_run(key).view.status

    assert len(history["loss"]) == 3
    assert status == "stopped"
    assert "Epoch 3: RemoteLR stops training: the run received the command stop." in capsys.readouterr().out


def test_an_operators_rate_is_used_from_the_next_epoch_on(url, key):
    with Client(url) as client:

        def order():
            client.get_run(key).set_learning_rate(0.033)

        history = fit(linear(), RemoteLR(url, key, HALVING), Before(1, order), epochs=5)

    assert history["learning_rate"] == float32(0.8, 0.4, 0.033, 0.033, 0.033)


def test_another_policy_for_the_same_run_is_refused_before_the_first_epoch(url, key):
    fit(linear(), RemoteLR(url, key, HALVING), epochs=2)

    with pytest.raises(ServiceRefused, match="on_conflict") as refused:
        fit(linear(), RemoteLR(url, key, {**HALVING, "gamma": 0.1}), epochs=4, initial_epoch=2)

    assert refused.value.code == "policy_conflict"


def test_another_policy_replaces_the_runs_with_on_conflict(url, key):
    fit(linear(), RemoteLR(url, key, HALVING), epochs=2)

    changed = RemoteLR(url, key, {**HALVING, "gamma": 0.1}, on_conflict="restart")
    history = fit(linear(), changed, epochs=4, initial_epoch=2)

    assert history["learning_rate"] == float32(0.008, 0.0008)


def test_a_policy_exchanged_while_a_fit_runs_gives_its_steps_too(url, key):
    falling = {"type": "linear", "initial_learning_rate": 0.8, "end_learning_rate": 0.0, "decay_steps": 16}
    with Client(url) as client:

        def exchange():
            policy = {"schedule": {**falling, "initial_learning_rate": 0.08}, "unit": "step"}
            client.run(key, policy=policy, on_conflict="replace", steps_per_epoch=4)

        remote = RemoteLR(url, key, {"schedule": falling, "unit": "step"})
        history = fit(linear(), remote, Before(1, exchange), epochs=3)

    # The rate of the last batch of each epoch, the third epoch under the new policy.
    assert history["learning_rate"] == pytest.approx([0.65, 0.45, 0.025], abs=1e-6)


def test_epochs_the_service_lost_are_left_out_with_a_warning(url, key):
    fit(linear(), RemoteLR(url, key, HALVING), epochs=2)

    with pytest.warns(RemoteLRWarning, match="has reports of the epochs just before"):
        history = fit(linear(), RemoteLR(url, key, HALVING), epochs=7, initial_epoch=5)

    assert history["learning_rate"] == float32(0.025, 0.0125)


def test_a_refused_report_is_one_warning_and_the_rate_of_the_local_rules(url, key):
    with Client(url) as client:

        def finish():
            client.get_run(key).finish("failed")

        with pytest.warns(RemoteLRWarning) as warned:
            history = fit(linear(), RemoteLR(url, key, HALVING), Before(2, finish), epochs=5)

    refused, left = ours(warned)
    assert "run_finished" in refused
    assert "3 reports" in left
    assert history["learning_rate"] == float32(0.8, 0.4, 0.2, 0.1, 0.05)


def test_what_is_printed_looks_like_keras(mortal_service, key, capsys):
    mortal_service.start()
    plateau = {"factor": 0.5, "patience": 2, "verbose": 1}
    fit(linear(), Losses([1.0] * 6), keras.callbacks.ReduceLROnPlateau(**plateau))
    expected = capsys.readouterr().out.replace("ReduceLROnPlateau", "RemoteLR")

    fit(linear(), Losses([1.0] * 6), RemoteLR(mortal_service.url, key, **plateau))

    printed = capsys.readouterr().out
    start = "\nEpoch 1: RemoteLR setting learning rate to 0.1.\n"
    first, *changes, last, end = printed.split("\n")
    assert f"run '{key}' on {mortal_service.url} begins epoch 1 with learning rate 0.1." in first
    assert _rates_rounded("\n".join([*changes, ""])) == _rates_rounded(start + expected)
    assert last == f"RemoteLR: run '{key}' is completed: 6 epochs, 2 reductions, best val_loss 1 in epoch 1."
    assert end == ""


def test_by_default_one_line_at_the_start_and_one_at_the_end_are_printed(mortal_service, key, capsys):
    mortal_service.start()

    fit(linear(), RemoteLR(mortal_service.url, key, HALVING))

    start, end = capsys.readouterr().out.splitlines()
    assert start == (
        f"RemoteLR: run '{key}' on {mortal_service.url} begins epoch 1 with learning rate 0.8. "
        f"Follow it with: remotelr runs watch {key}"
    )
    assert end == f"RemoteLR: run '{key}' is completed: 6 epochs, next learning rate 0.0125."


def test_metrics_with_names_the_service_does_not_take_are_left_out(url, key):
    class Odd(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            logs |= {"my metric": 1.0, "": 2.0, "confusion": [[1, 2]], "fine/one": 3.0}

    with warnings.catch_warnings():
        warnings.simplefilter("error", RemoteLRWarning)
        fit(linear(), Odd(), RemoteLR(url, key, HALVING), epochs=1)

    with Client(url) as client:
        assert {"loss", "fine/one"} == set(next(client.get_run(key).history()).metrics)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"factor": 1.5}, "factor"),
        ({"policy": {"type": "cosin"}}, 'did you mean "cosine"'),
        ({"monitor": "val_whatever"}, "mode"),
    ],
)
def test_an_invalid_policy_is_rejected_by_the_constructor(arguments, message):
    with pytest.raises(InvalidPolicy, match=message):
        RemoteLR(NOWHERE, "a", **arguments)


def test_an_invalid_run_key_is_rejected_by_the_constructor():
    with pytest.raises(ValueError, match=r"a run's key must be 1 to 200 letters.*, got 'my run/7'"):
        RemoteLR(NOWHERE, "my run/7")


def test_plateau_arguments_beside_a_policy_are_refused():
    with pytest.raises(ValueError, match="factor, patience belong to the default policy"):
        RemoteLR(NOWHERE, "a", HALVING, factor=0.5, patience=3)


def test_the_address_and_the_run_may_come_from_the_environment(monkeypatch):
    monkeypatch.setenv("REMOTELR_URL", NOWHERE)
    monkeypatch.setenv("REMOTELR_RUN", "mnist-7")

    callback = RemoteLR()

    assert (callback.url, callback.run) == (NOWHERE, "mnist-7")


def test_a_missing_address_of_a_training_that_must_have_one_says_how_to_give_it(monkeypatch):
    monkeypatch.delenv("REMOTELR_URL", raising=False)
    monkeypatch.setenv("REMOTELR_MODE", "online")

    with pytest.raises(ValueError, match="REMOTELR_URL"):
        RemoteLR(run="mnist-7")


def test_ranks_without_a_common_restart_id_need_an_attempt_key(monkeypatch):
    for variable in ("SLURM_JOB_ID", "TORCHELASTIC_RUN_ID"):
        monkeypatch.delenv(variable, raising=False)

    with pytest.raises(ValueError, match="attempt_key"):
        RemoteLR(NOWHERE, "a", world_size=2)


def test_ranks_on_several_nodes_need_an_attempt_key(monkeypatch):
    """torchrun counts restarts on each node by itself: two nodes would begin two attempts."""
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "job-42")
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    monkeypatch.setenv("GROUP_WORLD_SIZE", "2")

    with pytest.raises(ValueError, match="attempt_key"):
        RemoteLR(NOWHERE, "a", world_size=2)


def test_a_fit_without_a_foreseen_end_has_no_length(url, key):
    class Enough(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.stop_training = epoch == 1

    fit(linear(), RemoteLR(url, key, HALVING), Enough(), epochs=10**9)

    with Client(url) as client:
        assert client.get_run(key).view.spec["total_epochs"] is None


def test_a_model_without_an_optimizer_is_refused(key):
    remote = RemoteLR(NOWHERE, key)
    remote.set_model(keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)]))

    with pytest.raises(TypeError, match="no optimizer"):
        remote.on_train_begin()


def _rates_rounded(printed: str) -> list[str]:
    """The lines with their rates as float32: Keras prints the float64 before the optimizer rounds it."""
    return [re.sub(r"to (\S+)\.$", lambda found: f"to {np.float32(found[1])}", line) for line in printed.splitlines()]


def test_a_warning_points_at_the_users_line(key):
    with pytest.warns(RemoteLRWarning) as warned:
        fit(linear(), RemoteLR("http://127.0.0.1:9", key, HALVING, timeout_s=0.2), epochs=1)

    assert {each.filename for each in warned if issubclass(each.category, RemoteLRWarning)} == {__file__}


@pytest.mark.parametrize("first", [True, False])
def test_a_plateau_beside_remotelr_is_warned_of_wherever_it_is_listed(url, key, first):
    other = keras.callbacks.ReduceLROnPlateau(patience=1)
    remote = RemoteLR(url, key, HALVING)
    callbacks = [other, remote] if first else [remote, other]

    with pytest.warns(RemoteLRWarning) as warned:
        fit(linear(), Losses([1.0] * 6), *callbacks)

    (message,) = ours(warned)
    assert "something else set" in message


def test_a_run_without_a_key_gets_a_readable_one_that_is_printed(url, capsys):
    remote = RemoteLR(url, policy=HALVING)

    fit(linear(), remote, epochs=1)

    assert re.fullmatch(r"[A-Za-z0-9._-]+-\d{8}-\d{6}-[0-9a-f]{4}", remote.run)
    assert f"run '{remote.run}' on {url} begins epoch 1" in capsys.readouterr().out


def test_a_run_that_is_fitted_again_for_more_epochs_is_as_long_as_the_later_fit(url, key):
    fit(linear(), RemoteLR(url, key, HALVING), epochs=2)
    with Client(url) as client:
        first = client.get_run(key).view.spec["total_epochs"]
        fit(linear(), RemoteLR(url, key, HALVING), initial_epoch=2, epochs=4)
        run = client.get_run(key).view

    assert (2, 4, 4) == (first, run.spec["total_epochs"], run.decision.epoch)
