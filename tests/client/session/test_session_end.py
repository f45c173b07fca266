"""What becomes of a training's last words."""

import pytest

from remotelr import Client
from remotelr.errors import RemoteLRWarning
from remotelr.testing import InMemoryService
from support.jobs import QUIET, Job, history, trained_job, undisturbed


@QUIET
def test_the_file_of_a_finished_run_is_removed_when_the_service_has_acknowledged_it(tmp_path):
    service = InMemoryService()
    job = trained_job(5, service, tmp_path / "spool")

    job.session.finish("completed")

    assert not (tmp_path / "spool").exists()
    assert service._runs["job"].run.status == "completed"


def test_a_run_that_ends_during_an_outage_names_the_file_of_its_reports(tmp_path):
    service = InMemoryService()
    job = Job(service, tmp_path / "spool").start()
    service.away = True

    with pytest.warns(RemoteLRWarning, match="goes on by the same rules"):
        job.train(0, 5)
    with pytest.warns(RemoteLRWarning, match=f"5 reports .* are in {tmp_path / 'spool'} and will be delivered"):
        job.session.finish("completed")

    assert (tmp_path / "spool").exists()


def statuses(service: InMemoryService) -> list[str]:
    return [event.payload["status"] for event in service.events("job") if event.kind == "finished"]


@pytest.fixture
def ended_offline(tmp_path):
    """A service, and a job whose last epochs and end it has not received."""
    service = InMemoryService()
    job = trained_job(5, service, tmp_path / "spool")
    service.away = True
    job.train(5, 7)
    job.session.finish("completed")
    service.away = False
    return service, job


@QUIET
def test_the_next_process_delivers_an_end_that_the_service_has_not_received(ended_offline):
    service, job = ended_offline

    rates = job.start().train(7, 9)

    assert rates == undisturbed(9)
    assert [epoch for epoch, *_ in history(service)] == list(range(9))
    assert statuses(service) == ["completed"]
    kinds = [event.kind for event in service.events("job")]
    assert kinds.index("finished") < len(kinds) - 1 - kinds[::-1].index("attempt")


@QUIET
def test_a_process_without_epochs_delivers_what_the_previous_one_left(ended_offline, tmp_path):
    service, job = ended_offline

    job.start().session.finish("completed")

    assert [epoch for epoch, *_ in history(service)] == list(range(7))
    assert statuses(service) == ["completed"]
    assert not (tmp_path / "spool").exists()


def test_a_process_without_an_epoch_does_not_change_the_run(tmp_path):
    service = InMemoryService()
    job = trained_job(5, service, tmp_path / "spool")
    job.die()

    job.start().session.finish("completed")

    assert statuses(service) == []
    assert job.start().train(5, 9) == undisturbed(9)


def test_an_undelivered_end_names_its_file(tmp_path):
    service = InMemoryService()
    job = trained_job(5, service, tmp_path / "spool")
    service.away = True

    with pytest.warns(RemoteLRWarning) as warned:
        job.session.finish("completed")

    assert f"the end of run 'job' did not reach the service: it is in {tmp_path / 'spool'}" in str(warned[-1].message)


@QUIET
def test_an_acknowledged_end_is_not_delivered_again(tmp_path):
    """A file that stays would deliver the end again, and end an attempt that has begun meanwhile."""
    service = InMemoryService()
    job = trained_job(5, service, tmp_path / "state", lasting=True)
    job.session.finish("completed")
    Job(service).start().train(5, 6)

    job.start().train(6, 8)

    assert statuses(service) == ["completed"]
    assert (tmp_path / "state").exists()


@QUIET
def test_an_end_with_another_status_than_the_runs_is_rejected(tmp_path):
    service = InMemoryService()
    job = trained_job(5, service, tmp_path / "spool")
    with Client(service.url, transport=service) as operator:
        operator.get_run("job").finish("failed")

    job.session.finish("completed")

    assert statuses(service) == ["failed"]
    assert '"completed"' in (tmp_path / "spool.rejected").read_text()


@QUIET
def test_a_file_is_read_up_to_an_unknown_status(tmp_path):
    job = trained_job(5, None, tmp_path / "state")
    job.session._journal._spool.append({"end": {"status": "evaporated"}})
    job.die()

    assert job.start().train(5, 9) == undisturbed(9)


@pytest.mark.parametrize("status", ["completed", "stopped"])
def test_a_training_that_begins_a_finished_run_again_is_warned_of_once(status):
    job = Job(InMemoryService()).start()
    job.train(0, 5)
    job.session.finish(status)
    job.start()

    with pytest.warns(RemoteLRWarning) as warned:
        job.train(0, 3)

    [text] = [str(each.message) for each in warned]
    assert f"run 'job' was {status} with 5 epochs and begins again at epoch 1. The old epochs stay" in text
    assert "Use another run= for a new training" in text


def test_a_finished_run_that_continues_where_it_ended_is_not_warned_of(recwarn):
    job = Job(InMemoryService()).start()
    job.train(0, 5)
    job.session.finish("completed")

    job.start().train(5, 8)

    assert not recwarn.list
