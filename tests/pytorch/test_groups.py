"""Parameter groups keep the ratios that the user chose."""

from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed: `make adapters` runs these tests")

from remotelr.testing import InMemoryService  # noqa: E402
from remotelr.torch import RemoteLR  # noqa: E402
from support.pytorch.loops import sgd, step, train  # noqa: E402


@pytest.fixture
def service() -> InMemoryService:
    return InMemoryService()


def remote(service: InMemoryService, optimizer: Any, **settings: Any) -> RemoteLR:
    settings = {"run": "run", "patience": 0, "factor": 0.1, "verbose": False, **settings}
    return RemoteLR(optimizer, service.url, transport=service, **settings)


def weight() -> Any:
    return torch.nn.Parameter(torch.zeros(1))


def test_the_reference_is_the_default_rate_or_else_the_largest(service):
    layers = torch.optim.SGD([{"params": [weight()], "lr": rate} for rate in (0.001, 0.01, 0.1)], lr=0.5)
    head = torch.optim.SGD([{"params": [weight()], "lr": 1.0}, {"params": [weight()]}], lr=0.5)

    train(remote(service, layers, run="layers"), [1.0])
    train(remote(service, head, run="head"), [1.0])

    assert (0.1, 0.5) == (service.learning_rates("layers")[0], service.learning_rates("head")[0])


def test_a_group_added_after_a_reduction_is_in_ratio_to_the_rate_in_force(service):
    optimizer = sgd(0.1)
    scheduler = remote(service, optimizer)
    train(scheduler, [1.0, 1.0])

    optimizer.add_param_group({"params": [weight()], "lr": 0.001})
    rates = train(scheduler, [1.0, 1.0])

    assert [pytest.approx([0.01, 0.001]), pytest.approx([0.001, 0.0001])] == rates
    assert pytest.approx([0.1, 0.01]) == scheduler.base_lrs


def test_a_group_added_to_the_first_of_two_optimizers_does_not_move_the_second(service):
    first, second = sgd(0.1), sgd(0.4)
    scheduler = remote(service, [first, second])
    train(scheduler, [1.0])

    first.add_param_group({"params": [weight()], "lr": 0.02})
    step(first)

    assert [0.1, pytest.approx(0.02)] == [group["lr"] for group in first.param_groups]
    assert [pytest.approx(0.4)] == [group["lr"] for group in second.param_groups]


def test_an_added_group_keeps_its_ratio_through_a_checkpoint(service):
    optimizer = sgd(0.1, momentum=0.9)
    scheduler = remote(service, optimizer)
    train(scheduler, [1.0, 1.0])
    optimizer.add_param_group({"params": [weight()], "lr": 0.001})
    train(scheduler, [1.0])
    saved = optimizer.state_dict(), scheduler.state_dict()
    scheduler._training.abandon()

    resumed = sgd(0.5, 0.5, momentum=0.9)
    scheduler = remote(service, resumed)
    resumed.load_state_dict(saved[0])
    scheduler.load_state_dict(saved[1])

    assert [pytest.approx([0.001, 0.0001])] == train(scheduler, [1.0])


def test_lr_scale_multiplies_on_top(service):
    optimizer = sgd(0.1, 0.1)
    optimizer.param_groups[1]["lr_scale"] = 0.25

    rates = train(remote(service, optimizer), [1.0] * 3)

    assert [[0.1, 0.025], [0.1, 0.025], [pytest.approx(0.01), pytest.approx(0.0025)]] == rates


def test_a_rate_that_is_a_tensor_stays_the_same_tensor(service):
    optimizer = sgd(torch.tensor(0.1))
    tensor = optimizer.param_groups[0]["lr"]

    train(remote(service, optimizer), [1.0] * 3)

    assert tensor is optimizer.param_groups[0]["lr"]
    assert pytest.approx(0.001) == tensor.item()


def test_floors_in_the_ratio_of_the_groups_are_one_floor(service):
    rates = train(remote(service, sgd(0.1, 0.01), min_lr=[0.02, 0.002]), [1.0] * 4)

    assert pytest.approx([0.02, 0.002]) == rates[-1]


@pytest.mark.parametrize("floors", [[0.02, 0.02], [0.02], [0.02, 0.002, 0.1]])
def test_other_floors_are_refused(service, floors):
    with pytest.raises(ValueError, match="min_lr must be one number"):
        remote(service, sgd(0.1, 0.01), min_lr=floors)


class LayerWiseDummyOptimizer(torch.optim.SGD): ...


class AdamWScheduleFree(torch.optim.SGD): ...


@pytest.mark.parametrize(
    ("optimizer", "reason"),
    [
        (lambda: LayerWiseDummyOptimizer([weight()], lr=0.1), "layer-wise"),
        (lambda: AdamWScheduleFree([weight()], lr=0.1), "schedule-free"),
        (lambda: torch.nn.Linear(1, 1), "must be a torch.optim.Optimizer"),
        (lambda: torch.optim.Adafactor([{"params": [weight()], "lr": None}], lr=0.1), "lr=None"),
        (list, "optimizer"),
    ],
)
def test_an_optimizer_whose_rate_cannot_be_set_is_refused(service, optimizer, reason):
    with pytest.raises((TypeError, ValueError), match=reason):
        remote(service, optimizer())
