"""A run whose policy counted epochs and comes to count steps: the curve is where the run is, not at its beginning."""

import pytest

from remotelr.rules import InvalidReport, policy_from_json
from support.rules.run_histories import Story

COSINE = {"type": "cosine", "initial_learning_rate": 1.0, "decay_steps": 10_000}
STEPS = {"schedule": COSINE, "unit": "step"}


def trained(epochs: int = 51, **rest) -> Story:
    """A run under a policy of epochs whose trainer counts no steps."""
    story = Story({**COSINE, "decay_steps": 100}, **rest)
    story.attempt(0)
    story.train([1.0] * epochs)
    return story


def replaced(story: Story, how: str) -> None:
    if how == "command":
        story.command("replace_policy", policy=policy_from_json(STEPS))
    else:
        story.put(STEPS, how, steps_per_epoch=100)


@pytest.mark.parametrize("how", ["command", "replace", "restart"])
def test_a_policy_of_steps_goes_on_at_the_step_the_run_is_at(how):
    story = trained(epochs=50, steps_per_epoch=100)
    replaced(story, how)
    decision = story.report(50, 1.0)

    assert 5_100 == decision.step
    assert story.run.policy.learning_rate(None, 5_100.0) == decision.learning_rate
    assert 5_200 == story.report(51, 1.0).step
    assert story.replayed() == story.run


@pytest.mark.parametrize("epoch", [0, 30, 50])
def test_a_trainer_that_starts_again_under_a_policy_of_steps_starts_at_the_step_of_its_epoch(epoch):
    story = trained(epochs=50, steps_per_epoch=100)
    replaced(story, "command")
    decision = story.attempt(epoch)

    assert epoch * 100 == decision.step
    assert story.run.policy.learning_rate(None, epoch * 100.0) == decision.learning_rate


def test_the_effect_of_another_policy_is_computed_at_the_step_of_the_run():
    story = trained(epochs=50, steps_per_epoch=100)
    replaced(story, "command")
    computed = story.log.events[-1].notes["after"]

    assert computed == story.report(50, 1.0).learning_rate


def test_a_restart_must_give_the_step_if_it_is_unknown():
    story = trained(epochs=50)
    replaced(story, "command")

    with pytest.raises(InvalidReport, match="set `step`, at which epoch 50 begins"):
        story.attempt(50)
    assert 4_800 == story.attempt(50, step=4_800).step
    assert 0 == story.attempt(0).step
