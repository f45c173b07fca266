"""RemoteLR in a real Trainer: the rate that is used, logged and decided, at every step."""

import math
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip(
    "transformers.trainer_callback", reason="transformers is not installed: `make adapters` runs these tests"
)
pytest.importorskip("torch.optim", reason="torch is not installed: `make adapters` runs these tests")

import torch
from transformers import EarlyStoppingCallback, TrainerCallback

from remotelr.errors import RemoteLRWarning
from remotelr.testing import InMemoryService
from remotelr.transformers import RemoteLR
from support.transformers.jobs import SETTINGS, Model, arguments, data, train, trainer

pytestmark = pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning")

FLAT = [1.0] * 4


def remote(service: InMemoryService, **settings: Any) -> RemoteLR:
    return RemoteLR(service.url, run="mnist-7", transport=service, verbose=False, **settings)


def cosine(step: int, steps: int = 20, rate: float = 0.1) -> float:
    return rate * (1 + math.cos(math.pi * step / steps)) / 2


def test_a_plateau_sets_the_decided_rate_at_every_step(tmp_path: Path) -> None:
    service = InMemoryService()

    rates = train(tmp_path, remote(service, patience=0, factor=0.5), losses=FLAT)

    assert [0.1, 0.1, 0.05, 0.025] == rates.used[::5]
    assert [lr for lr in service.learning_rates("mnist-7")[:4] for _ in range(5)] == rates.used
    assert rates.logged == rates.used


def test_a_policy_by_steps_sets_another_rate_at_every_step(tmp_path: Path) -> None:
    service = InMemoryService()

    rates = train(tmp_path, remote(service, **SETTINGS["cosine"]))

    assert pytest.approx([cosine(step) for step in range(20)], rel=1e-12) == rates.used
    assert rates.logged == rates.used


@pytest.mark.parametrize("schedule", ["linear", "constant", "reduce_lr_on_plateau"])
def test_the_trainers_own_schedule_has_no_effect(tmp_path: Path, schedule: str) -> None:
    service = InMemoryService()

    rates = train(tmp_path, remote(service, patience=1, factor=0.5), losses=FLAT, lr_scheduler_type=schedule)

    assert [0.1] * 15 + [0.05] * 5 == rates.used
    assert rates.logged == rates.used


def test_gradient_accumulation_counts_optimizer_steps(tmp_path: Path) -> None:
    """20 batches make 7 steps of 3, the last one of 2 batches."""
    service = InMemoryService()
    settings = {"policy": {"schedule": {"type": "cosine", "decay_steps": 7}, "unit": "step"}}

    rates = train(
        tmp_path, remote(service, **settings), gradient_accumulation_steps=3, eval_strategy="epoch", eval_steps=None
    )

    assert pytest.approx([cosine(step, 7) for step in range(7)], rel=1e-12) == rates.used
    assert [7] == [report["step"] for report in reports(service)]


def test_groups_keep_their_ratio(tmp_path: Path) -> None:
    service = InMemoryService()
    model = Model()
    groups = [{"params": [model.linear.weight], "lr": 0.1}, {"params": [model.linear.bias], "lr": 0.01}]
    optimizer = torch.optim.SGD(groups, lr=0.1)
    found: list[list[float]] = []

    class Reader(TrainerCallback):  # type: ignore[misc]
        def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            found.append([group["lr"] for group in optimizer.param_groups])

    made = trainer(
        arguments(tmp_path, max_steps=10),
        [remote(service, policy={"type": "exponential", "decay_rate": 0.5, "decay_steps": 1}), Reader()],
        model=model,
        optimizers=(optimizer, None),
    )
    made.train()

    assert [[0.1, 0.01]] * 5 + [[0.05, 0.005]] * 5 == found


def test_the_report_has_the_evaluation_and_the_logged_loss_but_no_times(tmp_path: Path) -> None:
    service = InMemoryService()

    train(tmp_path, remote(service))

    assert {"eval_loss", "loss", "grad_norm"} == set(reports(service)[0]["metrics"])


def test_without_evaluations_each_epoch_reports_the_logged_loss(tmp_path: Path) -> None:
    service = InMemoryService()

    train(
        tmp_path,
        remote(service, patience=0, factor=0.5),
        eval_strategy="no",
        num_train_epochs=3,
        logging_strategy="epoch",
    )

    losses = [report["metrics"]["loss"] for report in reports(service)]
    assert 3 == len(set(losses))
    assert losses == sorted(losses, reverse=True)


def test_a_stop_ends_the_training_without_another_step(tmp_path: Path) -> None:
    service = InMemoryService()
    policy = {
        "schedule": {"type": "constant"},
        "stop": {"early_stopping": {"monitor": "eval_loss", "patience": 1}},
    }

    rates = train(tmp_path, remote(service, policy=policy), losses=FLAT)

    assert 10 == len(rates.used)
    assert "stopped" == status(service)


def test_the_run_is_completed_when_the_training_ends(tmp_path: Path) -> None:
    service = InMemoryService()

    train(tmp_path, remote(service))

    assert "completed" == status(service)


def test_an_evaluation_before_and_after_the_training_is_no_report(tmp_path: Path) -> None:
    service = InMemoryService()
    made = trainer(arguments(tmp_path, eval_on_start=True, max_steps=5), [remote(service)])
    made.train()
    made.evaluate()

    assert 1 == len(reports(service))


def test_evaluations_of_several_datasets_at_one_step_are_one_report(tmp_path: Path) -> None:
    service = InMemoryService()
    callback = remote(service, monitor="eval_b_loss", patience=0)
    made = trainer(arguments(tmp_path, max_steps=10), [callback], eval_dataset={"a": data(4), "b": data(6)})
    made.train()

    assert 2 == len(reports(service))
    assert {"eval_a_loss", "eval_b_loss"} <= set(reports(service)[1]["metrics"])


def test_a_metric_that_is_never_evaluated_is_a_warning_and_no_loss_of_the_report(tmp_path: Path) -> None:
    service = InMemoryService()

    with pytest.warns(RemoteLRWarning, match="eval_accuracy"):
        train(tmp_path, remote(service, monitor="eval_accuracy"))

    assert 4 == len(reports(service))


def test_training_goes_on_by_the_same_rules_while_the_service_is_away(tmp_path: Path) -> None:
    service = InMemoryService()

    class Outage(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            service.away = 4 <= state.global_step < 18

    with pytest.warns(RemoteLRWarning):
        rates = train(tmp_path, remote(service, patience=0, factor=0.5, timeout_s=0.2), Outage(), losses=FLAT)

    assert [0.1, 0.1, 0.05, 0.025] == rates.used[::5]
    assert 4 == len(reports(service))
    assert "completed" == status(service)


def test_a_smaller_batch_after_a_lack_of_memory_is_a_new_attempt(tmp_path: Path) -> None:
    service = InMemoryService()

    class Lack(TrainerCallback):  # type: ignore[misc]
        failed = False

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 7 and not self.failed:
                self.failed = True
                raise RuntimeError("CUDA out of memory.")

    rates = train(
        tmp_path,
        remote(service, patience=0, factor=0.5),
        Lack(),
        losses=FLAT,
        auto_find_batch_size=True,
        max_steps=20,
    )

    assert [0.1] * 10 + [0.05] * 5 + [0.025] * 5 == rates.used[-20:]
    assert 2 == service._runs["mnist-7"].run.attempt


def test_early_stopping_of_the_trainer_works_beside_it(tmp_path: Path) -> None:
    service = InMemoryService()
    rates = train(
        tmp_path,
        remote(service),
        EarlyStoppingCallback(1),
        losses=FLAT,
        metric_for_best_model="eval_loss",
        load_best_model_at_end=True,
        save_strategy="steps",
        save_steps=5,
    )

    assert 10 == len(rates.used)


def test_an_unknown_argument_is_refused() -> None:
    with pytest.raises(TypeError, match="patiance"):
        RemoteLR(run="a", patiance=3)  # type: ignore[call-arg]


def test_arguments_of_the_plateau_are_refused_beside_a_policy() -> None:
    with pytest.raises(ValueError, match="patience"):
        RemoteLR(run="a", policy={"type": "constant"}, patience=3)


def test_disabled_leaves_the_trainers_own_schedule(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REMOTELR_MODE", "disabled")

    rates = train(tmp_path, RemoteLR())

    assert pytest.approx([0.1 * (20 - step) / 20 for step in range(20)]) == rates.used


def reports(service: InMemoryService) -> list[dict[str, Any]]:
    return [dict(event.payload) for event in service.events("mnist-7") if event.kind == "report"]


def status(service: InMemoryService) -> str:
    return str(service._runs["mnist-7"].run.status)
