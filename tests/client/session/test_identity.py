"""The keys of a job's attempts, and what each attempt asks of a real service."""

import re

import pytest

from remotelr import Client
from remotelr._session.identity import ProcessIdentity
from remotelr._session.journal import Journal
from remotelr._session.session import Session

PLATEAU = {"type": "reduce_on_plateau", "monitor": "val_loss", "mode": "min", "factor": 0.5, "patience": 2}
FALLING = {
    "unit": "step",
    "schedule": {"type": "linear", "initial_learning_rate": 0.8, "end_learning_rate": 0.0, "decay_steps": 8},
}
SLURM = {"SLURM_JOB_ID": "4711", "SLURM_RESTART_COUNT": "2"}


@pytest.fixture
def key(request: pytest.FixtureRequest) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", request.node.name).strip("-")


@pytest.fixture
def session(shared_service, key, monkeypatch):
    """Makes sessions of the test's run, opened."""
    for variable in ("SLURM_JOB_ID", "TORCHELASTIC_RUN_ID"):
        monkeypatch.delenv(variable, raising=False)
    said: list[str] = []
    clients = []

    def make(policy, environ=None, **identity) -> Session:
        for name, value in (environ or {}).items():
            monkeypatch.setenv(name, value)
        clients.append(Client(shared_service.url))
        made = Session(
            clients[-1],
            key,
            {"policy": policy},
            journal=Journal(),
            identity=ProcessIdentity(**identity),
            say=said.append,
        )
        made.open(initial_learning_rate=0.1)
        return made

    yield make
    for client in clients:
        client.close()


def attempt_keys(shared_service, key) -> list[str]:
    events = shared_service.http.get(f"/v1/runs/{key}/events").json()["events"]
    return [event["key"] for event in events if event["kind"] == "attempt"]


def test_the_trainers_own_count_of_steps_serves_where_the_service_has_none(session):
    resumed = session(FALLING)

    resumed.begin(5, step=6)

    assert resumed.step_of(5) == 6
    assert resumed.learning_rate(5, step=1) == pytest.approx(0.1)


def test_a_single_process_never_shares_its_attempt_with_another_process_of_its_job(session, shared_service, key):
    """A script may start its trainer twice in one process of the job, from another epoch and with other losses."""
    session(PLATEAU, SLURM).begin(0, step=0)
    session(PLATEAU, SLURM).begin(0, step=0)

    first, second = attempt_keys(shared_service, key)
    assert first != second
    assert first.startswith("4711.2-")
    assert second.startswith("4711.2-")


def test_the_ranks_of_a_job_begin_one_attempt_together(session, shared_service, key):
    for rank in range(2):
        session(PLATEAU, SLURM, rank=rank, world_size=2).begin(0, step=0)

    assert attempt_keys(shared_service, key) == ["4711.2"]


def test_a_second_fit_of_the_same_ranks_is_another_attempt(session, shared_service, key):
    for number in (1, 2):
        for rank in range(2):
            session(PLATEAU, rank=rank, world_size=2, attempt_key="job-7", number=number).begin(0, step=0)

    assert attempt_keys(shared_service, key) == ["job-7", "job-7.2"]


def test_an_epoch_nothing_was_decided_for_has_no_rate(session):
    following = session(PLATEAU)
    following.begin(0, step=0)

    assert following.learning_rate(0, step=0) == pytest.approx(0.1)
    assert following.learning_rate(1, step=0) is None


def test_a_report_before_the_beginning_is_not_sent(session, shared_service, key):
    session(PLATEAU).report(0, {"val_loss": 1.0}, step=None, learning_rate=None)

    assert shared_service.http.get(f"/v1/runs/{key}/history").json()["reports"] == []
