"""Ranks of one training, as threads: rank 0 decides, and the others follow it at every step."""

import queue
import threading

import pytest

import remotelr
from remotelr import RanksDisagree, ServiceRefused
from remotelr.rules import Command
from remotelr.testing import InMemoryService

HALVING = {"type": "exponential", "decay_steps": 1, "decay_rate": 0.5}
PLATEAU = {"type": "reduce_on_plateau", "factor": 0.5, "patience": 1, "flavor": "torch"}
PER_STEP = {
    "unit": "step",
    "schedule": {
        "type": "sequential",
        "milestones": [8],
        "schedules": [{"type": "linear", "end_learning_rate": 0.2, "decay_steps": 8}, PLATEAU],
    },
}
# The others wait longer for rank 0 than rank 0 for them.
ARRIVAL_S, LEADER_S = 10.0, 60.0


@pytest.fixture(autouse=True)
def spools(tmp_path, monkeypatch):
    monkeypatch.setenv("REMOTELR_SPOOL_DIR", str(tmp_path / "spools"))


class Threads:
    """The ranks of a training whose processes are threads."""

    def __init__(self, rank: int, gathered: list[queue.Queue[str]], shared: list[queue.Queue[str]]) -> None:
        self.rank, self.count = rank, len(shared)
        self._gathered, self._shared = gathered, shared

    def gather(self, value: str) -> list[str]:
        if self.rank != 0:
            self._gathered[self.rank].put(value)
            return []
        return [value, *(self._take(self._gathered[rank], ARRIVAL_S) for rank in range(1, self.count))]

    def share(self, value: str) -> str:
        if self.rank != 0:
            return self._take(self._shared[self.rank], LEADER_S)
        for each in self._shared[1:]:
            each.put(value)
        return value

    def _take(self, box: "queue.Queue[str]", timeout_s: float) -> str:
        try:
            return box.get(timeout=timeout_s)
        except queue.Empty:
            raise RanksDisagree("a rank did not come in time") from None


def on_all_ranks(train, count=2):
    """The results of `train(ranks)`, an exception as itself."""
    gathered, shared = ([queue.Queue() for _ in range(count)] for _ in range(2))
    results = [None] * count

    def run(rank):
        try:
            results[rank] = train(Threads(rank, gathered, shared))
        except Exception as error:  # noqa: BLE001 - the test looks at it
            results[rank] = error

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive(), "a rank hangs"
    return results


def loop(service, ranks, policy=PLATEAU, **settings):
    arguments = {"initial_learning_rate": 0.1, "total_epochs": 8, "transport": service}
    return remotelr.training(
        service.url, "job", policy=policy, ranks=ranks, **{**arguments, "timeout_s": 1.0, "verbose": False, **settings}
    )


def metrics(service):
    return [event.payload["metrics"] for event in service.events("job") if event.kind == "report"]


@pytest.mark.filterwarnings("ignore::remotelr.errors.RemoteLRWarning")
@pytest.mark.parametrize("policy", [PLATEAU, PER_STEP])
def test_every_rank_has_the_same_rate_at_every_step_while_the_service_is_away_too(policy):
    service = InMemoryService()

    def train(ranks):
        rates = []
        with loop(service, ranks, policy, steps_per_epoch=4) as training:
            for epoch in training.epochs():
                rates += [training.learning_rate(step) for step in range(4)]
                if ranks.rank == 0:
                    service.away = epoch in (3, 4, 5)
                # Each rank has another loss; that of rank 0 is reported.
                training.report(val_loss=1.0 + ranks.rank * epoch)
        return rates

    first, second, third = on_all_ranks(train, count=3)

    assert first == second == third
    assert len(set(first)) > 3
    assert metrics(service) == [{"val_loss": 1.0}] * 8


def test_one_process_talks_to_the_service():
    service = InMemoryService()

    def train(ranks):
        with loop(service, ranks) as training:
            for _ in training.epochs():
                training.report(val_loss=1.0)

    on_all_ranks(train)

    assert len(service.requests) == 1 + 1 + 8 + 1


def test_the_mean_weighs_each_rank_and_leaves_out_one_without_the_metric_or_with_weight_zero():
    service = InMemoryService()

    def train(ranks):
        with loop(service, ranks, reduce="mean", total_epochs=1) as training:
            for _ in training.epochs():
                own = {"val_loss": [0.2, 0.6, 9.0][ranks.rank]} | ({"accuracy": 0.5} if ranks.rank == 1 else {})
                training.report(own, weight=[3, 1, 0][ranks.rank])

    on_all_ranks(train, count=3)

    assert metrics(service) == [{"val_loss": pytest.approx(0.3), "accuracy": 0.5}]


def test_the_mean_of_large_values_is_finite():
    service = InMemoryService()

    def train(ranks):
        with loop(service, ranks, reduce="mean", total_epochs=1) as training:
            for _ in training.epochs():
                training.report(val_loss=1e308, weight=1000)

    on_all_ranks(train)

    assert metrics(service) == [{"val_loss": 1e308}]


@pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf")])
def test_a_weight_that_is_no_number_of_samples_is_refused(weight):
    with loop(InMemoryService(), None) as training:
        for _ in training.epochs():
            with pytest.raises(ValueError, match="weight must be finite and >= 0"):
                training.report(val_loss=1.0, weight=weight)
            break


def test_a_refusal_of_rank_0_is_raised_on_every_rank():
    service = InMemoryService()
    with loop(service, None, HALVING) as training:
        for _ in training.epochs():
            training.report(val_loss=1.0)

    def train(ranks):
        with loop(service, ranks, PLATEAU):
            pass

    first, second = on_all_ranks(train)

    assert isinstance(first, ServiceRefused)
    assert isinstance(second, RanksDisagree)
    assert "rank 0 failed: ServiceRefused: " in str(second)
    assert "another policy" in str(second)


def test_a_rank_that_does_not_come_is_an_error_on_all_that_did():
    service = InMemoryService()

    def train(ranks):
        with loop(service, ranks) as training:
            for _ in training.epochs():
                if ranks.rank == 2:
                    return
                training.report(val_loss=1.0)

    first, second, _ = on_all_ranks(train, count=3)

    assert isinstance(first, RanksDisagree)
    assert str(second) == f"rank 0 failed: RanksDisagree: {first}"


def test_a_stop_reaches_every_rank_with_its_reason(capsys):
    service = InMemoryService()

    def train(ranks):
        with loop(service, ranks, verbose=True) as training:
            for epoch in training.epochs():
                if ranks.rank == 0 and epoch == 2:
                    service.command("job", Command(type="stop"))
                training.report(val_loss=1.0)
        return epoch, training.stopped, training.stop_reason

    assert on_all_ranks(train) == [(2, True, "the run received the command stop")] * 2
    assert capsys.readouterr().out.count("training ends before epoch 3") == 1


def test_every_rank_loads_the_checkpoint_of_a_rollback():
    service, loaded = InMemoryService(), []
    policy = {"schedule": HALVING, "guard": {"monitor": "val_loss", "action": "rollback", "rollback_to": "last"}}

    def train(ranks):
        def load(epoch):
            loaded.append((ranks.rank, epoch))

        with loop(service, ranks, policy, checkpoint=load) as training:
            for epoch in training.epochs():
                training.report(val_loss=float("nan") if epoch == 3 else 1.0)

    assert on_all_ranks(train) == [None, None]
    assert sorted(loaded) == [(0, 2), (1, 2)]


def test_live_commands_need_a_single_process():
    with pytest.raises(ValueError, match="live=True needs a single process, got 2 ranks"):
        loop(InMemoryService(), Threads(0, [], [queue.Queue(), queue.Queue()]), live=True)
