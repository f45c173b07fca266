"""Policies from real torch schedulers, where torch is installed: it is not among what `make` sets up."""

import pytest

from remotelr.rules.plateau.reduce_on_plateau import ReduceOnPlateau
from remotelr.rules.policy.importers import from_torch_scheduler

torch = pytest.importorskip("torch", reason="torch is not installed")
lr_scheduler = torch.optim.lr_scheduler

POSITIONS = 25


def optimizer():
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1, momentum=0.9)


def sequence():
    sgd = optimizer()
    parts = [lr_scheduler.LinearLR(sgd, 0.1, 1.0, 5), lr_scheduler.StepLR(sgd, 4, 0.5)]
    return lr_scheduler.SequentialLR(sgd, parts, [5])


def chain():
    sgd = optimizer()
    return lr_scheduler.ChainedScheduler([lr_scheduler.ConstantLR(sgd, 0.5, 4), lr_scheduler.ExponentialLR(sgd, 0.9)])


MADE = {
    "step": lambda: lr_scheduler.StepLR(optimizer(), 4, 0.5),
    "multi_step": lambda: lr_scheduler.MultiStepLR(optimizer(), [3, 3, 9], 0.5),
    "constant": lambda: lr_scheduler.ConstantLR(optimizer()),
    "linear": lambda: lr_scheduler.LinearLR(optimizer()),
    "exponential": lambda: lr_scheduler.ExponentialLR(optimizer(), 0.9),
    "polynomial": lambda: lr_scheduler.PolynomialLR(optimizer(), 12, 0.5),
    "cosine": lambda: lr_scheduler.CosineAnnealingLR(optimizer(), 7, 0.01),
    "cosine restarts": lambda: lr_scheduler.CosineAnnealingWarmRestarts(optimizer(), 4, 2, 0.01),
    "one cycle": lambda: lr_scheduler.OneCycleLR(optimizer(), 0.5, total_steps=30),
    "one cycle in three phases": lambda: lr_scheduler.OneCycleLR(
        optimizer(), 0.5, total_steps=30, three_phase=True, anneal_strategy="linear", cycle_momentum=False
    ),
    "cyclic": lambda: lr_scheduler.CyclicLR(optimizer(), 0.01, 0.1, 5, 7, mode="triangular2"),
    "lambda": lambda: lr_scheduler.LambdaLR(optimizer(), lambda epoch: 0.9**epoch),
    "multiplicative": lambda: lr_scheduler.MultiplicativeLR(optimizer(), lambda epoch: 0.9),
    "sequence": sequence,
    "chain": chain,
}


@pytest.mark.filterwarnings("ignore:.*epoch parameter in `scheduler.step")  # torch's own SequentialLR sets it off
@pytest.mark.parametrize("make", MADE.values(), ids=MADE)
def test_a_torch_scheduler_goes_on_as_it_would_in_torch(make):
    scheduler = make()
    policy = from_torch_scheduler(scheduler, positions=POSITIONS)
    wanted = []
    for _ in range(POSITIONS):
        wanted.append(scheduler.get_last_lr()[0])
        scheduler.optimizer.step()
        scheduler.step()

    state = policy.start(0.1)
    assert pytest.approx(wanted, rel=1e-9, abs=1e-12) == [
        policy.raw_learning_rate(state, position) for position in range(POSITIONS)
    ]


def test_a_torch_plateau_keeps_its_arguments():
    policy = from_torch_scheduler(lr_scheduler.ReduceLROnPlateau(optimizer(), patience=3))

    assert ReduceOnPlateau(flavor="torch", patience=3, mode="min") == policy.schedule
