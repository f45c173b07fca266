"""RemoteLR in a real Trainer of Lightning: the rate that is used, logged and decided, at every step."""

import csv
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("lightning.pytorch", reason="lightning is not installed: `make adapters` runs these tests")
pytest.importorskip("torch.optim", reason="torch is not installed: `make adapters` runs these tests")

import torch
from lightning.pytorch.callbacks import EarlyStopping, LearningRateMonitor
from lightning.pytorch.loggers import CSVLogger

from remotelr.errors import RemoteLRWarning
from remotelr.lightning import RemoteLR
from remotelr.testing import InMemoryService
from support.lightning.jobs import FAMILY, SETTINGS, loader, model, recorder, trainer

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec.*"),
    pytest.mark.filterwarnings("ignore:.*no learning rate schedulers.*"),
]

FLAT = [1.0] * 4


def remote(service: InMemoryService, **settings: Any) -> RemoteLR:
    return RemoteLR(service.url, run="mnist-7", transport=service, verbose=False, **settings)


def fit(
    folder: Path, callback: Any, *more: Any, module: Any = None, family: str = FAMILY, **changes: Any
) -> list[float]:
    """The rates of all steps."""
    rates = recorder(family)
    made = trainer(folder, [callback, *more, rates], family, **changes)
    made.fit(model(family, losses=FLAT) if module is None else module, loader(), loader(1))
    return list(rates.used)


def cosine(step: int, steps: int = 20) -> float:
    return 0.1 * (1 + math.cos(math.pi * step / steps)) / 2


@pytest.mark.parametrize("family", ["lightning.pytorch", "pytorch_lightning"])
def test_a_plateau_sets_the_decided_rate_at_every_step(tmp_path: Path, family: str) -> None:
    service = InMemoryService()

    used = fit(tmp_path, remote(service, patience=0, factor=0.5), family=family)

    assert [rate for rate in (0.1, 0.1, 0.05, 0.025) for _ in range(5)] == used
    assert [0.1, 0.1, 0.05, 0.025] == service.learning_rates("mnist-7")[:4]
    assert "completed" == status(service)


def test_a_policy_by_steps_sets_another_rate_at_every_step(tmp_path: Path) -> None:
    used = fit(tmp_path, remote(InMemoryService(), **SETTINGS["cosine"]))

    assert pytest.approx([cosine(step) for step in range(20)], rel=1e-12) == used


def test_accumulated_batches_count_as_one_step(tmp_path: Path) -> None:
    policy = {"schedule": {"type": "cosine", "decay_steps": 12}, "unit": "step"}
    service = InMemoryService()

    used = fit(tmp_path, remote(service, policy=policy), accumulate_grad_batches=2)

    assert pytest.approx([cosine(step, 12) for step in range(12)], rel=1e-12) == used
    assert [3, 6, 9, 12] == [report["step"] for report in reports(service)]


@pytest.mark.parametrize("first", ["remote", "monitor"])
def test_the_monitor_of_lightning_logs_the_rate_in_use(tmp_path: Path, first: str) -> None:
    callbacks = [remote(InMemoryService(), **SETTINGS["cosine"]), LearningRateMonitor("step")]
    if first == "monitor":
        callbacks.reverse()
    logger = CSVLogger(tmp_path)

    used = fit(tmp_path, *callbacks, logger=logger, log_every_n_steps=1)

    with Path(logger.log_dir, "metrics.csv").open() as file:
        logged = [float(row["lr-SGD"]) for row in csv.DictReader(file) if row["lr-SGD"]]
    assert used == logged


def test_a_scheduler_of_configure_optimizers_is_refused(tmp_path: Path) -> None:
    def both(module: Any) -> Any:
        optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1)]

    with pytest.raises(ValueError, match="StepLR"):
        fit(tmp_path, remote(InMemoryService()), module=model(optimizers=both))


def test_the_metrics_of_the_sanity_validation_are_not_reported(tmp_path: Path) -> None:
    service = InMemoryService()

    with pytest.warns(RemoteLRWarning, match="val_loss"):
        fit(tmp_path, remote(service), num_sanity_val_steps=2, check_val_every_n_epoch=2)

    assert [0, 1, 2, 3] == [report["epoch"] for report in reports(service)]
    assert "val_loss" not in reports(service)[0]["metrics"]


def test_a_metric_of_an_earlier_validation_is_not_reported_again(tmp_path: Path) -> None:
    service = InMemoryService()

    with pytest.warns(RemoteLRWarning, match="val_loss"):
        fit(tmp_path, remote(service), check_val_every_n_epoch=2)

    found = ["val_loss" in report["metrics"] for report in reports(service)]
    assert [False, True, False, True] == found
    assert all("train_loss" in report["metrics"] for report in reports(service))


def test_a_stop_ends_the_training_at_the_epochs_end(tmp_path: Path) -> None:
    service = InMemoryService()
    policy = {"schedule": {"type": "constant"}, "stop": {"early_stopping": {"patience": 1}}}

    used = fit(tmp_path, remote(service, policy=policy))

    assert 10 == len(used)
    assert "stopped" == status(service)


def test_early_stopping_of_lightning_works_beside_it(tmp_path: Path) -> None:
    service = InMemoryService()

    used = fit(tmp_path, remote(service), EarlyStopping("val_loss", patience=1))

    assert 10 == len(used)
    assert "completed" == status(service)


def test_an_exception_leaves_the_run_open_for_the_next_attempt(tmp_path: Path) -> None:
    service = InMemoryService()
    module = model()
    module.on_train_epoch_end = lambda: 1 / 0

    with pytest.raises(ZeroDivisionError):
        fit(tmp_path, remote(service), module=module)

    assert "running" == status(service)


def test_training_goes_on_by_the_same_rules_while_the_service_is_away(tmp_path: Path) -> None:
    service = InMemoryService()
    module = model()

    def set_away(*_: Any) -> None:
        service.away = 4 <= module.global_step < 18

    module.on_train_batch_end = set_away

    with pytest.warns(RemoteLRWarning):
        used = fit(tmp_path, remote(service, patience=0, factor=0.5, timeout_s=0.2), module=module)

    assert [0.1, 0.1, 0.05, 0.025] == used[::5]
    assert 4 == len(reports(service))
    assert "completed" == status(service)


def test_two_optimizers_of_a_manual_optimization_have_one_rate_and_one_counter(tmp_path: Path) -> None:
    service = InMemoryService()
    found: list[tuple[float, float]] = []

    def both(module: Any) -> Any:
        return [
            torch.optim.SGD([module.linear.weight], lr=0.1),
            torch.optim.SGD([module.linear.bias], lr=0.01),
        ]

    module = model(optimizers=both)
    module.automatic_optimization = False

    def training_step(batch: Any, batch_idx: int) -> None:
        first, second = module.optimizers()
        loss = module.linear(batch[0]).square().mean()
        module.manual_backward(loss)
        first.step()
        used = first.param_groups[0]["lr"]
        second.step()
        found.append((used, second.param_groups[0]["lr"]))

    module.training_step = training_step
    policy = {"schedule": {"type": "cosine", "decay_steps": 10}, "unit": "step"}
    fit(tmp_path, remote(service, policy=policy), module=module, max_epochs=2)

    assert pytest.approx([cosine(step, 10) for step in range(10)], rel=1e-12) == [first for first, _ in found]
    assert pytest.approx([cosine(step, 10) / 10 for step in range(10)], rel=1e-12) == [second for _, second in found]
    assert [5, 10] == [report["step"] for report in reports(service)]


@pytest.mark.parametrize(
    ("imports", "bases"),
    [
        ("import lightning.pytorch", ["lightning.pytorch.callbacks.callback"]),
        ("import pytorch_lightning", ["pytorch_lightning.callbacks.callback"]),
        (
            "import lightning.pytorch, pytorch_lightning",
            ["lightning.pytorch.callbacks.callback", "pytorch_lightning.callbacks.callback"],
        ),
    ],
)
def test_the_class_belongs_to_the_packages_that_the_program_has_imported(imports: str, bases: list[str]) -> None:
    code = f"{imports}; from remotelr.lightning import RemoteLR; print(*[b.__module__ for b in RemoteLR.__bases__])"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert bases == done.stdout.split()


def test_disabled_leaves_the_rate_and_the_schedulers_of_the_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REMOTELR_MODE", "disabled")

    def both(module: Any) -> Any:
        optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)]

    used = fit(tmp_path, RemoteLR(), module=model(optimizers=both))

    assert [0.1, 0.05, 0.025, 0.0125] == used[::5]


def reports(service: InMemoryService) -> list[dict[str, Any]]:
    return [
        dict(event.payload) | {"epoch": event.epoch} for event in service.events("mnist-7") if event.kind == "report"
    ]


def status(service: InMemoryService) -> str:
    return str(service._runs["mnist-7"].run.status)
