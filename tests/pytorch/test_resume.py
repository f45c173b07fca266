"""A training that is killed and resumed has the rates of one that was not."""

from typing import Any

import httpx
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed: `make adapters` runs these tests")

from remotelr.errors import RemoteLRWarning  # noqa: E402
from remotelr.testing import InMemoryService  # noqa: E402
from remotelr.torch import RemoteLR  # noqa: E402
from support.pytorch.job import COSINE, PLATEAU, undisturbed  # noqa: E402
from support.pytorch.loops import sgd, step, train  # noqa: E402

POLICIES = pytest.mark.parametrize("policy", [PLATEAU, COSINE], ids=["plateau", "cosine"])
KILLED = -9


def run_of(url: str, key: str) -> Any:
    return httpx.get(f"{url}/v1/runs/{key}", trust_env=False).json()


@pytest.mark.parametrize(
    ("policy", "save_every"),
    [(PLATEAU, None), (PLATEAU, 2), (COSINE, 2)],
    ids=["plateau-saved-at-the-end", "plateau-saved-within-epochs", "cosine-saved-within-epochs"],
)
def test_a_killed_training_resumes_at_the_rate_of_every_step(new_job, url, key, policy, save_every):
    job = new_job(url=url, run=key, policy=policy, kill_at=[3, 3, 0], save_every=save_every).start()
    assert [KILLED] == job.wait()

    assert [0] == job.start().wait(), job.output

    assert undisturbed(policy) == job.rates()
    assert ("completed", 2) == (run_of(url, key)["status"], run_of(url, key)["attempt"])


@POLICIES
def test_a_training_killed_during_an_outage_resumes_and_reports_everything(new_job, mortal_service, key, policy):
    mortal_service.start()
    url = mortal_service.url
    job = new_job(
        url=url, run=key, policy=policy, timeout_s=1.0, kill_at=[3, 2, 0], wait_at={"1": ["away"], "5": ["back"]}
    ).start()
    job.wait_for("away")
    mortal_service.kill()
    job.go_on("away")
    assert [KILLED] == job.wait()
    job.start()
    job.wait_for("back")
    mortal_service.start()
    job.go_on("back")

    assert [0] == job.wait(), job.output

    assert undisturbed(policy) == job.rates()
    assert ("completed", 6) == (run_of(url, key)["status"], run_of(url, key)["epoch"])


def remote(service: InMemoryService, optimizer: Any, **settings: Any) -> RemoteLR:
    return RemoteLR(optimizer, service.url, "run", patience=0, transport=service, verbose=False, **settings)


@pytest.mark.parametrize("make", [lambda p: torch.optim.Adam(p, lr=0.1), lambda p: torch.optim.SGD(p, 0.1, 0.9)])
def test_a_kept_optimizer_with_a_forgotten_scheduler_is_refused(make):
    service = InMemoryService()
    optimizer = make([torch.nn.Parameter(torch.zeros(1))])
    train(remote(service, optimizer), [1.0] * 3)
    resumed = make([torch.nn.Parameter(torch.zeros(1))])
    resumed.load_state_dict(optimizer.state_dict())
    remote(service, resumed, state_file=None)

    with pytest.raises(ValueError, match=r"load the scheduler's state with load_state_dict, or give last_epoch="):
        step(resumed)

    assert 4 == len(service.learning_rates("run"))


def test_the_state_is_of_plain_numbers(tmp_path):
    optimizer = sgd(0.1, 0.01)
    scheduler = remote(InMemoryService(), optimizer)
    train(scheduler, [1.0] * 2, steps=3)
    step(optimizer)

    torch.save(scheduler.state_dict(), tmp_path / "state.pt")

    assert scheduler.state_dict() == torch.load(tmp_path / "state.pt", weights_only=True)
    assert {"last_epoch": 2, "steps": 7, "steps_in_epoch": 1}.items() <= scheduler.state_dict().items()


@pytest.mark.parametrize("policy", [PLATEAU, COSINE], ids=["plateau", "cosine"])
@pytest.mark.parametrize("into_epoch", [0, 2])
def test_a_checkpoint_suffices_without_a_service_and_a_file(policy, into_epoch):
    first = RemoteLR(sgd(0.1, 0.01), policy=policy, steps_per_epoch=5, verbose=False)
    whole = RemoteLR(sgd(0.1, 0.01), policy=policy, steps_per_epoch=5, verbose=False)
    losses = [1.0 + 0.1 * (epoch % 2) for epoch in range(6)]
    train(first, losses[:3], steps=5)
    for _ in range(into_epoch):
        step(first.optimizer)
    optimizer = sgd(0.1, 0.01)
    optimizer.load_state_dict(first.optimizer.state_dict())
    resumed = RemoteLR(optimizer, policy=policy, steps_per_epoch=5, verbose=False)

    resumed.load_state_dict(first.state_dict())

    used = train(resumed, losses[3:4], steps=5 - into_epoch) + train(resumed, losses[4:], steps=5)
    assert train(whole, losses, steps=5)[15 + into_epoch :] == used


def test_a_checkpoint_suffices_while_the_service_is_away_and_the_file_is_lost(tmp_path):
    service = InMemoryService()
    first = remote(service, sgd(0.1), factor=0.5, spool_dir=tmp_path / "lost")
    train(first, [1.0] * 3)
    service.away = True
    resumed = remote(service, sgd(0.1), factor=0.5, spool_dir=tmp_path / "new", timeout_s=0.1)
    resumed.load_state_dict(first.state_dict())

    with pytest.warns(RemoteLRWarning):
        rates = train(resumed, [1.0] * 2)
    service.away = False
    rates += train(resumed, [1.0])

    assert [[0.025], [0.0125], [0.00625]] == rates
    assert [0.1, 0.1, 0.05, 0.025, 0.0125, 0.00625, 0.003125] == service.learning_rates("run")


def test_the_state_of_another_scheduler_is_refused():
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(sgd(0.1))

    with pytest.raises(ValueError, match="it is not the state of a RemoteLR"):
        remote(InMemoryService(), sgd(0.1)).load_state_dict(plateau.state_dict())


def test_a_state_is_refused_while_the_training_runs():
    scheduler = remote(InMemoryService(), sgd(0.1))
    train(scheduler, [1.0])

    with pytest.raises(ValueError, match="load the state before the first optimizer step"):
        scheduler.load_state_dict(scheduler.state_dict())


def test_a_loaded_state_does_not_bring_old_settings_back():
    """torch's plateau takes `patience` and `factor` from the checkpoint."""
    first = remote(InMemoryService(), sgd(0.1), factor=0.5)
    train(first, [1.0])
    second = RemoteLR(sgd(0.1), factor=0.2, patience=4, verbose=False)

    second.load_state_dict(first.state_dict())

    assert (0.2, 4, 1) == (second.factor, second.patience, second.last_epoch)


def test_a_closed_training_goes_on_from_a_loaded_state():
    service, optimizer = InMemoryService(), sgd(0.1)
    scheduler = remote(service, optimizer, total_epochs=3)
    train(scheduler, [1.0])
    saved = scheduler.state_dict()
    rates = train(scheduler, [1.0] * 2)

    scheduler.load_state_dict(saved)

    with pytest.warns(RemoteLRWarning, match="was completed with 3 epochs and begins again at epoch 2"):
        again = train(scheduler, [1.0] * 2)
    assert rates == again
    assert "completed" == service._runs["run"].run.status
