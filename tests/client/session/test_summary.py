"""What a process prints at the start and at the end of a run."""

from remotelr.testing import InMemoryService
from support.jobs import QUIET, Job, losses, trained_job


def test_the_start_line_names_run_service_epoch_rate_and_the_command_that_follows_it():
    job = Job(InMemoryService()).start()
    job.session.begin(0, 0)

    assert job.session.start_line() == (
        "RemoteLR: run 'job' on http://remotelr.test begins epoch 1 with learning rate 0.1. "
        "Follow it with: remotelr runs watch job"
    )


def test_the_end_line_counts_epochs_and_reductions_and_names_the_epoch_with_the_best_value():
    service = InMemoryService()
    job = trained_job(30, service)

    decisions = [event.decision for event in service.events("job") if event.kind == "report"]
    reductions = sum(decision.reason == "plateau" for decision in decisions)
    best, epoch = min((value, number) for number, value in enumerate(losses(30), start=1))
    assert reductions > 3
    assert job.session.end_line("completed") == (
        f"RemoteLR: run 'job' is completed: 30 epochs, {reductions} reductions, best val_loss {best:.6g} in epoch "
        f"{epoch}."
    )


@QUIET
def test_without_a_decision_the_start_line_says_that_the_optimizers_rate_stays():
    service = InMemoryService()
    service.away = True
    job = Job(service).start(on_unreachable="hold")

    assert "keeps the optimizer's learning rate" in job.session.start_line()
