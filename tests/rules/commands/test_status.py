"""What becomes of a command, read from the log."""

import pytest

from remotelr.rules import Limits, Until, command_status
from support.rules.run_histories import Story

CONSTANT = {"type": "constant", "learning_rate": 0.1}


def began(policy=CONSTANT, **rest) -> Story:
    story = Story(policy, **rest)
    story.attempt(0)
    story.report(0, 0.5)
    return story


def status(story: Story, seq: int):
    event, *later = [event for event in story.log.events if event.seq >= seq]
    return command_status(event, later, story.run)


def ordered(story: Story, type: str, **rest) -> int:
    """The number of a command just given."""
    story.command(type, **rest)
    return story.run.seq


def scaled() -> tuple[Story, int]:
    """A run whose rate was just halved by a command, and the number of the command."""
    story = began()
    return story, ordered(story, "scale", factor=0.5)


def train_two(story: Story, used: float) -> None:
    """Epochs 1 and 2, the second one with this rate."""
    story.report(1, 0.5)
    story.report(2, 0.5, learning_rate=used)


def test_a_command_is_queued_until_it_is_delivered():
    story, seq = scaled()

    assert ("queued", None, None) == (status(story, seq).state, status(story, seq).seq, status(story, seq).at_epoch)


def test_it_is_delivered_with_the_first_decision_it_bears_on():
    story, seq = scaled()
    story.report(1, 0.5)
    found = status(story, seq)

    assert ("delivered", seq + 1, 2, 0.05) == (found.state, found.seq, found.at_epoch, found.rate)


def test_it_is_applied_when_a_report_says_the_rate_that_was_used():
    """
    As the trainer's float32 has it.
    """
    story, seq = scaled()
    train_two(story, 0.05000000074505806)
    found = status(story, seq)

    assert ("applied", seq + 2, 2, 0.05000000074505806) == (found.state, found.seq, found.at_epoch, found.rate)


def test_a_report_that_does_not_say_its_rate_proves_nothing():
    story, seq = scaled()
    story.train([0.5, 0.5], first=1)

    assert "delivered" == status(story, seq).state


def test_it_is_rejected_when_the_trainer_used_another_rate():
    story, seq = scaled()
    train_two(story, 0.1)
    found = status(story, seq)

    assert ("rejected", 0.1, "the trainer used 0.1") == (found.state, found.rate, found.reason)


def test_it_is_rejected_when_a_bound_made_another_rate_of_it():
    story = began({"schedule": CONSTANT, "min_lr": 0.08})
    seq = ordered(story, "scale", factor=0.5)
    story.report(1, 0.5)
    found = status(story, seq)

    assert ("rejected", 0.08, "a bound changed the rate to 0.08") == (found.state, found.rate, found.reason)


def test_it_expires_when_the_run_ends_before():
    story, seq = scaled()
    story.finish("completed")

    assert ("expired", "the run is completed") == (status(story, seq).state, status(story, seq).reason)


def test_it_expires_when_its_epoch_was_never_trained():
    story = began()
    seq = ordered(story, "set_learning_rate", value=0.3, until=Until(epoch=4))
    story.report(5, 0.5)

    assert "expired" == status(story, seq).state
    assert 0.1 == story.run.learning_rate


def test_it_expires_when_its_time_was_over_before():
    story = began()
    seq = ordered(story, "set_learning_rate", value=0.3, until=Until(time="2026-11-21T17:05:00Z"))
    story.command("release", only="pin")
    story.report(1, 0.5)

    assert "expired" == status(story, seq).state


@pytest.mark.parametrize(
    ("order", "later"),
    [
        ({"type": "scale", "factor": 0.5}, {"type": "release"}),
        ({"type": "scale", "factor": 0.5}, {"type": "set_learning_rate", "value": 0.3}),
        ({"type": "set_learning_rate", "value": 0.2}, {"type": "set_learning_rate", "value": 0.3}),
        ({"type": "set_learning_rate", "value": 0.2}, {"type": "set_learning_rate", "value": 0.3, "mode": "rebase"}),
        (
            {"type": "set_learning_rate", "value": 0.2, "mode": "one_shot"},
            {"type": "set_learning_rate", "value": 0.3, "mode": "one_shot"},
        ),
        ({"type": "pause"}, {"type": "resume_schedule"}),
        ({"type": "stop"}, {"type": "release"}),
        ({"type": "limits", "limits": Limits(max_lr=0.5)}, {"type": "limits"}),
    ],
)
def test_a_queued_command_is_superseded_by_a_command_that_replaces_it(order, later):
    story = began()
    seq = ordered(story, **order)
    story.command(**later)
    story.report(1, 0.5)

    assert ("superseded", seq + 1) == (status(story, seq).state, status(story, seq).seq)
    assert "delivered" == status(story, seq + 1).state


@pytest.mark.parametrize(
    ("order", "later"),
    [
        ({"type": "set_learning_rate", "value": 0.2}, {"type": "scale", "factor": 0.5}),
        ({"type": "set_learning_rate", "value": 0.2}, {"type": "set_learning_rate", "value": 0.3, "mode": "one_shot"}),
        ({"type": "set_learning_rate", "value": 0.2, "mode": "one_shot"}, {"type": "set_learning_rate", "value": 0.3}),
        ({"type": "scale", "factor": 0.5}, {"type": "note", "text": "hm"}),
        ({"type": "stop"}, {"type": "scale", "factor": 0.5}),
    ],
)
def test_what_leaves_it_in_its_place_supersedes_nothing(order, later):
    story = began()
    seq = ordered(story, **order)
    story.command(**later)

    assert "queued" == status(story, seq).state


def test_it_is_cancelled_by_a_cancel_and_gives_its_place_back():
    story = began()
    first = ordered(story, "set_learning_rate", value=0.2)
    second = ordered(story, "set_learning_rate", value=0.3)
    cancel = ordered(story, "cancel", seq=second, reason="too high")
    story.report(1, 0.5)

    assert ("cancelled", cancel, "too high") == (
        status(story, second).state,
        status(story, second).seq,
        status(story, second).reason,
    )
    assert "delivered" == status(story, first).state


@pytest.mark.parametrize("order", [{"type": "note", "text": "hm"}, {"type": "cancel", "seq": 4}])
def test_what_holds_at_once_is_applied_at_once(order):
    story = began()
    story.command("scale", factor=0.5)
    seq = ordered(story, **order)

    assert "applied" == status(story, seq).state


def test_a_run_that_goes_back_does_not_take_a_delivery_back():
    story, seq = scaled()
    train_two(story, 0.05)
    story.attempt(1)

    assert "applied" == status(story, seq).state


def test_the_attempt_in_force_determines_the_rate_of_an_epoch_trained_twice():
    story, seq = scaled()
    train_two(story, 0.1)
    story.attempt(1)
    train_two(story, 0.05)

    assert ("applied", 0.05) == (status(story, seq).state, status(story, seq).rate)


def test_a_policy_command_has_the_same_states_as_others():
    story = began(total_epochs=10)
    seq = ordered(story, "extend", total=20)
    queued = status(story, seq).state
    story.report(1, 0.5)

    assert ("queued", "delivered") == (queued, status(story, seq).state)


def test_a_stop_is_applied_when_the_run_has_ended():
    story = began()
    seq = ordered(story, "stop")
    story.report(1, 0.5, learning_rate=0.1)
    on_delivery = status(story, seq)
    story.finish("stopped")
    ended = status(story, seq)

    assert ("delivered", seq + 1, 2) == (on_delivery.state, on_delivery.seq, on_delivery.at_epoch)
    assert ("applied", seq + 2, 2) == (ended.state, ended.seq, ended.at_epoch)


def test_a_stop_is_rejected_by_a_trainer_that_goes_on():
    story = began()
    seq = ordered(story, "stop")
    story.report(1, 0.5, learning_rate=0.1)
    story.report(2, 0.5, learning_rate=0.1)

    assert ("rejected", "the trainer went on with epoch 2") == (status(story, seq).state, status(story, seq).reason)


def test_a_stop_that_was_taken_back_in_time_is_neither():
    story = began()
    seq = ordered(story, "stop")
    story.report(1, 0.5, learning_rate=0.1)
    ordered(story, "release")
    story.report(2, 0.5, learning_rate=0.1)

    assert "delivered" == status(story, seq).state
