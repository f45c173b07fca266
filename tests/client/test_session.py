"""A trainer whose service comes and goes, loses what it knew, or never was there, has the rates of one undisturbed."""

import random
import time
import warnings
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from remotelr import Client, ServiceUnreachable
from remotelr._journal import Journal
from remotelr._session import Life, Session
from remotelr._spool import Spool
from remotelr._transport import NoAnswer
from remotelr.errors import RemoteLRWarning
from remotelr.rules import Command, PolicyConflict
from remotelr.testing import InMemoryService

PLATEAU = {"type": "reduce_on_plateau", "factor": 0.97, "patience": 1, "cooldown": 1, "min_delta": 0.0}
PER_STEP = {
    "unit": "step",
    "schedule": {
        "type": "sequential",
        "milestones": [40],
        "schedules": [
            {"type": "linear", "initial_learning_rate": 0.01, "end_learning_rate": 0.1, "decay_steps": 40},
            PLATEAU,
        ],
    },
}
STEPS = 10
QUIET = pytest.mark.filterwarnings("ignore::remotelr.errors.RemoteLRWarning")


def losses(count: int) -> list[float]:
    dice = random.Random(7)
    return [round(1 / (1 + 0.05 * epoch) + dice.gauss(0, 0.05), 6) for epoch in range(count)]


class Job:
    """A training job: its service, its file, and the rates it trained with. `start` begins another life of it."""

    def __init__(self, service: InMemoryService | None, spool: Path | None = None, policy=PLATEAU, **members) -> None:
        self.service = service
        self.rates: dict[int, list[float]] = {}
        self.said: list[str] = []
        self._spool = spool
        self._members = {"policy": policy, **members}

    def start(self, **settings) -> "Job":
        client = None
        if self.service is not None:
            # So short a budget that nobody waits before asking again.
            client = Client(self.service.url, transport=self.service, timeout_s=0.05)
        journal = Journal(None if self._spool is None else Spool(self._spool))
        self.session = Session(client, "job", self._members, journal=journal, say=self.said.append, **settings)
        self.session.open(initial_learning_rate=0.1, steps_per_epoch=STEPS, total_epochs=None)
        return self

    def die(self) -> None:
        """As SIGKILL would: no farewell; the file and its lock are all that the system lets go of."""
        if self.session._journal._spool is not None:
            self.session._journal._spool.close()

    def train(self, first: int, last: int, noise: float = 0.0) -> list[list[float]]:
        """The epochs from `first` to before `last`; the rate of every step, by epoch."""
        measured = [loss + noise for loss in losses(last)]
        for epoch in range(first, last):
            self.session.begin(epoch, epoch * STEPS)
            steps = STEPS if self.session.per_step else 1
            self.rates[epoch] = [self.session.learning_rate(epoch, step) for step in range(steps)]
            self.session.renew_budget()
            self.session.report(
                epoch,
                {"val_loss": measured[epoch]},
                step=(epoch + 1) * STEPS if self.session.counts_steps else None,
                learning_rate=self.rates[epoch][0],
            )
        return [self.rates[epoch] for epoch in sorted(self.rates)]


def undisturbed(epochs: int, policy=PLATEAU) -> list[list[float]]:
    rates = Job(InMemoryService(), policy=policy).start().train(0, epochs)
    assert len({rate for each in rates for rate in each}) > 2
    return rates


def history(service: InMemoryService) -> list[tuple]:
    return [
        (event.epoch, event.payload["metrics"], event.payload.get("learning_rate"), event.notes)
        for event in service.events("job")
        if event.kind == "report" and event.superseded_by is None
    ]


@QUIET
@pytest.mark.parametrize("policy", [PLATEAU, PER_STEP])
def test_an_outage_leaves_no_trace_in_the_rates_nor_in_the_runs_history(policy):
    whole = InMemoryService()
    expected = Job(whole, policy=policy).start().train(0, 30)
    service = InMemoryService()
    job = Job(service, policy=policy).start()

    job.train(0, 8)
    service.away = True
    job.train(8, 22)
    service.away = False
    rates = job.train(22, 30)

    assert rates == expected
    assert history(service) == history(whole)
    assert len({rate for each in rates for rate in each}) > 5


@QUIET
def test_epochs_trained_alone_are_marked_in_the_log():
    service = InMemoryService()
    job = Job(service).start()
    job.train(0, 3)
    service.away = True
    job.train(3, 6)
    service.away = False

    job.train(6, 8)

    marked = [event.payload.get("local", False) for event in service.events("job") if event.kind == "report"]
    # The rate of epoch 3 was still the service's.
    assert marked == [False, False, False, False, True, True, True, False]


@QUIET
def test_a_service_that_is_away_at_the_start_gets_the_run_when_it_comes_up():
    service = InMemoryService()
    service.away = True
    job = Job(service).start()
    job.train(0, 10)
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
def test_what_an_operator_ordered_meanwhile_wins_and_both_sides_say_so():
    service = InMemoryService()
    job = Job(service).start()
    job.train(0, 5)
    service.away = True
    job.train(5, 10)
    service.command("job", Command(type="set_learning_rate", value=0.0123))
    service.away = False

    rates = job.train(10, 12)

    assert [rate for [rate] in rates[:11]] == [rate for [rate] in undisturbed(11)]
    assert rates[11] == [0.0123]
    assert "the run was changed while it could not be reached: epoch 12 has learning rate 0.0123" in job.said[-1]
    # The order holds from epoch 6 on, whose report then shows what was really used.
    assert [epoch for epoch, _, _, notes in history(service) if "drift" in notes] == [6, 7, 8, 9, 10]


@QUIET
def test_a_policy_exchanged_by_somebody_is_the_one_the_trainer_goes_on_with_alone():
    service, patient = InMemoryService(), {**PLATEAU, "patience": 3, "factor": 0.5}
    job = Job(service).start()
    job.train(0, 5)
    with Client(service.url, transport=service) as operator:
        operator.run("job", policy=patient, on_conflict="replace")
    job.train(5, 10)
    service.away = True
    job.train(10, 25)
    service.away = False

    job.train(25, 26)

    assert not any("changed" in said for said in job.said)


@QUIET
def test_a_killed_trainer_tells_what_it_could_not_say_in_its_next_life(tmp_path):
    service = InMemoryService()
    job = Job(service, tmp_path / "spool").start()
    job.train(0, 5)
    service.away = True
    job.train(5, 11)
    job.die()
    service.away = False

    rates = job.start().train(11, 20)

    assert rates == undisturbed(20)
    assert [epoch for epoch, *_ in history(service)] == list(range(20))


@QUIET
@pytest.mark.parametrize("policy", [PLATEAU, PER_STEP])
@pytest.mark.parametrize("checkpoint", [11, 9, 4, 0])
def test_a_killed_trainer_goes_on_alone_from_any_checkpoint(tmp_path, policy, checkpoint):
    """Service and trainer are both killed, and the trainer is back first."""
    service = InMemoryService()
    job = Job(service, tmp_path / "spool", policy).start()
    job.train(0, 6)
    service.away = True
    job.train(6, 11)
    job.die()

    job.start().train(checkpoint, 15)
    service.away = False
    rates = job.train(15, 20)
    job.session.finish("completed")  # which asks once more, however long the breaker would rest

    assert rates == undisturbed(20, policy)
    assert [epoch for epoch, *_ in history(service)] == list(range(20))


@QUIET
@pytest.mark.parametrize("reached", [True, False])
def test_a_rewind_behind_what_lies_in_the_spool_counts_every_epoch_once(tmp_path, reached):
    service = InMemoryService()
    job = Job(service, tmp_path / "spool").start()
    job.train(0, 6)
    service.away = True
    job.train(6, 12)
    job.die()
    service.away = not reached

    job.start().train(8, 14)
    service.away = False
    rates = job.train(14, 20)
    job.session.finish("completed")

    assert rates == undisturbed(20)
    assert [epoch for epoch, *_ in history(service)] == list(range(20))


@QUIET
def test_what_lies_in_the_spool_of_a_life_that_was_taken_over_elsewhere_is_laid_aside(tmp_path):
    service = InMemoryService()
    here, elsewhere = Job(service, tmp_path / "here").start(), Job(service)
    here.train(0, 5)
    service.away = True
    here.train(5, 9)
    here.die()
    service.away = False
    elsewhere.start().train(5, 12)

    here.rates |= elsewhere.rates
    rates = here.start().train(12, 15)

    assert rates == undisturbed(15)
    assert [epoch for epoch, *_ in history(service)] == list(range(15))
    assert len((tmp_path / "here.rejected").read_text().splitlines()) == 4
    assert not here.session.lost


@QUIET
def test_what_lies_in_the_spool_of_a_run_somebody_has_ended_is_laid_aside(tmp_path):
    service = InMemoryService()
    job = Job(service, tmp_path / "spool").start()
    job.train(0, 5)
    service.away = True
    job.train(5, 9)
    job.die()
    service.away = False
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
@pytest.mark.parametrize("lost", [1, 5, 12, 20])
def test_a_service_restored_from_an_old_backup_is_told_again_what_it_lost(lost):
    """F14: acknowledged epochs are gone; the trainer remembers them."""
    service, epochs = InMemoryService(), 20
    job = Job(service).start()
    job.train(0, epochs - lost)
    backup = service._runs["job"].run, list(service._runs["job"].log.events)
    job.train(epochs - lost, epochs)
    service._runs["job"].run, service._runs["job"].log.events = backup

    rates = job.train(epochs, 30)

    assert rates == undisturbed(30)
    assert [epoch for epoch, *_ in history(service)] == list(range(30))


@QUIET
def test_a_service_that_lost_the_run_altogether_is_told_all_of_it():
    service = InMemoryService()
    job = Job(service).start()
    job.train(0, 10)
    service._runs.clear()

    rates = job.train(10, 20)

    assert rates == undisturbed(20)
    assert [epoch for epoch, *_ in history(service)] == list(range(20))


@QUIET
def test_a_service_that_lost_an_attempt_and_epochs_before_it_is_told_both(tmp_path):
    service = InMemoryService()
    job = Job(service, tmp_path / "spool").start()
    job.train(0, 6)
    backup = service._runs["job"].run, list(service._runs["job"].log.events)
    job.train(6, 10)
    job.die()
    job.start().train(10, 14)
    service._runs["job"].run, service._runs["job"].log.events = backup

    rates = job.train(14, 20)

    assert rates == undisturbed(20)
    assert [epoch for epoch, *_ in history(service)] == list(range(20))


def test_a_service_that_lost_a_rewind_goes_back_again(tmp_path):
    """Its backup holds epochs of the first life, in which the second one measured something else."""
    service = InMemoryService()
    job = Job(service, tmp_path / "spool").start()
    job.train(0, 6)
    backup = service._runs["job"].run, list(service._runs["job"].log.events)
    job.die()
    job.start().train(3, 9, noise=0.5)
    expected = [event.payload for event in service.events("job") if event.kind == "report"][6:]
    service._runs["job"].run, service._runs["job"].log.events = backup

    job.train(9, 10)

    told = [event.payload for event in service.events("job") if event.kind == "report" and not event.superseded_by]
    assert told[3:9] == expected


def test_epochs_that_nobody_remembers_are_left_out_with_a_warning():
    service = InMemoryService()
    Job(service).start().train(0, 3)

    job = Job(service).start()
    with pytest.warns(RemoteLRWarning, match="holds no reports of the epochs just before"):
        job.train(6, 8)

    assert [epoch for epoch, *_ in history(service)] == [0, 1, 2, 6, 7]


@QUIET
def test_a_report_nobody_takes_is_laid_aside_and_the_others_go_on(tmp_path):
    service = InMemoryService()
    job = Job(service, tmp_path / "spool").start()
    job.train(0, 3)
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


def test_holding_keeps_the_last_rate_and_tells_everything_afterwards():
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


def test_without_a_service_the_rates_are_the_same():
    job = Job(None).start()

    assert job.train(0, 20) == undisturbed(20)


def test_without_a_service_a_state_file_carries_the_run_from_life_to_life(tmp_path):
    job = Job(None, tmp_path / "state").start()
    job.train(0, 9)
    job.die()

    assert job.start().train(8, 20) == undisturbed(20)


def test_a_state_file_makes_a_local_training_a_central_one(tmp_path):
    job = Job(None, tmp_path / "state").start()
    job.train(0, 9)
    job.session.finish("completed")
    job.service = InMemoryService()

    rates = job.start().train(9, 20)

    assert rates == undisturbed(20)
    assert [epoch for epoch, *_ in history(job.service)] == list(range(20))


def test_another_policy_for_a_state_file_is_refused(tmp_path):
    job = Job(None, tmp_path / "state").start()
    job.train(0, 3)
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


@QUIET
def test_ranks_hold_what_depends_on_metrics_and_follow_what_does_not():
    falling = {"type": "step", "step_size": 1, "gamma": 0.5}
    for policy, expected in ((PLATEAU, [None] * 3), (falling, [0.1 / 2**4, 0.1 / 2**5, 0.1 / 2**6])):
        service = InMemoryService()
        ranks = [
            Job(service, policy=policy).start(life=Life(rank=rank, world_size=2, attempt_key="a")) for rank in (0, 1)
        ]
        for epoch in range(3):
            for rank in ranks:
                rank.train(epoch, epoch + 1)
        service.away = True

        for rank in ranks:
            rank.train(3, 7)

        assert [[rank.rates[epoch][0] for epoch in (4, 5, 6)] for rank in ranks] == [expected] * 2


@QUIET
def test_the_file_of_a_finished_run_that_was_heard_is_gone(tmp_path):
    service = InMemoryService()
    job = Job(service, tmp_path / "spool").start()
    job.train(0, 5)

    job.session.finish("completed")

    assert not (tmp_path / "spool").exists()
    assert service._runs["job"].run.status == "completed"


def test_a_run_that_ends_while_the_service_is_away_says_where_its_reports_lie(tmp_path):
    service = InMemoryService()
    job = Job(service, tmp_path / "spool").start()
    service.away = True

    with pytest.warns(RemoteLRWarning, match="goes on by the same rules"):
        job.train(0, 5)
    with pytest.warns(RemoteLRWarning, match=f"5 reports .* lie in {tmp_path / 'spool'}, and are sent when"):
        job.session.finish("completed")

    assert (tmp_path / "spool").exists()


@QUIET
def test_an_hour_without_the_service_is_kept_in_a_bounded_file_and_told_quickly(tmp_path, monkeypatch):
    monkeypatch.setattr("os.fsync", lambda _: None)
    service = InMemoryService()
    job = Job(service, tmp_path / "spool").start()
    job.train(0, 5)
    service.away = True
    job.train(5, 3605)
    size = (tmp_path / "spool").stat().st_size
    service.away = False
    began = time.monotonic()

    job.session._breaker = job.session._breaker.answered()
    rates = job.train(3605, 3606)

    assert time.monotonic() - began < 10
    assert size < 2**20
    assert rates == Job(InMemoryService()).start().train(0, 3606)
    assert len(history(service)) == 3606


class Slow(InMemoryService):
    """Takes 2 ms for each report, and has no answer for who does not wait so long."""

    def send(self, request, timeout_s):
        response = super().send(request, timeout_s)
        if request.path.endswith("/batch") and request.body.count(b"epoch") * 0.002 > timeout_s:
            raise NoAnswer("too much at once")
        return response


@QUIET
def test_a_service_too_slow_for_all_at_once_is_told_a_little_at_a_time():
    service = Slow()
    job = Job(service).start()
    job.train(0, 2)
    service.away = True
    job.train(2, 300)
    service.away = False

    for epoch in range(300, 330):
        job.session._breaker = job.session._breaker.answered()
        job.train(epoch, epoch + 1)

    assert not job.session.decision.local
    assert [epoch for epoch, *_ in history(service)] == list(range(330))


@QUIET
def test_a_full_file_still_knows_where_the_run_stands(tmp_path):
    service = InMemoryService()
    service.away = True
    job = Job(service)
    job._spool = tmp_path / "spool"
    spool = Spool(tmp_path / "spool", max_bytes=6_000)
    client = Client(service.url, transport=service, timeout_s=0.05)
    job.session = Session(client, "job", job._members, journal=Journal(spool), say=job.said.append)
    job.session.open(initial_learning_rate=0.1, steps_per_epoch=STEPS, total_epochs=None)
    job.train(0, 60)
    job.die()

    rates = job.start().train(60, 80)

    assert (tmp_path / "spool").stat().st_size < 2**20
    assert rates == undisturbed(80)


outages = st.lists(st.booleans(), min_size=1, max_size=40)
lives = st.lists(st.integers(0, 39), max_size=3)


@given(away=outages, deaths=lives, rewind=st.integers(0, 6), restored=st.none() | st.integers(0, 39))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_is_away_and_whoever_is_killed_the_curve_is_the_same(tmp_path_factory, away, deaths, rewind, restored):
    """Outages of the service, deaths of the trainer with older checkpoints, a backup restored: all at random."""
    service, spool = InMemoryService(), tmp_path_factory.mktemp("job") / "spool"
    job, backup = Job(service, spool), None
    pending = sorted(deaths)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RemoteLRWarning)
        service.away = away[0]
        job.start()
        epoch = 0
        while epoch < 40:
            service.away = away[epoch % len(away)]
            job.train(epoch, epoch + 1)
            epoch += 1
            if restored == epoch and "job" in service._runs:
                backup = service._runs["job"].run, list(service._runs["job"].log.events)
            if backup is not None and epoch == restored + 5:
                (service._runs["job"].run, service._runs["job"].log.events), backup = backup, None
            if pending and epoch > pending[0]:
                pending.pop(0)
                job.die()
                epoch = max(epoch - rewind, 0)
                service.away = away[epoch % len(away)]
                job.start()
        service.away = False
        job.session._breaker = job.session._breaker.answered()
        rates = job.train(40, 42)

    assert rates == undisturbed(42)
    assert [entry[0] for entry in history(service)] == list(range(42))
