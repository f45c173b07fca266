"""A training loop of the user's own: what it gets from `remotelr.training`, without a socket."""

import contextlib
import math

import pytest

import remotelr
from remotelr import ServiceRefused, ServiceUnreachable
from remotelr.errors import RemoteLRWarning
from remotelr.rules import Command, PolicyConflict
from remotelr.testing import InMemoryService

QUIET = pytest.mark.filterwarnings("ignore::remotelr.errors.RemoteLRWarning")
HALVING = {"type": "exponential", "decay_steps": 1, "decay_rate": 0.5}
PLATEAU = {"type": "reduce_on_plateau", "factor": 0.5, "patience": 1, "flavor": "torch"}
PER_STEP = {"unit": "step", "schedule": {"type": "linear", "end_learning_rate": 0.0, "decay_steps": 12}}
GUARD = {"monitor": "val_loss", "action": "rollback", "rollback_to": "last"}
LOSSES = [0.9, 0.8, 0.85, 0.85, 0.7, 0.75, 0.75, 0.75]


@pytest.fixture(autouse=True)
def spools(tmp_path, monkeypatch):
    """A folder of the test's own: an abandoned loop keeps its file."""
    monkeypatch.setenv("REMOTELR_SPOOL_DIR", str(tmp_path / "spools"))
    return tmp_path / "spools"


def loop(service, run="job", policy=PLATEAU, **settings):
    arguments = {"initial_learning_rate": 0.1, "total_epochs": len(LOSSES), "transport": service}
    return remotelr.training(
        service.url, run, policy=policy, **{**arguments, "timeout_s": 1.0, "verbose": False, **settings}
    )


def trained(training, first=0, until=None, losses=LOSSES):
    """The rates of the epochs before `until`, each with its loss."""
    rates = {}
    for epoch in training.epochs(first):
        if epoch == until:
            break
        rates[epoch] = training.learning_rate()
        training.report(val_loss=losses[epoch])
    return rates


def whole():
    with loop(InMemoryService()) as training:
        return trained(training)


def reports(service, run="job"):
    return [event for event in service.events(run) if event.kind == "report" and event.superseded_by is None]


def status(service):
    ends = [event.payload["status"] for event in service.events("job") if event.kind == "finished"]
    return ends[-1] if ends else "running"


def test_a_policy_of_steps_gives_each_step_its_rate():
    service = InMemoryService()
    with loop(service, policy=PER_STEP, steps_per_epoch=4, total_epochs=3) as training:
        rates = []
        for _ in training.epochs():
            rates += [training.learning_rate(step) for step in range(4)]
            training.report(loss=1.0)

    assert rates == pytest.approx([0.1 * (1 - step / 12) for step in range(12)])
    assert [event.payload["step"] for event in reports(service)] == [4, 8, 12]
    assert len(service.requests) == 1 + 1 + 3 + 1


def test_epochs_of_different_lengths_move_the_curve_by_their_own_steps():
    service = InMemoryService()
    with loop(service, policy=PER_STEP, total_epochs=3) as training:
        first = []
        for epoch in training.epochs():
            first.append(training.learning_rate())
            training.report(loss=1.0, steps=epoch + 1)

    assert first == pytest.approx([0.1 * (1 - step / 12) for step in (0, 1, 3)])


def test_a_resumed_loop_takes_its_steps_from_the_run():
    service = InMemoryService()
    with contextlib.suppress(KeyboardInterrupt), loop(service, policy=PER_STEP, total_epochs=3) as training:
        for epoch in training.epochs():
            if epoch == 2:
                raise KeyboardInterrupt
            training.report(loss=1.0, steps=epoch + 1)
    with loop(service, policy=PER_STEP, total_epochs=3) as training:
        for _ in training.epochs(first=2):
            training.report(loss=1.0, steps=3)

    assert [event.payload["step"] for event in reports(service)] == [1, 3, 6]


def test_a_policy_of_steps_needs_their_number():
    with loop(InMemoryService(), policy=PER_STEP, total_epochs=3) as training:
        for _ in training.epochs():
            with pytest.raises(ValueError, match=r"counts optimizer steps: give report\(steps=\.\.\.\)"):
                training.report(loss=1.0)
            training.report(loss=1.0, steps=4)


def test_the_rate_of_the_first_step_is_the_reported_one_whatever_is_read_first():
    service = InMemoryService()
    with loop(service, policy=PER_STEP, steps_per_epoch=4, total_epochs=1) as training:
        for _ in training.epochs():
            training.learning_rate(3)
            training.learning_rate(0)
            training.report(loss=1.0)

    (report,) = reports(service)
    assert report.payload["learning_rate"] == 0.1


def test_a_stop_of_the_operator_ends_the_epochs_and_the_run_is_stopped(capsys):
    service = InMemoryService()
    with loop(service, verbose=True) as training:
        for epoch in training.epochs():
            if epoch == 2:
                service.command("job", Command(type="stop"))
            training.report(val_loss=LOSSES[epoch])

    assert (epoch, training.stopped, status(service)) == (2, True, "stopped")
    assert "training ends before epoch 3: the run received the command stop." in capsys.readouterr().out


def test_a_stop_rule_of_the_policy_ends_the_epochs():
    service = InMemoryService()
    policy = {"schedule": HALVING, "stop": {"target": {"monitor": "val_loss", "value": 0.8}}}
    with loop(service, policy=policy) as training:
        assert len(trained(training)) == 2
        assert (training.stopped, training.stop_reason) == (True, "the target of its policy is reached")


def test_a_guard_that_rolls_back_loads_the_checkpoint_of_the_epoch_it_names():
    loaded = []
    with loop(InMemoryService(), policy={"schedule": HALVING, "guard": GUARD}, checkpoint=loaded.append) as training:
        trained(training, losses=[*LOSSES[:3], math.nan, *LOSSES[4:]])

    assert loaded == [2]


def test_a_checkpoint_that_cannot_be_loaded_is_a_warning():
    def load(epoch):
        raise FileNotFoundError(f"{epoch}.npz")

    warned = pytest.warns(RemoteLRWarning, match="end of epoch 3 was not loaded for a rollback: FileNotFoundError: 2")
    with warned, loop(InMemoryService(), policy={"schedule": HALVING, "guard": GUARD}, checkpoint=load) as training:
        trained(training, losses=[*LOSSES[:3], math.nan, *LOSSES[4:]])


def test_an_epoch_that_is_not_reported_is_an_error():
    unreported = pytest.raises(ValueError, match=r"epoch 1 was not reported: call training\.report")
    with unreported, loop(InMemoryService()) as training:
        for epoch in training.epochs():
            if epoch == 0:
                training.report(val_loss=0.5)


def test_an_epoch_that_is_reported_twice_is_an_error_and_counts_once():
    service = InMemoryService()
    with loop(service, total_epochs=2) as training:
        for _ in training.epochs():
            training.report(val_loss=0.5)
            with pytest.raises(ValueError, match="was reported already"):
                training.report(val_loss=0.4)

    assert [event.payload["metrics"] for event in reports(service)] == [{"val_loss": 0.5}] * 2


def test_outside_of_the_context_and_of_the_epochs_the_calls_name_the_right_use():
    training = loop(InMemoryService())
    with pytest.raises(ValueError, match=r"not open: use `with remotelr\.training"):
        next(training.epochs())
    with training:
        with pytest.raises(ValueError, match=r"use `for epoch in training\.epochs\(\):`"):
            training.learning_rate()
        assert len(trained(training)) == len(LOSSES)
        with pytest.raises(ValueError, match="begun already"):
            next(training.epochs())


def test_an_exception_leaves_the_run_open_for_the_next_process():
    service = InMemoryService()
    with contextlib.suppress(ZeroDivisionError), loop(service) as training:
        for epoch in training.epochs():
            training.report(val_loss=1 / (2 - epoch))

    assert status(service) == "running"
    with loop(service) as training:
        trained(training, first=2)
    assert status(service) == "completed"


def test_a_finished_run_that_begins_again_is_warned_of():
    service = InMemoryService()
    with loop(service) as training:
        trained(training)

    with loop(service) as training, pytest.warns(RemoteLRWarning, match="completed"):
        trained(training)


def test_another_policy_is_refused_when_the_context_is_entered():
    service = InMemoryService()
    with loop(service) as training:
        trained(training)

    with pytest.raises(ServiceRefused, match="another policy"), loop(service, policy=HALVING):
        pass


def test_a_newer_attempt_ends_the_epochs_of_the_older_one(tmp_path):
    service = InMemoryService()
    with loop(service, spool_dir=tmp_path / "another-machine") as newer:
        begun = newer.epochs(first=3)
        with loop(service) as older:
            for epoch in older.epochs():
                if epoch == 3:
                    next(begun)
                older.report(val_loss=LOSSES[epoch])
        assert (epoch, older.stopped, older.stop_reason) == (3, True, "a newer attempt has taken the run over")
        newer.report(val_loss=LOSSES[3])
        for epoch in begun:
            newer.report(val_loss=LOSSES[epoch])

    assert service.learning_rates("job")[: len(LOSSES)] == list(whole().values())
    assert status(service) == "completed"


@QUIET
def test_without_the_service_the_same_rules_decide_and_it_receives_everything_later():
    service = InMemoryService()
    service.away = True
    with loop(service) as training:
        rates = {}
        for epoch in training.epochs():
            service.away = epoch not in (6, 7)
            rates[epoch] = training.learning_rate()
            training.report(val_loss=LOSSES[epoch])

    assert rates == whole()
    assert len(set(rates.values())) == 3
    assert [event.payload["metrics"]["val_loss"] for event in reports(service)] == LOSSES


@QUIET
def test_holding_keeps_the_last_rate_that_was_used_while_the_service_is_away():
    service = InMemoryService()
    with loop(service, policy=PER_STEP, steps_per_epoch=4, total_epochs=3, on_unreachable="hold") as training:
        rates = []
        for epoch in training.epochs():
            rates.append([training.learning_rate(step) for step in range(4)])
            service.away = epoch == 0
            training.report(loss=1.0)

    assert rates[1] == [rates[0][-1]] * 4
    assert rates[2] == pytest.approx([0.1 * (1 - step / 12) for step in range(8, 12)])
    assert len(reports(service)) == 3


def test_raising_ends_the_loop_and_the_report_is_kept_for_the_next_process(tmp_path):
    service = InMemoryService()
    unreachable = pytest.raises(ServiceUnreachable)
    with unreachable, loop(service, on_unreachable="raise", spool_dir=tmp_path) as training:
        for epoch in training.epochs():
            service.away = epoch == 2
            training.report(val_loss=LOSSES[epoch])

    service.away = False
    with loop(service, spool_dir=tmp_path) as training:
        trained(training, first=3)
    assert [event.payload["metrics"]["val_loss"] for event in reports(service)] == LOSSES
    assert service.learning_rates("job")[: len(LOSSES)] == list(whole().values())


def test_a_caller_that_catches_service_unreachable_goes_on_and_loses_no_report():
    service = InMemoryService()
    rates = {}
    with loop(service, on_unreachable="raise") as training:
        for epoch in training.epochs():
            rates[epoch] = training.learning_rate()
            service.away = epoch == 3
            if not service.away:
                training.report(val_loss=LOSSES[epoch])
                continue
            with pytest.raises(ServiceUnreachable):
                training.report(val_loss=LOSSES[epoch])

    assert rates[4] == rates[3]
    assert [event.payload["metrics"]["val_loss"] for event in reports(service)] == LOSSES


def test_disabled_trains_with_the_initial_rate_and_reports_nothing(monkeypatch):
    monkeypatch.setenv("REMOTELR_MODE", "disabled")
    service = InMemoryService()
    with loop(service) as training:
        assert set(trained(training).values()) == {0.1}

    assert service.requests == []


def test_disabled_does_not_demand_reports(monkeypatch):
    monkeypatch.setenv("REMOTELR_MODE", "disabled")
    with loop(InMemoryService(), total_epochs=2) as training:
        assert list(training.epochs()) == [0, 1]


def test_the_mode_local_decides_alone_and_a_state_file_carries_it_on(monkeypatch, tmp_path):
    monkeypatch.setenv("REMOTELR_MODE", "local")
    service, state = InMemoryService(), tmp_path / "state"
    rates = {}
    with contextlib.suppress(KeyboardInterrupt), loop(service, state_file=state) as training:
        rates |= trained(training, until=4)
        raise KeyboardInterrupt
    with loop(service, state_file=state) as training:
        rates |= trained(training, first=4)

    assert service.requests == []
    assert rates == whole()
    with pytest.raises(PolicyConflict), loop(service, policy=HALVING, state_file=state):
        pass


@QUIET
def test_the_spool_holds_what_the_service_has_not_received_until_the_run_has_ended(tmp_path):
    service = InMemoryService()
    with loop(service, spool_dir=tmp_path) as training:
        for epoch in training.epochs():
            service.away = epoch in (3, 4)
            training.report(val_loss=LOSSES[epoch])
            if epoch == 4:
                (spool,) = tmp_path.rglob("*.spool")
                assert b'"val_loss":0.85' in spool.read_bytes()
                assert b'"epoch":4' in spool.read_bytes()

    assert not spool.exists()
