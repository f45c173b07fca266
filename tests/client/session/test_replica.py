"""The rules in the trainer decide as the service decides, whichever decision was the last one from the service."""

import json
from dataclasses import asdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from remotelr._http import responses
from remotelr._session.replica import LocalReplica, same
from remotelr.rules import (
    AttemptRequest,
    Command,
    Decision,
    Limits,
    PolicyConflict,
    Report,
    RunSpec,
    Until,
    policy_from_json,
)
from support.rules.run_histories import Story

PLATEAU = {"type": "reduce_on_plateau", "factor": 0.97, "patience": 1, "cooldown": 1, "min_delta": 0.0}
COMPOSED = {
    "type": "sequential",
    "milestones": [3],
    "schedules": [
        {"type": "linear", "initial_learning_rate": 0.01, "end_learning_rate": 0.1, "decay_steps": 3},
        {"type": "reduce_on_plateau", "factor": 0.5, "patience": 2, "flavor": "torch"},
    ],
}
COSINE = {"unit": "step", "schedule": {"type": "cosine", "decay_steps": 70, "warmup": {"steps": 20}}}
WATCHED = {
    "schedule": PLATEAU,
    "guard": {"explosion_factor": 2.0, "action": "rollback", "max_actions": 3, "on_max_actions": "ignore"},
    "stop": {"early_stopping": {"patience": 4}, "budget": {"epochs": 25}},
}
ORDERS = st.sampled_from(
    [
        {"type": "set_learning_rate", "value": 0.03, "until": Until(epoch=9)},
        {"type": "set_learning_rate", "value": 0.03, "mode": "one_shot"},
        {"type": "set_learning_rate", "value": 0.03, "mode": "rebase"},
        {"type": "scale", "factor": 0.5},
        {"type": "pause"},
        {"type": "resume_schedule"},
        {"type": "release"},
        {"type": "limits", "limits": Limits(max_lr=0.05)},
    ]
)
values = st.sampled_from([0.1, 0.2, 0.3, 0.4, 0.5, float("nan"), float("inf")])


def spec(policy) -> RunSpec:
    return RunSpec(policy=policy_from_json(policy), initial_learning_rate=0.1, steps_per_epoch=10)


def over_the_wire(decision: Decision) -> Decision:
    document = json.loads(json.dumps(asdict(decision)))
    return responses.read_decision(document)


def service(policy) -> Story:
    story = Story(policy, initial_learning_rate=0.1, steps_per_epoch=10)
    story.attempt(0)
    return story


@given(
    policy=st.sampled_from([PLATEAU, COMPOSED, COSINE, WATCHED]), losses=st.lists(values, max_size=30), data=st.data()
)
def test_from_any_decision_on_it_decides_what_the_service_decides(policy, losses, data):
    synced = data.draw(st.integers(0, len(losses)))
    story, shadow = service(policy), LocalReplica("story", spec(policy))

    for epoch, loss in enumerate(losses):
        theirs = story.report(epoch, loss)
        if epoch < synced:
            shadow.sync_to(over_the_wire(theirs))
        else:
            assert same(shadow.report(Report(epoch=epoch, metrics={"val_loss": loss})), theirs)


@given(
    policy=st.sampled_from([PLATEAU, COSINE, WATCHED]),
    orders=st.lists(ORDERS, min_size=1, max_size=6),
    losses=st.lists(values, max_size=15),
)
def test_commands_and_guard_state_persist_without_the_service(policy, orders, losses):
    story, shadow = service(policy), LocalReplica("story", spec(policy))
    for epoch, order in enumerate(orders):
        story.command(**order)
        shadow.sync_to(over_the_wire(story.report(epoch, 0.3)))

    for epoch, loss in enumerate(losses, len(orders)):
        theirs = story.report(epoch, loss)
        assert same(shadow.report(Report(epoch=epoch, metrics={"val_loss": loss})), theirs)


def test_a_rate_that_comes_to_a_run_that_has_ended_does_not_let_it_go_on():
    story, shadow = service(WATCHED), LocalReplica("story", spec(WATCHED))
    for epoch in range(5):
        shadow.sync_to(over_the_wire(story.report(epoch, 0.3)))
    shadow.apply_now(Command(type="scale", factor=0.5))
    scaled = shadow.decision.action
    shadow.apply_now(Command(type="release"))

    assert ["stop", "continue"] == [scaled, shadow.decision.action]


@given(losses=st.lists(values, min_size=1, max_size=20), data=st.data())
def test_it_goes_back_to_any_epoch_it_followed(losses, data):
    back = data.draw(st.integers(0, len(losses)))
    story, shadow = service(PLATEAU), LocalReplica("story", spec(PLATEAU))
    for epoch, loss in enumerate(losses):
        shadow.sync_to(over_the_wire(story.report(epoch, loss)))

    ours = shadow.begin(AttemptRequest(key="again", epoch=back))

    assert same(ours, story.attempt(back))


def test_a_rate_an_operator_holds_stays_held_without_the_service():
    story, shadow = service(PLATEAU), LocalReplica("story", spec(PLATEAU))
    story.command("set_learning_rate", 0.0123)
    story.report(0, 1.0)
    shadow.sync_to(over_the_wire(story.report(1, 1.0)))

    decision = shadow.report(Report(epoch=2, metrics={"val_loss": 1.0}))

    assert (decision.learning_rate, decision.reason, decision.local) == (0.0123, "command", True)


HALVING = {"type": "step", "step_size": 1, "gamma": 0.5}
ORDERS = {
    "pin": {"type": "set_learning_rate", "value": 0.03},
    "pin until": {"type": "set_learning_rate", "value": 0.03, "until": Until(epoch=3)},
    "one shot": {"type": "set_learning_rate", "value": 0.03, "mode": "one_shot"},
    "rebase": {"type": "set_learning_rate", "value": 0.03, "mode": "rebase"},
    "scale": {"type": "scale", "factor": 0.5},
    "release": {"type": "release"},
    "pause": {"type": "pause"},
    "stop": {"type": "stop"},
    "note": {"type": "note", "text": "a remark"},
}


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS.keys())
def test_a_live_command_has_the_same_effect_from_the_next_epoch_on(order):
    """The command applies in the epoch that receives it; from the next one on, the rates are those of the service."""
    story, shadow = service(HALVING), LocalReplica("story", spec(HALVING))
    story.command("scale", 0.9)
    shadow.sync_to(over_the_wire(story.report(0, 1.0)))
    before = shadow.decision.learning_rate
    story.order(Command(**order))

    changed = shadow.apply_now(Command(**order))

    assert changed == (order["type"] not in ("pause", "note"))
    assert changed == (shadow.decision.learning_rate != before or shadow.decision.action == "stop")
    for epoch in range(1, 6):
        assert same(shadow.report(Report(epoch=epoch, metrics={"val_loss": 1.0})), story.report(epoch, 1.0))


def test_a_live_command_that_the_rules_reject_changes_nothing():
    shadow = LocalReplica("story", spec(HALVING))

    assert not shadow.apply_now(Command(type="scale", factor=-1.0))


def test_every_step_of_an_epoch_has_its_rate():
    shadow = LocalReplica("story", spec({**COSINE, "schedule": {"type": "linear", "decay_steps": 40}}))
    shadow.report(Report(epoch=0, metrics={}))

    assert [shadow.learning_rate_at(step) for step in (0, 10)] == pytest.approx([0.075, 0.05])


def test_the_step_of_a_trainer_serves_where_the_run_has_none():
    shadow = LocalReplica("story", RunSpec(policy=policy_from_json(COSINE), initial_learning_rate=0.1))

    assert shadow.begin(AttemptRequest(key="a", epoch=7, step=35)).step == 35


def test_a_decision_made_under_another_policy_is_noticed():
    story = service({**PLATEAU, "type": "reduce_on_plateau", "factor": 0.5, "patience": 1, "cooldown": 0})
    shadow = LocalReplica("story", spec({"type": "step", "step_size": 1, "gamma": 0.9}))

    shadow.sync_to(over_the_wire(story.report(0, 1.0)))

    assert not shadow.agrees


def test_another_policy_is_a_conflict_here_as_there():
    shadow = LocalReplica("story", spec(PLATEAU))

    with pytest.raises(PolicyConflict):
        shadow.put(spec(COMPOSED), "error")
    shadow.put(spec(COMPOSED), "restart")

    assert shadow.report(Report(epoch=0, metrics={})).learning_rate == pytest.approx(0.04)


def test_a_long_training_does_not_fill_the_memory():
    shadow = LocalReplica("story", spec(PLATEAU))
    for epoch in range(10_000):
        shadow.report(Report(epoch=epoch, metrics={"val_loss": 1.0}))

    assert len(shadow.log.events) <= 4_001
    assert shadow.begin(AttemptRequest(key="a", epoch=9_000)).epoch == 9_000
