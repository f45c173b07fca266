"""A service that is away for a while leaves no trace in a training: neither in its rates nor in its history."""

from dataclasses import replace

import pytest

from remotelr import Client, ServiceUnreachable
from remotelr._http.transport import NoAnswer
from remotelr._session.identity import ProcessIdentity
from remotelr.errors import RemoteLRWarning
from remotelr.rules import Command
from remotelr.testing import InMemoryService
from support.jobs import PER_STEP, PLATEAU, QUIET, Job, history, job_with_outage, trained_job, undisturbed


@QUIET
@pytest.mark.parametrize("policy", [PLATEAU, PER_STEP])
def test_an_outage_leaves_no_trace_in_the_rates_nor_in_the_runs_history(policy):
    whole = InMemoryService()
    expected = Job(whole, policy=policy).start().train(0, 30)
    service = InMemoryService()
    job = Job(service, policy=policy).start()

    job.train(0, 8)
    job.train_offline(8, 22)
    rates = job.train(22, 30)

    assert rates == expected
    assert history(service) == history(whole)
    assert len({rate for each in rates for rate in each}) > 5


@QUIET
def test_epochs_decided_locally_are_marked_in_the_log():
    service = InMemoryService()
    job = job_with_outage(3, 6, service)

    job.train(6, 8)

    marked = [event.payload.get("local", False) for event in service.events("job") if event.kind == "report"]
    # The rate of epoch 3 was still the service's.
    assert marked == [False, False, False, False, True, True, True, False]


@QUIET
def test_a_service_that_is_away_at_the_start_gets_the_run_when_it_comes_up():
    service = InMemoryService()
    service.away = True
    job = trained_job(10, service)
    service.away = False

    rates = job.train(10, 20)

    assert rates == undisturbed(20)
    assert service.learning_rates("job")[:20] == [each[0] for each in rates]


def test_an_outage_is_one_warning_and_one_message():
    service = InMemoryService()
    job = Job(service).start()

    def train():
        for first in range(0, 12, 2):
            service.away = bool(first % 4 == 0 and first)
            job.train(first, first + 2)

    with pytest.warns(RemoteLRWarning) as warned:
        train()

    assert [str(warning.message).partition(". ")[2] for warning in warned] == [
        "Training goes on by the same rules here."
    ] * 2
    assert job.said == ["RemoteLR: http://remotelr.test answers again."] * 2


@QUIET
def test_a_command_during_an_outage_takes_precedence_and_both_sides_report_it():
    service = InMemoryService()
    job = trained_job(5, service)
    service.away = True
    job.train(5, 10)
    service.command("job", Command(type="set_learning_rate", value=0.0123))
    service.away = False

    rates = job.train(10, 12)

    assert [rate for [rate] in rates[:11]] == [rate for [rate] in undisturbed(11)]
    assert rates[11] == [0.0123]
    assert "the run was changed while the service was unreachable: epoch 12 has learning rate 0.0123" in job.said[-1]
    # The order holds from epoch 6 on, whose report then shows what was really used.
    assert [epoch for epoch, _, _, notes in history(service) if "drift" in notes] == [6, 7, 8, 9, 10]


@QUIET
def test_a_trainer_continues_locally_with_a_policy_that_an_operator_replaced():
    service, patient = InMemoryService(), {**PLATEAU, "patience": 3, "factor": 0.5}
    job = trained_job(5, service)
    with Client(service.url, transport=service) as operator:
        operator.run("job", policy=patient, on_conflict="replace")
    job.train(5, 10)
    job.train_offline(10, 25)

    job.train(25, 26)

    assert not any("changed" in said for said in job.said)


class Distracted(InMemoryService):
    """Does not answer a GET while it is distracted."""

    distracted = False

    def send(self, request, timeout_s):
        if self.distracted and request.method == "GET":
            raise NoAnswer("not now")
        return super().send(request, timeout_s)


@QUIET
def test_a_replaced_policy_that_could_not_be_read_at_once_is_read_later():
    """The new one gives the same rates at first, so that only the number of its event shows the change."""
    service = Distracted()
    job = trained_job(5, service, policy={"type": "constant", "learning_rate": 0.1})
    with Client(service.url, transport=service) as operator:
        falling = {"type": "multi_step", "milestones": [10], "gamma": 0.5, "initial_learning_rate": 0.1}
        operator.run("job", policy=falling, on_conflict="replace")
    service.distracted = True
    job.train(5, 6)
    service.distracted = False
    job.train(6, 7)
    job.said.clear()
    job.train_offline(7, 20)

    job.train(20, 21)

    assert job.said == ["RemoteLR: http://remotelr.test answers again."]


def test_holding_keeps_the_last_rate_and_delivers_every_report_afterwards():
    service = InMemoryService()
    job = Job(service).start(on_unreachable="hold")
    job.train(0, 5)
    service.away = True
    with pytest.warns(RemoteLRWarning, match="goes on with the last learning rate"):
        job.train(5, 10)
    service.away = False

    rates = job.train(10, 15)

    # The rate of epoch 5 was decided before; None leaves the optimizer as it is.
    assert rates[6:11] == [[None]] * 5
    assert rates[11:] == undisturbed(15)[11:]


def test_raising_ends_the_training():
    service = InMemoryService()
    job = Job(service).start(on_unreachable="raise")
    job.train(0, 2)
    service.away = True

    with pytest.raises(ServiceUnreachable):
        job.train(2, 3)


def test_raising_does_so_before_the_first_epoch_too():
    service = InMemoryService()
    service.away = True

    with pytest.raises(ServiceUnreachable):
        Job(service).start(on_unreachable="raise")


@QUIET
def test_ranks_hold_what_depends_on_metrics_and_follow_what_does_not():
    falling = {"type": "step", "step_size": 1, "gamma": 0.5}
    for policy, expected in ((PLATEAU, [None] * 3), (falling, [0.1 / 2**4, 0.1 / 2**5, 0.1 / 2**6])):
        service = InMemoryService()
        ranks = [
            Job(service, policy=policy).start(identity=ProcessIdentity(rank=rank, world_size=2, attempt_key="a"))
            for rank in (0, 1)
        ]
        for epoch in range(3):
            for rank in ranks:
                rank.train(epoch, epoch + 1)
        service.away = True

        for rank in ranks:
            rank.train(3, 7)

        assert [[rank.rates[epoch][0] for epoch in (4, 5, 6)] for rank in ranks] == [expected] * 2


@QUIET
def test_an_hour_of_outage_fits_a_bounded_file_and_is_delivered_in_few_requests(tmp_path, monkeypatch):
    monkeypatch.setattr("os.fsync", lambda _: None)
    service = InMemoryService()
    job = trained_job(5, service, tmp_path / "spool")
    service.away = True
    job.train(5, 3605)
    size, asked = (tmp_path / "spool").stat().st_size, len(service.requests)
    service.away = False

    rates = job.train(3605, 3606)

    assert size < 2**20
    assert len(service.requests) - asked < 25
    assert rates == Job(InMemoryService()).start().train(0, 3606)
    assert len(history(service)) == 3606


class Newer(InMemoryService):
    """Of a release that remembers something of a run that ours does not know."""

    newer = True

    def send(self, request, timeout_s):
        response = super().send(request, timeout_s)
        known = b'"state": {'
        assert not self.newer or known in response.body
        return replace(response, body=response.body.replace(known, known + b'"moonphase": 1, ' * self.newer))


def test_a_service_with_unknown_state_is_followed_with_one_warning():
    with pytest.warns(RemoteLRWarning, match="Install the version of the service") as warned:
        rates = Job(Newer()).start().train(0, 10)

    assert rates == undisturbed(10)
    assert len(warned) == 1


@QUIET
def test_a_service_upgraded_during_a_training_is_followed_as_before():
    service = Newer()
    service.newer = False
    job = trained_job(5, service, policy=PER_STEP)
    service.newer = True
    job.train(5, 10)
    held = job.session.decision
    service.away = True
    job.train(10, 12)
    service.away = service.newer = False

    rates = job.train(12, 20)

    assert (held.epoch, held.local) == (10, False)
    assert rates[15:] == undisturbed(20, PER_STEP)[15:]


class Slow(InMemoryService):
    """Has no answer in time for more than 25 reports at once."""

    def send(self, request, timeout_s):
        response = super().send(request, timeout_s)
        if request.path.endswith("/batch") and request.body.count(b"epoch") > 25:
            raise NoAnswer("too much at once")
        return response


@QUIET
def test_a_slow_service_receives_smaller_batches():
    service = Slow()
    job = job_with_outage(2, 300, service)

    job.train(300, 330)

    assert not job.session.decision.local
    assert [epoch for epoch, *_ in history(service)] == list(range(330))


class Hurried(InMemoryService):
    """Takes one batch at each epoch; then the epoch's time is over."""

    tired = False

    def send(self, request, timeout_s):
        if self.tired:
            raise NoAnswer("the time is over")
        self.tired = request.path.endswith("/batch")
        return super().send(request, timeout_s)


@QUIET
def test_a_service_that_acknowledges_a_part_at_each_epoch_does_not_count_as_away():
    """Else the breaker would rest nine times as long as each part took: an hour of reports would take ten."""
    service = Hurried()
    job = job_with_outage(2, 1000, service)

    for epoch in range(1000, 1004):
        service.tired = False
        job.train(epoch, epoch + 1)
        assert not job.session._service._breaker.is_open
