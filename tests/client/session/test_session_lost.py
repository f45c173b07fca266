"""A session sends lost reports to the service again, and lays aside the reports that the service rejects for good."""

import pytest

from remotelr.errors import RemoteLRWarning
from remotelr.testing import InMemoryService
from support.jobs import QUIET, Job, backup_of, history, restore, trained_job, undisturbed


@QUIET
@pytest.mark.parametrize("lost", [1, 5, 12, 20])
def test_a_service_restored_from_an_old_backup_receives_again_what_it_lost(lost):
    """F14: acknowledged epochs are gone; the trainer remembers them."""
    service, epochs = InMemoryService(), 20
    job = Job(service).start()
    job.train(0, epochs - lost)
    backup = backup_of(service)
    job.train(epochs - lost, epochs)
    restore(service, backup)

    rates = job.train(epochs, 30)

    assert rates == undisturbed(30)
    assert [epoch for epoch, *_ in history(service)] == list(range(30))


@QUIET
def test_a_service_that_lost_the_whole_run_receives_it_again():
    service = InMemoryService()
    job = trained_job(10, service)
    service._runs.clear()

    rates = job.train(10, 20)

    assert rates == undisturbed(20)
    assert [epoch for epoch, *_ in history(service)] == list(range(20))


@QUIET
def test_a_service_that_lost_an_attempt_and_earlier_epochs_receives_both_again(tmp_path):
    service = InMemoryService()
    job = trained_job(6, service, tmp_path / "spool")
    backup = backup_of(service)
    job.train(6, 10)
    job.die()
    job.start().train(10, 14)
    restore(service, backup)

    rates = job.train(14, 20)

    assert rates == undisturbed(20)
    assert [epoch for epoch, *_ in history(service)] == list(range(20))


def test_a_service_that_lost_a_rewind_goes_back_again(tmp_path):
    """Its backup holds epochs of the first attempt; the second attempt measured other values in them."""
    service = InMemoryService()
    job = trained_job(6, service, tmp_path / "spool")
    backup = backup_of(service)
    job.die()
    job.start().train(3, 9, noise=0.5)
    expected = [event.payload for event in service.events("job") if event.kind == "report"][6:]
    restore(service, backup)

    job.train(9, 10)

    stored = [event.payload for event in service.events("job") if event.kind == "report" and not event.superseded_by]
    assert stored[3:9] == expected


def test_epochs_that_neither_side_has_are_left_out_with_a_warning():
    service = InMemoryService()
    Job(service).start().train(0, 3)

    job = Job(service).start()
    with pytest.warns(RemoteLRWarning, match="has reports of the epochs just before"):
        job.train(6, 8)

    assert [epoch for epoch, *_ in history(service)] == [0, 1, 2, 6, 7]


@QUIET
def test_a_report_that_is_never_accepted_is_rejected_and_the_others_are_delivered(tmp_path):
    service = InMemoryService()
    job = trained_job(3, service, tmp_path / "spool")
    service.away = True
    job.train(3, 9)
    # What a fault of ours, a newer service or a careful attacker might leave in the middle of it.
    entries = job.session._journal.entries
    entries.insert(len(entries) - 3, entries[-3].__class__(epoch=-5, metrics={}))
    service.away = False

    rates = job.train(9, 15)

    assert rates == undisturbed(15)
    assert [epoch for epoch, *_ in history(service)] == list(range(15))
    assert '"epoch": -5' in (tmp_path / "spool.rejected").read_text()
