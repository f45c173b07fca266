"""The rates of torch's own schedulers, through a service."""

import random
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed: `make adapters` runs these tests")

from torch.optim import lr_scheduler  # noqa: E402

from remotelr.testing import InMemoryService  # noqa: E402
from remotelr.torch import RemoteLR  # noqa: E402
from support.pytorch.loops import UsedRates, sgd, step, train  # noqa: E402


def _random_plateau(rng: random.Random) -> dict[str, Any]:
    return {
        "mode": rng.choice(["min", "max"]),
        "factor": rng.choice([0.1, 0.3, 0.5, 0.9]),
        "patience": rng.randrange(4),
        "threshold": rng.choice([0.0, 1e-4, 0.02]),
        "threshold_mode": rng.choice(["rel", "abs"]),
        "cooldown": rng.randrange(3),
        "eps": 0.0,
    }


def _losses(rng: random.Random, count: int) -> list[float]:
    return [round(1 / (1 + 0.1 * index) + rng.gauss(0, 0.05), 6) for index in range(count)]


def _together(transport: Any, url: str, run: str, rates: tuple[float, ...], losses: list[float], **plateau: Any) -> Any:
    """The rates of all steps with torch's plateau, and with ours."""
    theirs, ours = sgd(*rates), sgd(*rates)
    expected = train(lr_scheduler.ReduceLROnPlateau(theirs, **plateau), losses, steps=2)
    remote = RemoteLR(ours, url, run, transport=transport, verbose=False, **plateau)
    return expected, train(remote, losses, steps=2)


@pytest.mark.parametrize("seed", range(30))
def test_a_random_plateau_has_the_rates_of_torch(seed):
    rng = random.Random(seed)
    service = InMemoryService()
    plateau, losses = _random_plateau(rng), _losses(rng, 60)

    expected, actual = _together(service, service.url, "run", (0.1, 0.03, 0.0), losses, **plateau)

    assert expected == [pytest.approx(rates, rel=0, abs=1e-12) for rates in actual]


@pytest.mark.parametrize("seed", range(10))
def test_its_attributes_are_those_of_the_plateau_of_torch(seed):
    rng = random.Random(seed)
    plateau, losses = _random_plateau(rng), _losses(rng, 25)
    theirs, ours = sgd(), sgd()
    expected = lr_scheduler.ReduceLROnPlateau(theirs, **plateau)
    actual = RemoteLR(ours, verbose=False, **plateau)
    for loss in losses:
        train(expected, [loss])
        train(actual, [loss])

        for name in ("best", "num_bad_epochs", "cooldown_counter", "in_cooldown", "last_epoch"):
            assert getattr(expected, name) == getattr(actual, name), name


def test_a_plateau_has_the_rates_of_torch_through_a_real_service(url, key):
    expected, actual = _together(None, url, key, (0.1, 0.01), _losses(random.Random(5), 20), patience=1, factor=0.5)

    assert actual == [pytest.approx(rates, rel=1e-12) for rates in expected]
    assert len({rates[0] for rates in actual}) > 2


def test_a_loss_that_is_not_a_number_counts_as_no_improvement_as_in_torch():
    service = InMemoryService()
    losses = [1.0, float("nan"), float("nan"), 0.5, float("inf"), float("nan"), 0.6]

    expected, actual = _together(service, service.url, "run", (0.1,), losses, patience=1, factor=0.5)

    assert actual == [pytest.approx(rates, rel=1e-12) for rates in expected]


SCHEDULERS = {
    "StepLR": lambda o: lr_scheduler.StepLR(o, 3, gamma=0.5),
    "MultiStepLR": lambda o: lr_scheduler.MultiStepLR(o, [2, 5, 5, 9], gamma=0.3),
    "ConstantLR": lambda o: lr_scheduler.ConstantLR(o, factor=0.25, total_iters=4),
    "LinearLR": lambda o: lr_scheduler.LinearLR(o, start_factor=0.2, total_iters=6),
    "ExponentialLR": lambda o: lr_scheduler.ExponentialLR(o, gamma=0.8),
    "PolynomialLR": lambda o: lr_scheduler.PolynomialLR(o, total_iters=15, power=2.0),
    "CosineAnnealingLR": lambda o: lr_scheduler.CosineAnnealingLR(o, T_max=20, eta_min=1e-3),
    "CosineAnnealingWarmRestarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, T_0=4, T_mult=2),
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, max_lr=0.5, total_steps=20),
    "CyclicLR": lambda o: lr_scheduler.CyclicLR(o, base_lr=0.01, max_lr=0.2, step_size_up=3, step_size_down=4),
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, lambda t: 0.9**t),
    "SequentialLR": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.LinearLR(o, 0.1, total_iters=5), lr_scheduler.CosineAnnealingLR(o, 15)], [5]
    ),
}


@pytest.mark.parametrize("unit", ["step", "epoch"])
@pytest.mark.parametrize("name", SCHEDULERS)
# torch's SequentialLR warns of its own calls.
@pytest.mark.filterwarnings("ignore:.*lr_scheduler.step:UserWarning", "ignore:The epoch parameter:UserWarning")
def test_an_adopted_scheduler_has_the_rates_and_the_momentum_of_torch(name, unit):
    steps = 5 if unit == "step" else 1
    epochs = 4 if unit == "step" else 20
    theirs, ours = sgd(0.1, momentum=0.9), sgd(0.1, momentum=0.9)
    scheduler, expected, momenta = SCHEDULERS[name](theirs), [], []
    for _ in range(20):
        expected.append(theirs.param_groups[0]["lr"])
        momenta.append(theirs.param_groups[0]["momentum"])
        step(theirs)
        if len(expected) < 20:
            scheduler.step()
    service, used = InMemoryService(), []
    ours.register_step_post_hook(lambda o, *_: used.append(o.param_groups[0]["momentum"]))
    remote = RemoteLR.from_scheduler(
        SCHEDULERS[name](ours),
        service.url,
        "run",
        unit=unit,
        positions=20,
        steps_per_epoch=steps,
        transport=service,
        verbose=False,
    )

    actual = [rates[0] for rates in train(remote, [1.0] * epochs, steps=steps)]

    assert actual == pytest.approx(expected, rel=1e-13, abs=1e-15)
    assert used == pytest.approx(momenta, rel=1e-13)


def test_an_adopted_scheduler_writes_the_momentum_of_adam():
    adam = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    service, betas = InMemoryService(), []
    one_cycle = lr_scheduler.OneCycleLR(adam, max_lr=0.5, total_steps=10)
    remote = RemoteLR.from_scheduler(one_cycle, service.url, "run", unit="step", transport=service, verbose=False)
    adam.register_step_post_hook(lambda o, *_: betas.append(o.param_groups[0]["betas"]))

    train(remote, [1.0], steps=10)

    assert betas[0] == (0.95, 0.999)
    assert min(betas)[0] == pytest.approx(0.85)


def test_each_step_uses_the_decided_rate(url, key):
    cosine = {"schedule": {"type": "cosine", "decay_steps": 12}, "unit": "step"}
    optimizer = sgd(0.1)
    remote = RemoteLR(optimizer, url, key, cosine, steps_per_epoch=4, verbose=False)
    decided, used = [], UsedRates(optimizer)
    optimizer.register_step_pre_hook(lambda *_: decided.append(remote.get_last_lr()))

    train(remote, [1.0] * 3, steps=4)

    assert used.by_step == decided
    assert len(set(used.first)) == 12
