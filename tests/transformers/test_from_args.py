"""`RemoteLR.from_args`: the rates of `transformers.get_scheduler`, step by step."""

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip(
    "transformers.trainer_callback", reason="transformers is not installed: `make adapters` runs these tests"
)
pytest.importorskip("torch.optim", reason="torch is not installed: `make adapters` runs these tests")

import torch
import transformers
from transformers.trainer_utils import SchedulerType

from remotelr import Client
from remotelr.rules import RunSpec, policy_from_json
from remotelr.rules.local_run import LocalRun
from remotelr.testing import InMemoryService
from remotelr.transformers import RemoteLR
from remotelr.transformers.arguments import policy_of_arguments
from support.transformers.jobs import arguments, train

pytestmark = pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning")

STEPS = 100

BY_STEP: list[tuple[str, int, dict[str, Any]]] = [
    ("linear", 0, {}),
    ("linear", 13, {}),
    ("cosine", 13, {}),
    ("cosine", 0, {"num_cycles": 1.7}),
    ("cosine_with_restarts", 10, {}),
    ("cosine_with_restarts", 10, {"num_cycles": 3}),
    ("cosine_with_restarts", 7, {"num_cycles": 4}),
    ("polynomial", 10, {}),
    ("polynomial", 0, {"power": 2.0, "lr_end": 1e-3}),
    ("constant", 10, {}),
    ("constant_with_warmup", 10, {}),
    ("inverse_sqrt", 10, {}),
    ("inverse_sqrt", 0, {}),
    ("inverse_sqrt", 10, {"timescale": 40}),
    ("cosine_with_min_lr", 10, {"min_lr": 1e-3}),
    ("cosine_with_min_lr", 0, {"min_lr_rate": 0.1, "num_cycles": 0.8}),
    ("cosine_warmup_with_min_lr", 10, {"min_lr": 1e-3}),
    ("cosine_warmup_with_min_lr", 0, {"min_lr_rate": 0.1}),
    ("cosine_warmup_with_min_lr", 10, {"min_lr_rate": 0.1, "warmup_lr_rate": 0.2, "num_cycles": 0.7}),
    ("warmup_stable_decay", 10, {"num_decay_steps": 30}),
    ("warmup_stable_decay", 10, {"num_decay_steps": 30, "num_stable_steps": 20, "min_lr_ratio": 0.1}),
    ("warmup_stable_decay", 9, {"num_decay_steps": 30, "decay_type": "linear", "warmup_type": "cosine"}),
    ("warmup_stable_decay", 9, {"num_decay_steps": 30, "decay_type": "1-sqrt", "warmup_type": "1-sqrt"}),
]

BY_EVALUATION: list[tuple[str, dict[str, Any]]] = [
    ("reduce_lr_on_plateau", {}),
    ("reduce_lr_on_plateau", {"patience": 2, "factor": 0.5, "cooldown": 1, "threshold_mode": "abs", "min_lr": 1e-3}),
    ("greedy", {"patience": 1, "factor": 0.9}),
    ("greedy", {"patience": 2, "min_lr": 1e-4, "max_lr": 0.5, "warmup": 1, "cooldown": 1, "smooth": True}),
]


def scheduler(name: str, warmup: int, kwargs: dict[str, Any]) -> tuple[torch.optim.Optimizer, Any]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    made = transformers.get_scheduler(name, optimizer, warmup, STEPS, scheduler_specific_kwargs=dict(kwargs))
    return optimizer, made


def test_every_type_of_transformers_is_compared() -> None:
    assert {each.value for each in SchedulerType} == {row[0] for row in (*BY_STEP, *BY_EVALUATION)}


@pytest.mark.filterwarnings("ignore:Both num_training_steps:UserWarning")
@pytest.mark.filterwarnings("ignore:Detected call of:UserWarning")
@pytest.mark.parametrize(("name", "warmup", "kwargs"), BY_STEP)
def test_the_rate_of_every_step_equals_that_of_get_scheduler(
    tmp_path: Path, name: str, warmup: int, kwargs: dict[str, Any]
) -> None:
    args = arguments(tmp_path, lr_scheduler_type=name, warmup_steps=warmup, lr_scheduler_kwargs=kwargs)
    run = LocalRun("a", RunSpec(policy=policy_from_json(policy_of_arguments(args, STEPS)), initial_learning_rate=0.1))
    optimizer, theirs = scheduler(name, warmup, kwargs)

    expected, actual = [], []
    for step in range(STEPS):
        expected.append(optimizer.param_groups[0]["lr"])
        actual.append(run.run.policy.learning_rate(run.run.state.schedule, step))
        theirs.step()

    assert pytest.approx(expected, rel=1e-12, abs=1e-17) == actual


@pytest.mark.parametrize(("name", "kwargs"), BY_EVALUATION)
def test_the_rate_after_every_evaluation_equals_that_of_get_scheduler(
    tmp_path: Path, name: str, kwargs: dict[str, Any]
) -> None:
    args = arguments(tmp_path, lr_scheduler_type=name, lr_scheduler_kwargs=kwargs, metric_for_best_model="loss")
    service = InMemoryService()
    optimizer, theirs = scheduler(name, 0, kwargs)
    losses = [1.0, 0.8, 0.6, 0.6, 0.7, 0.7, 0.7, 0.7, 0.5, 0.3, 0.2, 0.2, 0.2, 0.2, 0.2, 0.2, 0.2, 0.2, 0.2, 0.2] * 2
    with Client(service.url, transport=service) as client:
        run = client.run("a", policy=policy_of_arguments(args, STEPS), initial_learning_rate=0.1)
        run.begin(epoch=0)
        for epoch, loss in enumerate(losses):
            theirs.step(loss)
            decision = run.report(epoch, {"eval_loss": loss})

            assert pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12) == decision.learning_rate


@pytest.mark.parametrize(
    ("name", "kwargs", "message"),
    [
        ("warmup_stable_decay", {"num_decay_steps": 3, "num_cycles": 1.5}, "num_cycles"),
        ("warmup_stable_decay", {}, "num_decay_steps"),
        ("cosine_with_min_lr", {}, "min_lr"),
        ("cosine_with_restarts", {"num_cycles": 1.5}, "num_cycles"),
        ("polynomial", {"lr_end": 1.0}, "lr_end"),
        ("linear", {"num_cycles": 3}, "num_cycles"),
    ],
)
def test_what_no_policy_equals_is_refused(tmp_path: Path, name: str, kwargs: dict[str, Any], message: str) -> None:
    args = arguments(tmp_path, lr_scheduler_type=name, lr_scheduler_kwargs=kwargs)

    with pytest.raises(ValueError, match=message):
        RemoteLR.from_args(args, run="a")


def test_the_length_comes_from_the_training_and_not_from_the_arguments(tmp_path: Path) -> None:
    """`max_steps` is -1 in the arguments if they count epochs."""
    service = InMemoryService()
    args = arguments(tmp_path, lr_scheduler_type="cosine", warmup_steps=4)
    remote = RemoteLR.from_args(args, service.url, run="a", transport=service, verbose=False)

    rates = train(tmp_path, remote, lr_scheduler_type="constant")

    optimizer, _ = scheduler("constant", 0, {})
    theirs = transformers.get_scheduler("cosine", optimizer, 4, 20)
    expected = [0.1 * theirs.lr_lambdas[0](step) for step in range(20)]
    assert pytest.approx(expected, rel=1e-12, abs=1e-17) == rates.used
    assert rates.logged == rates.used


def test_the_steps_of_a_warmup_may_be_a_share(tmp_path: Path) -> None:
    args = arguments(tmp_path, lr_scheduler_type="linear", warmup_steps=0.25)

    assert 25 == policy_of_arguments(args, 100)["schedule"]["warmup"]["steps"]
