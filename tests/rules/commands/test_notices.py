"""What the sender of a command should know: the policy's rate beneath an override, and notices."""

import pytest

from remotelr.rules import Command, Until
from remotelr.rules.commands.notices import notices
from remotelr.rules.transitions.decide import rate_beneath
from support.rules.run_histories import COSINE, CURVE, FALLING, FLAT, PLATEAU, STEPS, began

HELD = {"type": "set_learning_rate", "value": 0.3}
OVERRIDES = [
    HELD,
    {**HELD, "mode": "one_shot", "until": Until(epoch=20)},
    {**HELD, "mode": "rebase"},
    {"type": "scale", "factor": 0.5},
    {"type": "pause"},
]


def codes(story, **command):
    return [each.code for each in notices(story.run, Command(**command))]


@pytest.mark.parametrize(
    ("policy", "override"),
    [
        (policy, override)
        for policy in (COSINE, PLATEAU, {"schedule": COSINE, "max_lr": 0.9}, STEPS)
        for override in OVERRIDES
        # A paused plateau observes nothing, so its rate is another one than without the pause.
        if (policy, override["type"]) != (PLATEAU, "pause")
    ],
)
def test_the_rate_beneath_an_override_is_the_one_after_a_release(policy, override):
    story = began(policy, steps_per_epoch=7)
    story.command(**override)
    story.train([1.0] * 5, first=story.run.epoch)
    beneath = rate_beneath(story.run)
    released = began(policy, steps_per_epoch=7)
    released.train([1.0] * 5, first=released.run.epoch)

    assert released.run.learning_rate == beneath
    assert story.run.learning_rate != beneath


def test_without_an_override_nothing_is_beneath():
    story = began()
    alone = rate_beneath(story.run)
    story.command(**HELD)
    not_yet = rate_beneath(story.run)
    story.train(FLAT[:2], first=story.run.epoch)
    story.command("release")
    story.train(FLAT[:1], first=story.run.epoch)

    assert [None] * 3 == [alone, not_yet, rate_beneath(story.run)]
    assert CURVE[story.run.epoch] == story.run.learning_rate


def test_a_plateau_counts_on_beneath_a_pin():
    story = began(PLATEAU, epochs=0)
    story.command("set_learning_rate", 0.3)
    rates = []
    for epoch in range(6):
        story.report(epoch, 1.0)
        rates.append(rate_beneath(story.run))

    assert FALLING[1:7] == [rate or 1.0 for rate in rates]
    assert len({*rates}) > 2


@pytest.mark.parametrize(
    ("policy", "command", "expected"),
    [
        (PLATEAU, HELD, ["schedule_observes"]),
        (PLATEAU, {**HELD, "until": Until(epoch=9)}, ["schedule_observes"]),
        (PLATEAU, {**HELD, "mode": "one_shot", "until": Until(epoch=9)}, ["schedule_observes"]),
        (PLATEAU, {**HELD, "mode": "one_shot"}, []),
        (PLATEAU, {**HELD, "mode": "rebase"}, []),
        (PLATEAU, {"type": "scale", "factor": 0.5}, []),
        (PLATEAU, {"type": "pause"}, []),
        ({**PLATEAU, "schedule": COSINE}, HELD, ["schedule_observes"]),
        (COSINE, HELD, []),
    ],
)
def test_only_a_rate_held_over_a_closed_loop_schedule_is_noticed(policy, command, expected):
    assert expected == codes(began(policy), **command)


@pytest.mark.parametrize("status", ["completed", "failed", "stopped"])
def test_a_command_to_a_run_that_is_over_is_noticed_until_it_begins_again(status):
    story = began()
    running = codes(story, **HELD)
    story.finish(status)
    over = notices(story.run, Command(type="scale", factor=0.5))
    story.attempt(3)

    assert [] == running == codes(story, **HELD)
    assert [f"the run is {status}: this holds if it begins again"] == [each.detail for each in over]
