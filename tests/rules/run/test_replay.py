"""Invariant 4 on the rules alone: folding any history again gives the same head and the same decisions."""

import json
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from remotelr.rules import (
    Decision,
    Limits,
    RulesError,
    RunSpec,
    RunState,
    Until,
    command_status,
    describe,
    is_command,
    policy_from_json,
)
from remotelr.rules.run.overrides import cancelled_seqs, first_undecided, pending_overrides
from support.rules.run_histories import PLATEAU, Story

POLICIES = [
    PLATEAU,
    {**PLATEAU, "flavor": "keras", "factor": 0.97, "patience": 1, "cooldown": 1},
    {"schedule": {"type": "cosine", "decay_steps": 9}, "min_lr": 0.05},
    {
        "type": "sequential",
        "milestones": [3],
        "schedules": [
            {"type": "linear", "initial_learning_rate": 0.1, "end_learning_rate": 1.0, "decay_steps": 3},
            PLATEAU,
        ],
    },
    {"type": "reduce_on_plateau", "patience": 1, "schedule": {"type": "cosine", "decay_steps": 9}},
    {"type": "expression", "expression": "lr if epoch < 3 else lr * exp(-0.1)"},
    {"schedule": {"type": "cosine", "decay_steps": 40}, "unit": "step"},
    {
        "schedule": PLATEAU,
        "guard": {"explosion_factor": 2.0, "action": "rollback", "max_actions": 2, "on_max_actions": "ignore"},
        "stop": {"early_stopping": {"patience": 3}, "target": {"value": 0.1}, "budget": {"epochs": 11}},
    },
    {"schedule": {"type": "cosine", "decay_steps": 9}, "guard": {"action": "hold", "max_actions": 100}},
]

# A coarse grid makes ties and exact edges frequent.
LOSSES = st.sampled_from([0.1, 0.2, 0.3, 0.4, 0.5, float("nan"), float("inf")])
FACTORS = st.sampled_from([0.5, 2.0, 0.3])
RATES = st.sampled_from([0.01, 0.3])
UNTIL = st.one_of(
    st.none(), st.integers(1, 12).map(lambda epoch: Until(epoch=epoch)), st.just(Until(time="2026-11-21T17:05:00Z"))
)
# What operators do to the rate, and a release takes back.
OVERRIDES = st.one_of(
    st.fixed_dictionaries({"type": st.just("set_learning_rate"), "value": RATES}, optional={"until": UNTIL}),
    st.fixed_dictionaries(
        {"type": st.just("set_learning_rate"), "value": RATES, "mode": st.just("one_shot")}, optional={"until": UNTIL}
    ),
    st.fixed_dictionaries({"type": st.just("set_learning_rate"), "value": RATES, "mode": st.just("rebase")}),
    st.fixed_dictionaries({"type": st.just("scale"), "factor": FACTORS}),
    st.fixed_dictionaries({"type": st.just("release"), "only": st.sampled_from(["pin", "one_shot"])}),
)
PAUSES = st.fixed_dictionaries({"type": st.sampled_from(["pause", "resume_schedule"])})
COMMANDS = st.one_of(
    OVERRIDES,
    PAUSES,
    st.fixed_dictionaries({"type": st.sampled_from(["release", "stop"])}),
    st.fixed_dictionaries({"type": st.just("note"), "text": st.just("hm")}),
    st.fixed_dictionaries({"type": st.just("cancel"), "seq": st.integers(2, 20)}),
    st.fixed_dictionaries(
        {"type": st.just("limits")},
        optional={"limits": st.sampled_from([Limits(max_lr=0.2), Limits(min_lr=0.02, max_change=3.0)])},
    ),
    st.fixed_dictionaries(
        {
            "type": st.just("replace_policy"),
            "policy": st.sampled_from(POLICIES).map(policy_from_json),
            "state": st.sampled_from(["keep", "reset"]),
        }
    ),
    st.fixed_dictionaries(
        {
            "type": st.just("extend"),
            "total": st.integers(8, 30),
            "continuity": st.sampled_from(["keep_lr", "keep_fraction", "restart"]),
        }
    ),
)
STEPS = st.one_of(
    st.tuples(st.just("command"), COMMANDS),
    st.tuples(st.just("command"), COMMANDS),
    st.tuples(st.just("report"), st.just(0), LOSSES),
    st.tuples(st.just("report"), st.integers(-2, 2), LOSSES),
    st.tuples(st.just("report"), st.just(0), LOSSES),
    st.tuples(st.just("attempt"), st.integers(0, 12)),
    st.tuples(st.just("put"), st.sampled_from(POLICIES), st.sampled_from(["keep", "replace", "restart"])),
    st.tuples(st.just("length"), st.sampled_from([6, 12, 20]), st.sampled_from(["error", "keep", "replace"])),
    st.tuples(st.just("finish"), st.sampled_from(["completed", "failed"])),
)


def take(story: Story, step: tuple) -> Decision | None:
    match step:
        case ("report", offset, loss):
            return story.report(max(story.run.epoch + offset, 0), loss)
        case ("attempt", epoch):
            return story.attempt(epoch, gap=True)
        case ("put", policy, mode):
            story.put(policy, mode)
        case ("length", total, mode):
            story.state_length(total, mode)
        case ("finish", status):
            story.finish(status)
        case ("command", order):
            story.command(**order)
    return None


def lived(policy, steps) -> Story:
    """A run to which all this has happened; what is refused has not."""
    story = Story(policy, total_epochs=12, steps_per_epoch=4)
    for step in steps:
        try:
            take(story, step)
        except RulesError:
            continue
    return story


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(POLICIES), st.lists(STEPS, max_size=40))
def test_any_history_folds_again_to_the_same_head_and_the_same_decisions(policy, steps):
    story = lived(policy, steps)

    assert story.replayed() == story.run


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(POLICIES), st.lists(STEPS, max_size=30))
def test_states_are_json_without_nan(policy, steps):
    story = lived(policy, steps)

    for event in story.log.events:
        written = json.dumps([event.payload, event.state], allow_nan=False)
        assert json.loads(written) == [event.payload, event.state]


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(POLICIES), st.lists(LOSSES, min_size=1, max_size=14), st.data())
def test_reports_repeated_at_any_later_time_get_their_first_answer(policy, losses, data):
    story = Story(policy, total_epochs=12, steps_per_epoch=4)
    answers = []
    for epoch, loss in enumerate(losses):
        answers.append((epoch, loss, story.report(epoch, loss)))
        earlier = data.draw(st.sampled_from(answers))

        assert story.report(*earlier[:2]) == replace(earlier[2], replayed=True)


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(POLICIES), st.lists(STEPS, max_size=30), STEPS)
def test_a_run_read_back_from_its_documents_goes_on_as_if_it_had_stayed(policy, steps, last):
    story = lived(policy, steps)
    spec = RunSpec.from_json(through_json(story.run.spec.to_json()))
    state = RunState.from_json(through_json(story.run.state.to_json()))
    read = replace(story.run, spec=spec, policy=spec.bound(), state=state)

    assert story.run == read


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(POLICIES), st.lists(STEPS, max_size=30))
def test_what_is_still_to_do_is_what_the_commands_in_the_log_say(policy, steps):
    """
    A cancel relies on it: it takes one command away and lets the others say again what is to do.
    """
    story = lived(policy, steps)
    cancelled = cancelled_seqs(story.log.since("command", 0))

    assert story.run.state.overrides == pending_overrides(story.log, cancelled, first_undecided(story.run))


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from(POLICIES[:6]), st.lists(st.one_of(OVERRIDES, st.none()), max_size=10), st.lists(LOSSES, max_size=9)
)
def test_a_release_returns_exactly_to_the_curve(policy, orders, losses):
    """
    Whatever was ordered between the reports, however long it held: none of it was shown to the schedule.
    """
    story, undisturbed = (Story(policy, total_epochs=12) for _ in range(2))
    for epoch, loss in enumerate(losses):
        if epoch < len(orders) and orders[epoch] is not None:
            refused_or_taken(story, orders[epoch])
        story.report(epoch, loss)
        undisturbed.report(epoch, loss)
    story.command("release")
    first = len(losses)

    assert undisturbed.train([0.3] * 5, first=first) == story.train([0.3] * 5, first=first)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.one_of(OVERRIDES, PAUSES, st.none()), max_size=10))
def test_a_release_returns_to_an_open_curve_after_pauses_too(orders):
    story, undisturbed = (Story(POLICIES[2], total_epochs=12) for _ in range(2))
    for epoch, order in enumerate(orders):
        if order is not None:
            refused_or_taken(story, order)
        story.report(epoch, 0.3)
        undisturbed.report(epoch, 0.3)
    story.command("release")

    assert undisturbed.train([0.3] * 3, first=len(orders)) == story.train([0.3] * 3, first=len(orders))


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(POLICIES), st.lists(STEPS, max_size=20), COMMANDS, st.lists(LOSSES, max_size=5))
def test_a_command_retried_at_any_later_time_counts_once(policy, steps, order, losses):
    once, again = lived(policy, steps), lived(policy, steps)
    if not refused_or_taken(once, {**order, "key": "k"}):
        return
    refused_or_taken(again, {**order, "key": "k"})
    for loss in losses:
        for story in (once, again):
            try:
                story.report(story.run.epoch, loss)
            except RulesError:
                return
        again.command(**order, key="k")

    assert once.run == again.run


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(POLICIES), st.lists(STEPS, max_size=30))
def test_every_event_has_a_sentence_and_every_command_a_status(policy, steps):
    story = lived(policy, steps)
    events = story.log.events

    assert all(describe(event).endswith(".") and "\n" not in describe(event) for event in events)
    statuses = [
        command_status(event, events[number + 1 :], story.run)
        for number, event in enumerate(events)
        if is_command(event)
    ]
    assert all(each.state in {"queued", "expired"} or each.seq is not None for each in statuses)


def refused_or_taken(story: Story, order: dict) -> bool:
    try:
        story.command(**order)
    except RulesError:
        return False
    return True


def through_json(document):
    return json.loads(json.dumps(document, allow_nan=False))


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from(POLICIES),
    st.lists(st.one_of(OVERRIDES, PAUSES, st.none()), max_size=10),
    st.lists(LOSSES, min_size=1, max_size=10),
    st.data(),
)
def test_a_run_that_goes_back_has_the_same_rates_again_whatever_was_ordered(policy, orders, losses, data):
    story = Story(policy, total_epochs=12, steps_per_epoch=4)
    story.attempt(0)
    decisions = []
    for epoch, loss in enumerate(losses):
        if epoch < len(orders) and orders[epoch] is not None:
            refused_or_taken(story, orders[epoch])
        decisions.append(story.report(epoch, loss))
    back = data.draw(st.integers(0, len(losses)))
    followed = story.run.state.guard.back_to == back - 1
    story.attempt(back)
    again = [story.report(epoch, loss) for epoch, loss in enumerate(losses[back:], back)]

    if not followed:
        assert [instruction(decision) for decision in decisions[back:]] == [instruction(decision) for decision in again]


def instruction(decision: Decision) -> tuple:
    """The parts of a decision that tell the trainer the rate and the action."""
    return decision.epoch, decision.learning_rate, decision.reason, decision.action, decision.rollback_to, decision.why
