"""Invariant 4 on the rules alone: folding any history again gives the same head and the same decisions."""

import json
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from remotelr.rules import Decision, RulesError
from stories import PLATEAU, Story

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
]

# A coarse grid makes ties and exact edges frequent.
LOSSES = st.sampled_from([0.1, 0.2, 0.3, 0.4, 0.5, float("nan"), float("inf")])
STEPS = st.one_of(
    st.tuples(st.just("report"), st.integers(-2, 2), LOSSES),
    st.tuples(st.just("report"), st.just(0), LOSSES),
    st.tuples(st.just("attempt"), st.integers(0, 12)),
    st.tuples(st.just("set_learning_rate"), st.sampled_from([0.01, 0.3])),
    st.tuples(st.just("scale"), st.sampled_from([0.5, 2.0])),
    st.tuples(st.sampled_from(["release", "stop"])),
    st.tuples(st.just("put"), st.sampled_from(POLICIES), st.sampled_from(["keep", "replace", "restart"])),
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
        case ("finish", status):
            story.finish(status)
        case (order, *value):
            story.command(order, *value)
    return None


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(POLICIES), st.lists(STEPS, max_size=40))
def test_any_history_folds_again_to_the_same_head_and_the_same_decisions(policy, steps):
    story = Story(policy, total_epochs=12)
    for step in steps:
        try:
            take(story, step)
        except RulesError:
            continue

    assert story.replayed() == story.run


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(POLICIES), st.lists(STEPS, max_size=30))
def test_states_are_json_without_nan(policy, steps):
    story = Story(policy, total_epochs=12)
    for step in steps:
        try:
            take(story, step)
        except RulesError:
            continue

    for event in story.log.events:
        written = json.dumps([event.payload, event.state], allow_nan=False)
        assert json.loads(written) == [event.payload, event.state]


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(POLICIES), st.lists(LOSSES, min_size=1, max_size=14), st.data())
def test_reports_repeated_at_any_later_time_get_their_first_answer(policy, losses, data):
    story = Story(policy, total_epochs=12)
    answers = []
    for epoch, loss in enumerate(losses):
        answers.append((epoch, loss, story.report(epoch, loss)))
        earlier = data.draw(st.sampled_from(answers))

        assert story.report(*earlier[:2]) == replace(earlier[2], replayed=True)
