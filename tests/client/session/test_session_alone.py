"""A training without a service: the same rates, and a file that carries them to the next attempt, or to a service."""

import pytest

from remotelr._session.spool import Spool
from remotelr.rules import PolicyConflict
from remotelr.testing import InMemoryService
from support.jobs import PLATEAU, Job, history, trained_job, undisturbed


def test_without_a_service_the_rates_are_the_same():
    job = Job(None).start()

    assert job.train(0, 20) == undisturbed(20)


def test_without_a_service_a_state_file_carries_the_run_to_the_next_process(tmp_path):
    job = trained_job(9, None, tmp_path / "state")
    job.die()

    assert job.start().train(8, 20) == undisturbed(20)


def test_a_state_file_makes_a_local_training_a_central_one(tmp_path):
    job = trained_job(9, None, tmp_path / "state")
    job.session.finish("completed")
    job.service = InMemoryService()

    rates = job.start().train(9, 20)

    assert rates == undisturbed(20)
    assert [epoch for epoch, *_ in history(job.service)] == list(range(20))


def test_another_policy_for_a_state_file_is_refused(tmp_path):
    job = trained_job(3, None, tmp_path / "state")
    job.die()

    with pytest.raises(PolicyConflict):
        Job(None, tmp_path / "state", {**PLATEAU, "patience": 7}).start()


def test_a_state_file_full_of_nonsense_is_a_fresh_start(tmp_path):
    spool = Spool(tmp_path / "state")
    spool.append({"run": {"policy": PLATEAU, "initial_learning_rate": 0.1}})
    spool.append({"attempt": {"key": [], "epoch": 10**30}})
    spool.append({"decision": {"run": 5}})
    spool.close()

    assert Job(None, tmp_path / "state").start().train(0, 20) == undisturbed(20)
