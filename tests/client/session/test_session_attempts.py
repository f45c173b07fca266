"""A training that is killed and started again, from any checkpoint, has the rates of one that was not."""

import warnings
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from remotelr import Client
from remotelr.errors import RemoteLRWarning
from remotelr.testing import InMemoryService
from support.jobs import (
    PER_STEP,
    PLATEAU,
    QUIET,
    Job,
    backup_of,
    history,
    job_with_outage,
    restore,
    trained_job,
    undisturbed,
)


@QUIET
def test_the_next_process_delivers_what_a_killed_trainer_could_not(tmp_path):
    service = InMemoryService()
    job = job_with_outage(5, 11, service, tmp_path / "spool")
    job.die()

    rates = job.start().train(11, 20)

    assert rates == undisturbed(20)
    assert [epoch for epoch, *_ in history(service)] == list(range(20))


@QUIET
@pytest.mark.parametrize("policy", [PLATEAU, PER_STEP])
@pytest.mark.parametrize("checkpoint", [11, 9, 4, 0])
def test_a_killed_trainer_resumes_without_the_service_from_any_checkpoint(tmp_path, policy, checkpoint):
    """Service and trainer are both killed, and the trainer is back first."""
    service = InMemoryService()
    job = trained_job(6, service, tmp_path / "spool", policy)
    service.away = True
    job.train(6, 11)
    job.die()

    job.start().train(checkpoint, 15)
    service.away = False
    rates = job.train(15, 20)

    assert rates == undisturbed(20, policy)
    assert [epoch for epoch, *_ in history(service)] == list(range(20))


@QUIET
@pytest.mark.parametrize("reached", [True, False])
def test_a_rewind_to_before_the_spooled_reports_counts_every_epoch_once(tmp_path, reached):
    service = InMemoryService()
    job = trained_job(6, service, tmp_path / "spool")
    service.away = True
    job.train(6, 12)
    job.die()
    service.away = not reached

    job.start().train(8, 14)
    service.away = False
    rates = job.train(14, 20)

    assert rates == undisturbed(20)
    assert [epoch for epoch, *_ in history(service)] == list(range(20))


@QUIET
def test_spooled_reports_of_an_attempt_that_was_taken_over_are_rejected(tmp_path):
    service = InMemoryService()
    here, elsewhere = Job(service, tmp_path / "here").start(), Job(service)
    here.train(0, 5)
    here.train_offline(5, 9)
    here.die()
    elsewhere.start().train(5, 12)

    here.rates |= elsewhere.rates
    rates = here.start().train(12, 15)

    assert rates == undisturbed(15)
    assert [epoch for epoch, *_ in history(service)] == list(range(15))
    assert len((tmp_path / "here.rejected").read_text().splitlines()) == 4
    assert not here.session.lost


@QUIET
def test_spooled_reports_of_a_run_that_an_operator_has_ended_are_rejected(tmp_path):
    service = InMemoryService()
    job = job_with_outage(5, 9, service, tmp_path / "spool")
    job.die()
    with Client(service.url, transport=service) as operator:
        operator.get_run("job").finish("failed")

    job.start().train(9, 12)

    assert [epoch for epoch, *_ in history(service)] == [*range(5), 9, 10, 11]
    assert len((tmp_path / "spool.rejected").read_text().splitlines()) == 4


def test_a_trainer_that_was_taken_over_stops(tmp_path):
    service = InMemoryService()
    zombie = Job(service).start()
    zombie.train(0, 5)
    Job(service).start().train(5, 7)

    zombie.train(5, 6)

    assert zombie.session.lost
    assert zombie.session.learning_rate(6, 0) is None


@QUIET
def test_a_full_file_still_has_the_newest_decision(tmp_path):
    service = InMemoryService()
    service.away = True
    job = Job(service, tmp_path / "spool").start(max_bytes=6_000)
    job.train(0, 60)
    job.die()

    rates = job.start().train(60, 80)

    assert (tmp_path / "spool").stat().st_size < 2**20
    assert rates == undisturbed(80)


outages = st.lists(st.booleans(), min_size=1, max_size=40)
deaths = st.lists(st.integers(0, 39), max_size=3)


@given(
    away=outages, deaths=deaths, polite=st.booleans(), rewind=st.integers(0, 6), restored=st.none() | st.integers(0, 39)
)
# The service lost epochs and their decisions before an attempt that was to continue locally; and before an end.
@example(away=[True, False], deaths=[7], polite=True, rewind=0, restored=2)
@example(away=[False], deaths=[9], polite=True, rewind=0, restored=5)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_random_outages_and_kills_do_not_change_the_curve(tmp_path_factory, *, away, deaths, polite, rewind, restored):
    """Outages of the service, deaths of the trainer with older checkpoints, a backup restored: all at random.

    polite: it says that it ends, and is started again all the same, from a file that outlives the run's end.
    """
    service, spool = InMemoryService(), tmp_path_factory.mktemp("job") / "spool"
    job, backup = Job(service, spool, lasting=polite), None
    pending = sorted(deaths)
    # Some thousand syncs, of a disk that may have much else to do.
    with warnings.catch_warnings(), patch("os.fsync"):
        warnings.simplefilter("ignore", RemoteLRWarning)
        service.away = away[0]
        job.start()
        epoch = 0
        while epoch < 40:
            service.away = away[epoch % len(away)]
            job.train(epoch, epoch + 1)
            epoch += 1
            if restored == epoch and "job" in service._runs:
                backup = backup_of(service)
            if backup is not None and epoch == restored + 5:
                restore(service, backup)
                backup = None
            if pending and epoch > pending[0]:
                pending.pop(0)
                if polite:
                    job.session.finish("failed")
                job.die()
                epoch = max(epoch - rewind, 0)
                service.away = away[epoch % len(away)]
                job.start()
        service.away = False
        rates = job.train(40, 42)

    assert rates == undisturbed(42)
    assert [entry[0] for entry in history(service)] == list(range(42))
