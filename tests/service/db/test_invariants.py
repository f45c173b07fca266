"""The promises of the service on random histories, through the actions, on both real databases.

The losses are of a coarse grid, so that ties and the edges of `min_delta` are frequent; the policy does
not saturate, so that a report that counts twice shows in every rate behind it.
"""

import json
import math
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from remotelr.rules import Decision, Limits, RulesError, Until, is_command, policy_from_json
from remotelr.rules.run.events import OF_A_POINT
from remotelr_service.features.commands import commands
from support.fixtures.processes import Process

PLATEAU = {"type": "reduce_on_plateau", "factor": 0.97, "patience": 1, "cooldown": 1, "min_lr": 0.0}
POLICIES: list[dict[str, Any]] = [
    PLATEAU,
    {"schedule": {**PLATEAU, "flavor": "torch"}, "min_lr": 0.5, "max_lr": 0.9},
    {"type": "cosine", "decay_steps": 10},
    {"schedule": PLATEAU, "aggregate": {"ranks": "all", "reduce": "mean"}},
    # The timeout is over before a second rank reports: every rank but the last finds it so.
    {"schedule": PLATEAU, "aggregate": {"ranks": "all", "timeout_s": 1e-6}},
    {"schedule": PLATEAU, "aggregate": {"ranks": "all", "timeout_s": 1e-6, "on_timeout": "hold"}},
    {"schedule": {"type": "exponential", "decay_rate": 0.97, "decay_steps": 7}, "unit": "step"},
]

OVER = Until(time="2020-01-01T00:00:00+00:00")
ORDERS: list[dict[str, Any]] = [
    {"order": "set_learning_rate", "value": 0.6},
    {"order": "set_learning_rate", "value": 0.6, "until": Until(epoch=4)},
    {"order": "set_learning_rate", "value": 0.6, "until": OVER},
    {"order": "set_learning_rate", "value": 0.7, "mode": "one_shot"},
    {"order": "set_learning_rate", "value": 0.7, "mode": "one_shot", "until": OVER},
    {"order": "set_learning_rate", "value": 0.8, "mode": "rebase"},
    {"order": "scale", "factor": 0.7},
    {"order": "release"},
    {"order": "pause"},
    {"order": "resume_schedule"},
    {"order": "replace_policy", "policy": policy_from_json(PLATEAU)},
    {"order": "replace_policy", "policy": policy_from_json(PLATEAU), "state": "reset"},
    {"order": "extend", "total": 30},
    {"order": "extend", "total": 15, "continuity": "keep_fraction"},
    {"order": "limits", "limits": Limits(min_lr=0.01, max_lr=0.75, max_change=2.0)},
    {"order": "note", "text": "remember"},
    {"order": "stop"},
]

losses = st.sampled_from([1.0, 0.9, 0.9001, 0.5, 0.4999, 2.0, 0.0, -1.0, math.nan, math.inf, -math.inf])
epochs = st.integers(0, 6)
happenings = st.one_of(
    st.tuples(st.just("report next"), losses),
    st.tuples(st.just("report next"), losses),
    st.tuples(st.just("report next"), losses),
    st.tuples(st.just("report next of rank"), losses, st.integers(0, 2)),
    st.tuples(st.just("report any"), epochs, losses, st.sampled_from([None, 0, 1, 2, 3]), st.integers(0, 2)),
    st.tuples(st.just("report again"), st.integers(0, 20)),
    st.tuples(st.just("attempt"), epochs, st.booleans(), st.sampled_from([None, None, 1, 3])),
    st.tuples(st.just("attempt known"), epochs, st.integers(1, 3)),
    st.tuples(st.just("command"), st.sampled_from(ORDERS)),
    st.tuples(st.just("cancel"), st.integers(1, 30)),
    st.tuples(st.just("command known"), st.sampled_from([0.5, 0.7])),
    st.tuples(st.just("policy"), st.sampled_from(POLICIES), st.sampled_from(["error", "keep", "replace", "restart"])),
    st.tuples(st.just("finish"), st.sampled_from(["completed", "failed", "stopped"])),
)


class History:
    """One run and its requests, some of which are rejected."""

    def __init__(self, process: Process, policy: dict[str, Any], world_size: int) -> None:
        self.process = process
        self.key = uuid4().hex
        self.answers: list[tuple[dict[str, Any], Any]] = []
        process.put(self.key, policy, world_size=world_size, steps_per_epoch=10, total_epochs=20)

    def happen(self, what: str, *details: Any) -> None:
        run = self.process.stored_run(self.key)
        try:
            match what, details:
                case "report next", (loss,):
                    self.report(epoch=run.epoch, value=loss)
                case "report next of rank", (loss, rank):
                    self.report(epoch=run.epoch, value=loss, rank=rank)
                case "report any", (epoch, loss, attempt, rank):
                    self.report(epoch=epoch, value=loss, attempt=attempt, rank=rank, learning_rate=0.25)
                case "report again", (index,) if self.answers:
                    asked, answer = self.answers[index % len(self.answers)]
                    self.again(asked, answer)
                case "attempt", (epoch, gap, world_size):
                    self.process.attempt(self.key, uuid4().hex, epoch, gap=gap, world_size=world_size)
                case "attempt known", (epoch, number):
                    self.process.attempt(self.key, f"attempt {number}", epoch)
                case "command", (order,):
                    self.process.command(self.key, **order)
                case "cancel", (seq,):
                    self.process.command(self.key, "cancel", seq=seq)
                case "command known", (value,):
                    self.process.command(self.key, "scale", value, key="once")
                case "policy", (policy, on_conflict):
                    spec = run.spec
                    self.process.put(
                        self.key,
                        policy,
                        on_conflict,
                        world_size=spec.world_size,
                        steps_per_epoch=10,
                        total_epochs=20,
                    )
                case "finish", (status,):
                    self.process.finish(self.key, status)
        except RulesError:
            assert self.process.stored_run(self.key) == run, f"{what} {details} was refused and changed the run"

    def report(self, **asked: Any) -> None:
        answer = self.process.report(self.key, **asked)
        if isinstance(answer, Decision):
            self.answers.append((asked, answer))

    def again(self, asked: dict[str, Any], answer: Decision) -> None:
        """The same question: the same answer to the last bit, unless an attempt has rewound past it."""
        before = self.process.events(self.key)
        if before[answer.seq - 1].superseded_by is not None:
            return
        repeated = self.process.report(self.key, **asked)

        assert json.dumps(asdict(replace(answer, replayed=True))) == json.dumps(asdict(repeated))
        assert len(before) == len(self.process.events(self.key))


@pytest.fixture
def any_history(process: Process) -> Callable[..., History]:
    def make(policy: dict[str, Any], world_size: int, story: list[Any]) -> History:
        history = History(process, policy, world_size)
        for what, *details in story:
            history.happen(what, *details)
        return history

    return make


# The database stays the same between the examples, and each has a run of its own.
per_example = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
histories = given(
    policy=st.sampled_from(POLICIES), world_size=st.sampled_from([1, 1, 3]), story=st.lists(happenings, max_size=25)
)


@per_example
@histories
def test_replaying_the_stored_events_gives_the_stored_run(any_history, policy, world_size, story):
    """
    Invariant 4: the fold of the events is the state, and every decision ever stored comes out again.
    """
    history = any_history(policy, world_size, story)

    assert history.process.replayed(history.key) == history.process.stored_run(history.key)


@per_example
@histories
def test_a_point_is_decided_once_and_every_rate_is_finite_and_in_bounds(any_history, policy, world_size, story):
    """
    Invariants 2 and 9.
    """
    history = any_history(policy, world_size, story)
    events = history.process.events(history.key)
    decided = [event for event in events if event.kind in OF_A_POINT and event.decision]
    effective = [event.epoch for event in decided if event.superseded_by is None]

    assert len(effective) == len(set(effective))
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    assert all(event.decision is None or 0 <= event.decision.learning_rate <= 1000 for event in events)


@settings(per_example, max_examples=20)
@histories
def test_every_command_has_a_history_that_leads_from_queued_to_its_state(any_history, policy, world_size, story):
    history = any_history(policy, world_size, story)
    page = commands.list_commands(history.process.reads, history.key, limit=200)

    assert all("queued" == view.history[0].state and view.history[-1].state == view.state for view in page.commands)
    assert all(
        list(view.history) == sorted(view.history, key=lambda step: (step.seq, step.at)) for view in page.commands
    )
    assert [view.seq for view in page.commands] == [
        event.seq for event in history.process.events(history.key) if is_command(event)
    ]
