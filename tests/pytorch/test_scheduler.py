"""The scheduler in a training loop: which steps count, which rates are in force, and how it ends."""

import itertools
import warnings
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed: `make adapters` runs these tests")

from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau  # noqa: E402

from remotelr.errors import RemoteLRWarning, ServiceRefused  # noqa: E402
from remotelr.rules import Command  # noqa: E402
from remotelr.testing import InMemoryService  # noqa: E402
from remotelr.torch import RemoteLR  # noqa: E402
from support.pytorch.loops import UsedRates, set_gradients, sgd, step, train  # noqa: E402

COSINE = {"schedule": {"type": "cosine", "decay_steps": 12}, "unit": "step"}


@pytest.fixture
def service() -> InMemoryService:
    return InMemoryService()


def remote(service: InMemoryService, optimizer: Any, *args: Any, **settings: Any) -> RemoteLR:
    return RemoteLR(optimizer, service.url, "run", *args, transport=service, **{"verbose": False, **settings})


def die(scheduler: RemoteLR) -> None:
    """End the process, as SIGKILL does: the lock of the file is released."""
    scheduler._training.abandon()


def alone(policy: Any, epochs: int) -> list[list[float]]:
    """The rates of a training of which the test knows no trouble."""
    scheduler = RemoteLR(sgd(0.1), policy=policy, steps_per_epoch=4, verbose=False)
    return train(scheduler, [1.0] * epochs, steps=4)


def reports(service: InMemoryService) -> list[int]:
    return [event.epoch for event in service.events("run") if event.kind == "report" and event.superseded_by is None]


def test_it_is_a_plateau_of_torch(service):
    scheduler = remote(service, sgd(0.1), mode="max", patience=3)

    assert isinstance(scheduler, ReduceLROnPlateau)
    assert ("max", 3, float("-inf")) == (scheduler.mode, scheduler.patience, scheduler.best)


def test_only_a_step_with_a_metric_after_an_optimizer_step_reports(service):
    optimizer = sgd(0.1)
    scheduler = remote(service, optimizer, patience=0)

    scheduler.step(1.0)
    for _ in range(3):
        step(optimizer)
        scheduler.step()
    scheduler.step(1.0)
    scheduler.step(1.0)
    scheduler.step(1.0)

    assert [0] == reports(service)
    assert 1 == scheduler.last_epoch


def test_a_report_of_a_rank_without_a_metric_and_of_several_metrics(service):
    optimizer = sgd(0.1)
    scheduler = remote(service, optimizer)

    train(scheduler, [{"val_loss": torch.ones(1, requires_grad=True), "accuracy": 0.5}, 2.0])

    metrics = [event.payload["metrics"] for event in service.events("run") if event.kind == "report"]
    assert [{"val_loss": 1.0, "accuracy": 0.5}, {"val_loss": 2.0}] == metrics


def test_another_scheduler_beside_ours_does_not_win_and_is_warned_of_once(service):
    optimizer = sgd(0.1)
    other = LambdaLR(optimizer, lambda t: 100.0)
    scheduler = remote(service, optimizer, COSINE, steps_per_epoch=4)

    with pytest.warns(RemoteLRWarning, match="another scheduler or callback writes") as warned:
        rates = train(scheduler, [1.0] * 3, steps=4, after_step=other.step)

    assert alone(COSINE, 3) == rates
    assert 1 == len(warned)


def test_a_checkpoint_of_the_optimizer_is_not_taken_for_another_scheduler(service):
    optimizer = sgd(0.1)
    scheduler = remote(service, optimizer, patience=0)
    saved = optimizer.state_dict()

    train(scheduler, [1.0, 1.0])
    optimizer.load_state_dict(saved)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rates = train(scheduler, [1.0])

    assert [[pytest.approx(0.01)]] == rates


def test_a_second_scheduler_of_the_same_optimizer_takes_the_place_of_the_first(service):
    optimizer = sgd(0.1)
    first = remote(service, optimizer, patience=0)
    train(first, [1.0, 1.0])
    second = remote(service, optimizer, patience=0, last_epoch=0)

    rates = train(second, [1.0, 1.0])

    assert [[0.1], [0.1]] == rates
    assert 2 == len([event for event in service.events("run") if event.kind == "attempt"])


def test_two_optimizers_share_the_steps_of_the_first(service):
    generator, critic = sgd(0.1), sgd(0.4)
    scheduler = remote(service, [generator, critic], COSINE, steps_per_epoch=4)
    of_critic = UsedRates(critic)

    rates = train(scheduler, [1.0] * 3, steps=4, after_step=lambda: step(critic))

    assert [[4 * rate] for (rate,) in rates] == of_critic.by_step
    assert 12 == len(of_critic.by_step)


def test_a_second_optimizer_that_steps_first_has_the_decided_rate(service):
    warmup = {"schedule": {"type": "linear", "initial_learning_rate": 0.01, "end_learning_rate": 0.1,
                           "decay_steps": 10}, "unit": "step"}  # fmt: skip
    critic, generator = sgd(0.1), sgd(0.1)
    remote(service, [generator, critic], warmup, steps_per_epoch=4)

    step(critic)

    assert pytest.approx(0.01) == critic.param_groups[0]["lr"]


def test_a_step_that_a_gradient_scaler_skips_does_not_count(service):
    optimizer = sgd(0.1)
    scheduler = remote(service, optimizer, COSINE, steps_per_epoch=4)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    used = UsedRates(optimizer)
    for overflow in (False, True, False):
        set_gradients(optimizer)
        if overflow:
            optimizer.param_groups[0]["params"][0].grad.fill_(float("inf"))
        scaler.scale(torch.ones(1))
        scaler.step(optimizer)
        scaler.update()

    assert 2 == len(used.by_step) == scheduler.state_dict()["steps"]


# torch itself uses what it deprecates.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("tensor", [True, False])
def test_a_compiled_step_has_the_decided_rates(service, tensor):
    from torch._dynamo.testing import CompileCounter

    torch._dynamo.reset()
    counter = CompileCounter()
    optimizer = sgd(torch.tensor(0.1) if tensor else 0.1)
    scheduler = remote(service, optimizer, COSINE, steps_per_epoch=4)
    weight, weights = optimizer.param_groups[0]["params"][0], [0.0]
    compiled = torch.compile(optimizer.step, backend=counter)

    for _ in range(3):
        for _ in range(4):
            set_gradients(optimizer)
            compiled()
            weights.append(-weight.item())
        scheduler.step(1.0)

    used = [after - before for before, after in itertools.pairwise(weights)]
    assert [rate for (rate,) in alone(COSINE, 3)] == pytest.approx(used, abs=1e-6)
    assert counter.frame_count == 1 if tensor else counter.frame_count <= 3


def test_the_state_of_the_optimizer_is_not_made_with_a_step_of_the_training(service):
    """torch.distributed.checkpoint makes it with a step at rate 0."""
    from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict

    model = torch.nn.Linear(1, 1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.5)
    scheduler = remote(service, optimizer, COSINE, steps_per_epoch=4)
    before = model.weight.item()

    get_optimizer_state_dict(model, optimizer)

    assert before == model.weight.item()
    assert [] == service.requests
    assert 4 == len(train(scheduler, [1.0], steps=4))
    assert 4 == scheduler.state_dict()["steps"]


def test_the_run_ends_after_the_last_epoch_and_later_steps_keep_the_rate(service):
    optimizer = sgd(0.1, momentum=0.5)
    scheduler = remote(service, optimizer, patience=0, total_epochs=3)

    rates = train(scheduler, [1.0] * 5)

    assert [0, 1, 2] == reports(service)
    assert "completed" == service._runs["run"].run.status
    assert rates[3] == rates[4] == [scheduler.get_last_lr()[0]]
    assert (False, "") == (scheduler.stopped, scheduler.stop_reason)


def test_a_policy_that_stops_ends_the_run_as_stopped(service):
    policy = {
        "schedule": {"type": "reduce_on_plateau", "patience": 1},
        "stop": {"early_stopping": {"patience": 2}},
    }
    optimizer = sgd(0.1)
    scheduler = remote(service, optimizer, policy)
    epochs = 0

    while not scheduler.stopped:
        train(scheduler, [1.0])
        epochs += 1
        assert epochs < 10

    assert "stopped" == service._runs["run"].run.status
    assert scheduler.stop_reason != ""


def test_a_stop_of_the_operator_ends_the_training(service):
    scheduler = remote(service, sgd(0.1))
    train(scheduler, [1.0])
    service.command("run", Command(type="stop"))

    train(scheduler, [1.0])

    assert scheduler.stopped
    assert scheduler.stop_reason != ""


def test_a_newer_attempt_ends_the_older_one(service, tmp_path):
    older = remote(service, sgd(0.1), spool_dir=tmp_path / "older")
    newer = remote(service, sgd(0.1), spool_dir=tmp_path / "newer")
    train(older, [1.0])
    train(newer, [1.0])

    train(older, [1.0])

    assert (True, "a newer attempt has taken the run over") == (older.stopped, older.stop_reason)
    assert not newer.stopped


def test_the_same_optimizer_twice_is_one(service):
    optimizer = sgd(0.1)
    scheduler = remote(service, [optimizer, optimizer])

    train(scheduler, [1.0], steps=3)

    assert 3 == scheduler.state_dict()["steps"]


def test_a_guard_loads_the_checkpoint_and_the_rates_stay_decided(service):
    policy = {"schedule": {"type": "constant"}, "guard": {"action": "rollback", "factor": 0.5}}
    optimizer, loaded, saved = sgd(0.1), [], []

    def load(epoch: int) -> None:
        loaded.append(epoch)
        optimizer.load_state_dict(saved[epoch])

    scheduler = remote(service, optimizer, policy, checkpoint=load)
    for loss in (1.0, 0.9, float("nan"), 0.8):
        train(scheduler, [loss])
        saved.append(optimizer.state_dict())

    assert [1] == loaded
    assert 0.05 == optimizer.param_groups[0]["lr"]


def test_a_disabled_client_leaves_the_rates_and_counts_the_epochs(service, monkeypatch):
    monkeypatch.setenv("REMOTELR_MODE", "disabled")
    optimizer = sgd(0.1)
    scheduler = remote(service, optimizer, patience=0)

    rates = train(scheduler, [1.0] * 3)

    assert [[0.1]] * 3 == rates
    assert [] == service.requests
    assert (3, 0) == (scheduler.state_dict()["last_epoch"], scheduler.state_dict()["steps_in_epoch"])


def test_a_refused_run_is_refused_at_every_step(service):
    first = remote(service, sgd(0.1), patience=1)
    train(first, [1.0])
    die(first)
    optimizer = sgd(0.1)
    remote(service, optimizer, patience=7)

    for _ in range(2):
        with pytest.raises(ServiceRefused, match="patience"):
            step(optimizer)


def test_an_exception_in_the_training_leaves_the_run_open(service):
    optimizer = sgd(0.1)

    def failing() -> None:
        with remote(service, optimizer) as scheduler:
            train(scheduler, [1.0])
            raise ArithmeticError

    with pytest.raises(ArithmeticError):
        failing()

    assert "running" == service._runs["run"].run.status


def test_arguments_of_the_plateau_beside_a_policy_are_refused(service):
    with pytest.raises(ValueError, match="patience, min_lr belong to the default policy"):
        remote(service, sgd(0.1), COSINE, patience=3, min_lr=0.1)
