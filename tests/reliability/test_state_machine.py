"""Anything may be asked of a run in any order, over HTTP: the service and a model written apart from it agree.

`failures.md` protocol e. The losses are of a coarse grid, so that ties and equal bests are frequent.
"""

import json
import math
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from copy import copy
from dataclasses import dataclass, field
from math import fsum
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from faults.oracle import INITIAL, POLICY, Plateau
from faults.trainers import pages
from support.fixtures.service import serving

losses = st.sampled_from([1.0, 0.9, 0.9001, 0.5, 0.4999, 2.0, 0.0, "nan", "inf", "-inf"])
any_of = st.integers(0, 10_000)


class Replicas:
    """Services on one database that may be ended and started again; a question goes to any of them."""

    def __init__(self, url: str, count: int) -> None:
        self._url = url
        self._open: list[tuple[ExitStack, httpx.Client]] = [self._start() for _ in range(count)]

    def ask(self, number: int, method: str, path: str, body: Any = None) -> httpx.Response:
        return self._open[number % len(self._open)][1].request(method, path, json=body)

    def restart(self, number: int) -> None:
        index = number % len(self._open)
        self._open[index][0].close()
        self._open[index] = self._start()

    @property
    def http(self) -> httpx.Client:
        return self._open[0][1]

    def close(self) -> None:
        for stack, _ in self._open:
            stack.close()

    def _start(self) -> tuple[ExitStack, httpx.Client]:
        stack = ExitStack()
        return stack, stack.enter_context(serving(self._url, log_level="error")).http


@dataclass
class Model:
    """What a run must be, from the words of the design alone.

    before: what the plateau remembers before an epoch is reported; the newest entry not behind an epoch counts.
    reports: what counts of what was said: (epoch, rank) to loss. answers: epoch to the decision it got.
    """

    ranks: int
    epoch: int = 0
    attempt: int = 0
    status: str = "running"
    rate: float = INITIAL
    stop: bool = False
    events: int = 1
    before: dict[int, Plateau] = field(default_factory=lambda: {0: Plateau()})
    reports: dict[tuple[int, int], Any] = field(default_factory=dict)
    answers: dict[int, dict[str, Any]] = field(default_factory=dict)
    orders: list[tuple[int, str, float]] = field(default_factory=list)

    def plateau(self) -> Plateau:
        return self.before[max(boundary for boundary in self.before if boundary <= self.epoch)]

    def report(self, epoch: int, rank: int, loss: Any) -> bool:
        """Take a new report. Gives whether the point is decided by it."""
        self.events += 1
        self.reports[epoch, rank] = loss
        reported = [self.reports[epoch, each] for each in range(self.ranks) if (epoch, each) in self.reports]
        if len(reported) < self.ranks:
            return False
        plateau = copy(self.plateau())
        plateau.report(mean(list(map(float, reported))))
        self.before[epoch + 1] = plateau
        self.move_to(epoch + 1)
        return True

    def rewind(self, epoch: int) -> None:
        kept = {boundary: plateau for boundary, plateau in self.before.items() if boundary <= epoch}
        self.before = {**kept, epoch: kept[max(kept)]}
        self.reports = {point: loss for point, loss in self.reports.items() if point[0] < epoch}
        self.answers = {each: answer for each, answer in self.answers.items() if each < epoch}
        self.attempt += 1
        self.events += 1
        self.status = "running"
        self.move_to(epoch)

    def order(self, kind: str, value: float) -> int:
        """Note a command. Gives the first epoch it bears on."""
        effective_from = 0 if self.attempt == 0 and self.epoch == 0 else self.epoch + 1
        self.events += 1
        if kind == "stop":
            self.stop = True
            return effective_from
        if kind != "scale":
            # A pin or a release also cancels the later overrides of an earlier attempt.
            self.orders = [order for order in self.orders if order[0] <= effective_from]
        if kind == "release":
            self.stop = False
        self.orders.append((effective_from, kind, value))
        return effective_from

    def move_to(self, epoch: int) -> None:
        self.epoch = epoch
        pin, scale = None, 1.0
        for _, kind, value in sorted((each for each in self.orders if each[0] <= epoch), key=lambda each: each[0]):
            if kind == "set_learning_rate":
                pin = value
            elif kind == "release":
                pin, scale = None, 1.0
            elif pin is None:
                scale *= value
            else:
                pin *= value
        self.rate = self.plateau().rate * scale if pin is None else pin


def mean(losses: list[float]) -> float:
    """Of one it is that one; of both infinities it is none."""
    return math.nan if {math.inf, -math.inf} <= set(losses) else fsum(losses) / len(losses)


class Machine(RuleBasedStateMachine):
    """One run and everything that is asked of it."""

    replicas: Replicas

    def __init__(self) -> None:
        super().__init__()
        self.key = uuid.uuid4().hex
        self.attempts: dict[int, tuple[str, int]] = {}
        self.keyed: dict[str, dict[str, Any]] = {}

    def ask(self, replica: int, path: str, body: Any, method: str = "POST") -> httpx.Response:
        deadline = time.monotonic() + 120
        # A loaded machine may make the database slow; then the same is asked again, as every client does.
        while (answer := self.replicas.ask(replica, method, f"/v1/runs/{self.key}{path}", body)).status_code == 503:
            assert time.monotonic() < deadline, answer.text
            time.sleep(0.1)

        assert answer.status_code < 500, answer.text
        return answer

    def refused(self, answer: httpx.Response, code: str) -> None:
        assert (409, code) == (answer.status_code, answer.json().get("code")), answer.text

    @initialize(ranks=st.sampled_from([1, 1, 3]))
    def create(self, ranks: int) -> None:
        self.model = Model(ranks)
        policy = {"schedule": POLICY, "aggregate": {"ranks": "all", "reduce": "mean"}} if ranks > 1 else POLICY
        self.spec = {"policy": policy, "initial_learning_rate": INITIAL, "world_size": ranks}

        assert 201 == self.ask(0, "", self.spec, "PUT").status_code

    @rule(replica=any_of)
    def create_again(self, replica: int) -> None:
        assert 200 == self.ask(replica, "", self.spec, "PUT").status_code

    @precondition(lambda self: self.model.status == "running")
    @rule(replica=any_of, loss=losses, rank=any_of, gap=st.sampled_from([0, 0, 0, 0, 1]))
    def report(self, replica: int, loss: Any, rank: int, gap: int) -> None:
        rank %= self.model.ranks
        epoch = self.model.epoch + (gap if self.model.ranks == 1 else 0)
        loss = self.model.reports.get((epoch, rank), loss)
        known = (epoch, rank) in self.model.reports
        answer = self.ask(replica, "/reports", self._report(epoch, rank, loss))
        if not known and self.model.report(epoch, rank, loss):
            self._check_decision(answer.json(), replayed=False)
            self.model.answers[epoch] = answer.json()
        else:
            assert 202 == answer.status_code

    @precondition(lambda self: self.model.status == "running" and self.model.ranks > 1)
    @rule(replica=any_of, loss=losses)
    def report_of_all_ranks(self, replica: int, loss: Any) -> None:
        epoch = self.model.epoch
        for rank in range(self.model.ranks):
            if self.model.epoch == epoch:
                self.report(replica + rank, loss, rank, 0)

    @precondition(lambda self: self.model.status == "running" and self.model.ranks == 1)
    @rule(replica=any_of, values=st.lists(losses, min_size=2, max_size=8))
    def train(self, replica: int, values: list[Any]) -> None:
        for number, loss in enumerate(values):
            self.report(replica + number, loss, 0, 0)

    @precondition(lambda self: self.model.answers)
    @rule(replica=any_of, which=any_of, rank=any_of)
    def report_again(self, replica: int, which: int, rank: int) -> None:
        epoch = list(self.model.answers)[which % len(self.model.answers)]
        rank %= self.model.ranks
        answer = self.ask(replica, "/reports", self._report(epoch, rank, self.model.reports[epoch, rank]))

        assert {**self.model.answers[epoch], "replayed": True} == answer.json()

    @precondition(lambda self: self.model.reports)
    @rule(replica=any_of, which=any_of)
    def report_another_value(self, replica: int, which: int) -> None:
        epoch, rank = list(self.model.reports)[which % len(self.model.reports)]

        self.refused(self.ask(replica, "/reports", self._report(epoch, rank, 0.123)), "report_conflict")

    @rule(replica=any_of)
    def report_a_hole(self, replica: int) -> None:
        holes = [epoch for epoch in range(self.model.epoch) if (epoch, 0) not in self.model.reports]
        if holes and self.model.ranks == 1:
            self.refused(self.ask(replica, "/reports", self._report(holes[0], 0, 1.0)), "out_of_order")

    @precondition(lambda self: self.model.attempt > 1)
    @rule(replica=any_of, loss=losses, back=st.integers(0, 2), which=any_of)
    def report_of_an_attempt_taken_over(self, replica: int, loss: Any, back: int, which: int) -> None:
        body = self._report(max(0, self.model.epoch - back), 0, loss)
        old = 1 + which % (self.model.attempt - 1)

        self.refused(self.ask(replica, "/reports", {**body, "attempt": old}), "stale_attempt")

    @rule(replica=any_of, back=st.sampled_from([0, 0, 1, 2, 5]), loss=losses)
    def begin_attempt(self, replica: int, back: int, loss: Any) -> None:
        epoch = max(0, self.model.epoch - back)
        name = f"attempt-{self.model.attempt + 1}"
        answer = self.ask(replica, "/attempts", {"key": name, "epoch": epoch}).json()
        self.model.rewind(epoch)
        self.attempts[answer["attempt"]] = (name, epoch)

        assert self.model.attempt == answer["attempt"]
        self._check_decision(answer["decision"], replayed=False)
        if self.model.attempt > 1:
            # The trainer that was taken over does not know it yet.
            self.report_of_an_attempt_taken_over(replica + 1, loss, 0, self.model.attempt - 2)

    @precondition(lambda self: self.attempts)
    @rule(replica=any_of, which=any_of)
    def begin_attempt_again(self, replica: int, which: int) -> None:
        number = 1 + which % self.model.attempt
        name, epoch = self.attempts[number]
        answer = self.ask(replica, "/attempts", {"key": name, "epoch": epoch})
        if number < self.model.attempt:
            self.refused(answer, "stale_attempt")
        else:
            assert (number, True) == (answer.json()["attempt"], answer.json()["decision"]["replayed"])

    @rule(
        replica=any_of,
        kind=st.sampled_from(["set_learning_rate", "scale", "scale", "release", "stop"]),
        value=st.sampled_from([0.05, 0.5, 0.7]),
        keyed=st.booleans(),
    )
    def command(self, replica: int, kind: str, value: float, keyed: bool) -> None:
        body: dict[str, Any] = {"type": kind}
        if kind in ("set_learning_rate", "scale"):
            body["value"] = value
        if keyed:
            body["key"] = uuid.uuid4().hex
            self.keyed[body["key"]] = body
        answer = self.ask(replica, "/commands", body)

        assert self.model.order(kind, value) == answer.json()["effective_from"]

    @precondition(lambda self: self.keyed)
    @rule(replica=any_of, which=any_of)
    def command_again(self, replica: int, which: int) -> None:
        body = list(self.keyed.values())[which % len(self.keyed)]

        assert 200 == self.ask(replica, "/commands", body).status_code

    @rule(replica=any_of, seldom=st.integers(0, 3))
    def finish(self, replica: int, seldom: int) -> None:
        if seldom:
            return
        self.model.events += self.model.status == "running"
        self.model.status = "completed"

        assert 200 == self.ask(replica, "/finish", {"status": "completed"}).status_code

    @precondition(lambda self: self.model.status == "completed")
    @rule(replica=any_of, loss=losses)
    def report_to_a_finished_run(self, replica: int, loss: Any) -> None:
        if not any((self.model.epoch, rank) in self.model.reports for rank in range(self.model.ranks)):
            self.refused(self.ask(replica, "/reports", self._report(self.model.epoch, 0, loss)), "run_finished")

    @rule(replica=any_of, seldom=st.integers(0, 4))
    def restart_the_service(self, replica: int, seldom: int) -> None:
        if not seldom:
            self.replicas.restart(replica)

    @invariant()
    def the_head_is_what_the_model_says(self) -> None:
        if not hasattr(self, "model"):
            return
        run = self.ask(self.model.events, "", None, "GET").json()

        assert (self.model.epoch, self.model.attempt, self.model.status, self.model.rate) == (
            run["epoch"],
            run["attempt"],
            run["status"],
            run["learning_rate"],
        )

    def teardown(self) -> None:
        if not hasattr(self, "model"):
            return
        events = pages(self.replicas.http, f"/v1/runs/{self.key}/events", "events")
        attempts = [event["attempt"] for event in events]
        decided = {
            event["epoch"]: event["decision"]
            for event in events
            if event["kind"] == "report" and event["decision"] and event["superseded_by"] is None
        }

        assert list(range(1, self.model.events + 1)) == [event["seq"] for event in events]
        assert sorted(attempts) == attempts
        assert self.model.answers == decided

    def _report(self, epoch: int, rank: int, loss: Any) -> dict[str, Any]:
        body = {"epoch": epoch, "metrics": {"val_loss": loss}, "rank": rank}
        return {**body, "attempt": self.model.attempt} if epoch % 2 else body

    def _check_decision(self, decision: dict[str, Any], *, replayed: bool) -> None:
        model = self.model
        answered = (decision["epoch"], decision["learning_rate"], decision["plateau"], decision["action"])

        assert (model.epoch, model.rate, model.plateau().state, "stop" if model.stop else "continue") == answered
        assert math.isfinite(decision["learning_rate"])
        assert replayed == decision["replayed"], json.dumps(decision)


@pytest.fixture
def replicas(database_url: str) -> Iterator[Replicas]:
    """Two on PostgreSQL; SQLite has one process."""
    running = Replicas(database_url, 1 if database_url.startswith("sqlite") else 2)
    yield running
    running.close()


@pytest.mark.timeout(1200)
def test_the_service_and_a_model_of_it_agree_for_every_sequence_of_requests(
    replicas: Replicas, long: bool, tell: Callable[[str], None]
):
    machine = type("BoundMachine", (Machine,), {"replicas": replicas})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=200 if long else 25,
            stateful_step_count=50 if long else 30,
            deadline=None,
            derandomize=not long,
            database=None,
            phases=(Phase.explicit, Phase.generate, Phase.shrink) if long else (Phase.explicit, Phase.generate),
            suppress_health_check=list(HealthCheck),
        ),
    )
    tell(f"{200 if long else 25} histories of up to {50 if long else 30} steps")
