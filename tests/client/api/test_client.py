"""The client against a real service: one word for one thing, from a trainer's loop to the log and back."""

import math
import re
import threading
import time
from types import SimpleNamespace

import pytest

from remotelr import Client, RanksMissing, ServiceRefused, StaleAttempt
from remotelr._session.identity import restart_id
from remotelr.rules import policy_from_json
from remotelr.testing import InMemoryService
from support.fixtures.service import Service

PLATEAU = {"type": "reduce_on_plateau", "monitor": "val_loss", "mode": "min", "factor": 0.5, "patience": 2}
FALLING = {
    "unit": "step",
    "schedule": {"type": "linear", "initial_learning_rate": 0.8, "end_learning_rate": 0.0, "decay_steps": 8},
}


@pytest.fixture
def client(shared_service: Service):
    with Client(shared_service.url) as client:
        yield client


@pytest.fixture
def key(request: pytest.FixtureRequest) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", request.node.name).strip("-")


def test_a_loop_of_ones_own_follows_its_plateau(client, key):
    run = client.run(key, policy=PLATEAU, initial_learning_rate=0.1)
    decision = run.begin(epoch=0)
    rates = []
    while decision.epoch < 6:
        rates.append(decision.learning_rate)
        decision = run.report(decision.epoch, {"val_loss": 1.0})
    run.finish()

    assert rates == pytest.approx([0.1, 0.1, 0.1, 0.05, 0.05, 0.025])
    assert client.get_run(key).view.status == "completed"


def test_the_same_run_is_found_again_by_its_key(client, key):
    client.run(key, policy=policy_from_json(PLATEAU), initial_learning_rate=0.1, tags={"team": "vision"})

    again = client.run(key, policy=PLATEAU, initial_learning_rate=0.1)

    assert again.view.tags == {"team": "vision"}
    assert again.view.policy_version == 1


def test_another_policy_is_refused_with_what_differs(client, key):
    client.run(key, policy=PLATEAU, initial_learning_rate=0.1)

    with pytest.raises(ServiceRefused, match="on_conflict") as refused:
        client.run(key, policy={**PLATEAU, "patience": 5}, initial_learning_rate=0.1)

    assert (refused.value.code, refused.value.status) == ("policy_conflict", 409)
    assert [2, 5] in refused.value.members["difference"].values()


def test_a_policy_that_cannot_be_one_is_refused_with_its_path(client, key):
    with pytest.raises(ServiceRefused, match="factor"):
        client.run(key, policy={**PLATEAU, "factor": 2.0}, initial_learning_rate=0.1)


def test_a_run_that_is_not_there_is_refused(client):
    with pytest.raises(ServiceRefused) as refused:
        client.get_run("unknown")

    assert refused.value.code == "run_not_found"


def test_every_step_of_an_epoch_is_known_without_another_request(client, key):
    run = client.run(key, policy=FALLING, steps_per_epoch=4, total_epochs=2)
    first = run.begin(epoch=0)
    second = run.report(0, {})
    client.close()

    rates = [decision.at(step) for decision in (first, second) for step in range(4)]
    assert rates == pytest.approx([0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1])


def test_the_steps_of_a_run_that_was_made_longer_are_those_of_its_new_curve(client, key):
    """Which begins with the very rate of the old one."""
    run = client.run(key, policy=FALLING, steps_per_epoch=4, total_epochs=2)
    run.begin(epoch=0)
    client.get_run(key).extend(4, continuity="keep_fraction")

    decision = run.report(0, {})

    assert [decision.at(step) for step in range(4)] == pytest.approx([0.4 * (1 - step / 12) for step in range(4)])
    assert decision == run.decision


def test_a_run_without_a_policy_keeps_its_own(client, key):
    client.run(key, policy=PLATEAU, initial_learning_rate=0.1)

    assert client.run(key).policy.schedule.patience == 2


def test_a_repeated_report_gets_the_same_decision_marked(client, key):
    run = client.run(key, policy=PLATEAU, initial_learning_rate=0.1)
    run.begin(epoch=0)
    decision = run.report(0, {"val_loss": math.nan})

    again = run.report(0, {"val_loss": math.nan})

    assert again.replayed
    assert (again.seq, again.learning_rate) == (decision.seq, decision.learning_rate)


def test_another_value_for_a_decided_epoch_shows_both(client, key):
    run = client.run(key, policy=PLATEAU, initial_learning_rate=0.1)
    run.begin(epoch=0)
    run.report(0, {"val_loss": 1.0})

    with pytest.raises(ServiceRefused) as refused:
        run.report(0, {"val_loss": 2.0})

    assert refused.value.code == "report_conflict"
    assert (refused.value.members["known"], refused.value.members["given"]) == ({"val_loss": 1.0}, {"val_loss": 2.0})


def test_an_older_attempt_must_stop(client, key):
    old = client.run(key, policy=PLATEAU, initial_learning_rate=0.1)
    old.begin(epoch=0)
    client.get_run(key).begin(epoch=0)

    with pytest.raises(StaleAttempt):
        old.report(0, {"val_loss": 1.0})


def test_the_same_attempt_key_is_the_same_attempt(client, key):
    run = client.run(key, policy=PLATEAU, initial_learning_rate=0.1)

    assert run.begin(epoch=0, key="slurm-1.0").attempt == run.begin(epoch=0, key="slurm-1.0").attempt == 1
    assert run.begin(epoch=0, key="slurm-1.1").attempt == 2


def test_a_service_with_fewer_epochs_refuses_an_attempt_unless_a_gap_is_accepted(client, key):
    run = client.run(key, policy=PLATEAU, initial_learning_rate=0.1)
    run.begin(epoch=0)
    run.report(0, {"val_loss": 1.0})

    with pytest.raises(ServiceRefused, match="gap") as refused:
        run.begin(epoch=5)

    assert refused.value.code == "server_behind"
    assert run.begin(epoch=5, gap=True).epoch == 5


def test_commands_say_from_which_epoch_they_hold(client, key):
    run = client.run(key, policy=PLATEAU, initial_learning_rate=0.1)
    run.begin(epoch=0)

    noted = run.set_learning_rate(0.02, reason="too hot")

    assert noted.effective_from == 1
    assert run.report(0, {"val_loss": 1.0}).learning_rate == 0.02
    run.scale(0.5)
    assert run.report(1, {"val_loss": 1.0}).learning_rate == 0.01
    run.release()
    assert run.report(2, {"val_loss": 0.5}).learning_rate == pytest.approx(0.1)
    run.stop()
    assert run.report(3, {"val_loss": 0.5}).action == "stop"


def test_a_command_repeated_under_its_key_counts_once(client, key):
    run = client.run(key, policy=PLATEAU, initial_learning_rate=0.1)
    run.begin(epoch=0)
    run.scale(0.5, key="once")
    run.scale(0.5, key="once")

    assert run.report(0, {"val_loss": 1.0}).learning_rate == pytest.approx(0.05)


def test_the_next_decision_is_waited_for(client, key):
    trainer = client.run(key, policy=PLATEAU, initial_learning_rate=0.1)
    trainer.begin(epoch=0)
    watcher = client.get_run(key)
    seen = watcher.current_decision()
    late = threading.Timer(0.3, trainer.report, (0, {"val_loss": 1.0}))
    late.start()
    began = time.monotonic()

    decision = watcher.current_decision(after=seen.seq, wait_s=59)

    took_s = time.monotonic() - began
    late.join()
    assert decision.epoch == 1
    assert took_s < 50


def test_no_new_decision_within_the_wait_is_none(client, key):
    run = client.run(key, policy=PLATEAU, initial_learning_rate=0.1)

    assert run.current_decision(after=run.decision.seq, wait_s=0.1) is None


def test_only_a_new_attempt_changes_the_world_size(client, key):
    client.run(key, policy=PLATEAU, initial_learning_rate=0.1, world_size=2)
    other = {"type": "constant", "learning_rate": 0.1}
    run = client.run(key, policy=other, initial_learning_rate=0.1, world_size=8, on_conflict="replace")
    before = run.view.spec["world_size"]
    run.begin(epoch=0, world_size=8)

    assert (2, 8) == (before, run.view.spec["world_size"])
    assert 8 == client.get_run(key).view.spec["world_size"]


def test_the_rank_that_completes_the_epoch_frees_the_one_that_waits(client, key):
    policy = {"schedule": PLATEAU, "aggregate": {"ranks": "all", "reduce": "mean"}}
    ranks = [client.run(key, policy=policy, initial_learning_rate=0.1, world_size=2) for _ in range(2)]
    for run in ranks:
        run.begin(epoch=0, key="job-1.0", world_size=2)
    late = threading.Timer(0.3, ranks[1].report, (0, {"val_loss": 3.0}), {"rank": 1})
    late.start()

    decision = ranks[0].report(0, {"val_loss": 1.0}, rank=0, wait_s=60)

    late.join()
    assert decision.epoch == 1
    assert decision.plateau["best"] == 2.0
    assert ranks[1].decision.seq == decision.seq


def test_a_rank_that_waits_in_vain_counts_the_missing_ranks(client, key):
    policy = {"schedule": PLATEAU, "aggregate": {"ranks": "all", "reduce": "mean"}}
    run = client.run(key, policy=policy, initial_learning_rate=0.1, world_size=2)
    run.begin(epoch=0, world_size=2)

    with pytest.raises(RanksMissing, match="1 of 2 ranks") as missing:
        run.report(0, {"val_loss": 1.0}, wait_s=0.1)

    assert (missing.value.have, missing.value.need) == (1, 2)


class Counting(InMemoryService):
    """Notes how long it is given to answer a report."""

    def __init__(self):
        super().__init__()
        self.given = []

    def send(self, request, timeout_s):
        if request.path.endswith("/reports"):
            self.given.append(timeout_s)
        return super().send(request, timeout_s)


def test_polling_for_other_ranks_takes_no_longer_than_wait_s(monkeypatch):
    service, clock = Counting(), SimpleNamespace(now=0.0)
    clock.monotonic = lambda: clock.now
    clock.sleep = lambda seconds: setattr(clock, "now", clock.now + seconds)
    monkeypatch.setattr("remotelr.run.time", clock)
    policy = {"schedule": PLATEAU, "aggregate": {"ranks": "all", "reduce": "mean"}}
    run = Client(service.url, transport=service).run("a", policy=policy, initial_learning_rate=0.1, world_size=2)
    run.begin(epoch=0, world_size=2)

    with pytest.raises(RanksMissing):
        run.report(0, {"val_loss": 1.0}, wait_s=5.0, timeout_s=3.0)

    assert len(service.given) == 5
    assert all(given <= left for given, left in zip(service.given, [3, 3, 3, 2, 1], strict=True))


def test_the_history_is_read_page_by_page(client, key, monkeypatch):
    monkeypatch.setattr("remotelr.run.PAGE", 3)
    run = client.run(key, policy=PLATEAU, initial_learning_rate=0.1)
    run.begin(epoch=0)
    for epoch in range(8):
        run.report(epoch, {"val_loss": 1.0 / (epoch + 1)}, learning_rate=0.1)

    history = list(run.history())

    assert [row.epoch for row in history] == list(range(8))
    assert history[1].metrics == {"val_loss": 0.5}
    assert {row.used_learning_rate for row in history} == {0.1}


def test_the_runs_of_a_tag_are_listed_page_by_page(client, key, monkeypatch):
    monkeypatch.setattr("remotelr.client.PAGE", 2)
    for number in range(5):
        client.run(f"{key}-{number}", policy=PLATEAU, initial_learning_rate=0.1, tags={"test": key})

    assert [run.key for run in client.runs(tag=f"test:{key}")] == [f"{key}-{number}" for number in range(5)]


@pytest.mark.parametrize(
    ("environ", "name"),
    [
        ({}, None),
        ({"SLURM_JOB_ID": "4711"}, "4711.0"),
        ({"SLURM_JOB_ID": "4711", "SLURM_RESTART_COUNT": "2"}, "4711.2"),
        ({"TORCHELASTIC_RUN_ID": "my run/1", "TORCHELASTIC_RESTART_COUNT": "1", "SLURM_JOB_ID": "1"}, "my-run-1.1"),
        ({"TORCHELASTIC_RUN_ID": "none", "TORCHELASTIC_RESTART_COUNT": "0"}, None),
    ],
)
def test_a_restart_is_named_as_the_scheduler_counts_it(environ, name):
    assert restart_id(environ) == name


@pytest.mark.parametrize("policy", ["cosine", lambda epoch: 0.1, 3])
def test_a_policy_of_another_type_is_named_with_the_remedy(policy):
    client = Client(InMemoryService.url, transport=InMemoryService())

    with pytest.raises(TypeError, match=r"policy must be a document .*, got .*; give a document such as"):
        client.run("a", policy=policy, initial_learning_rate=0.1)
