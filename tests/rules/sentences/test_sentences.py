"""Every decision and every event reads as one sentence."""

from dataclasses import replace
from math import nan

import pytest

from remotelr.rules import Limits, Until, describe, policy_from_json
from support.rules.run_histories import PLATEAU, Story

CONSTANT = {"type": "constant", "learning_rate": 0.1}
COSINE = {"type": "cosine", "initial_learning_rate": 0.1, "decay_steps": 10}


def guarded(**guard):
    return {"schedule": CONSTANT, "guard": {"explosion_factor": 2.0, **guard}}


def stopping(**stop):
    return {"schedule": CONSTANT, "stop": stop}


def said(story: Story) -> str:
    """The sentence of the newest event."""
    return describe(story.log.events[-1])


def reported(policy, losses, orders=(), **spec) -> str:
    """The sentence of the decision after these losses, of a run under orders given before."""
    story = Story(policy, **spec)
    for order in orders:
        story.command(**order)
    story.train(losses)
    return said(story)


def commanded(**order) -> str:
    story = Story(CONSTANT, total_epochs=10)
    story.train([0.5])
    story.command(**order)
    return said(story)


# Patience 2, factor 0.5, from a rate of 1.
@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ([0.2], "Epoch 1 trains with 1: val_loss 0.2 is the best so far."),
        ([0.2, 0.1], "Epoch 2 trains with 1: val_loss 0.1 is the best so far, after 0.2."),
        (
            [0.211, 0.213],
            (
                "Epoch 2 trains with 1: val_loss 0.213 was no better than 0.211 (best) for 1 epoch, patience 2, "
                "so the rate stays."
            ),
        ),
        (
            [0.211, 0.22, 0.213],
            (
                "Epoch 3 trains with 0.5: val_loss 0.213 was no better than 0.211 (best) for 2 epochs, patience 2, "
                "so 1 was halved."
            ),
        ),
        (
            [nan],
            (
                "Epoch 1 trains with 1: val_loss nan was no better than anything before for 1 epoch, patience 2, "
                "so the rate stays."
            ),
        ),
        ([None], "Epoch 1 trains with 1: no val_loss was reported, so the plateau did not change."),
    ],
)
def test_a_plateau_says_what_it_waits_for_and_what_it_did(losses, expected):
    assert expected == reported(PLATEAU, losses)


def test_a_plateau_says_that_it_cools_down():
    sentence_of_cooling = reported({**PLATEAU, "patience": 1, "cooldown": 3}, [1.0, 1.0, 1.0])

    assert "Epoch 3 trains with 0.5: val_loss 1 came during the cooldown of the plateau." == sentence_of_cooling


def test_a_factor_other_than_a_half_is_named():
    assert "so 1 was multiplied by 0.1." in reported({**PLATEAU, "patience": 1, "factor": 0.1}, [1.0, 1.0])


def test_a_plateau_over_a_curve_says_that_the_curve_was_lowered():
    policy = {**PLATEAU, "patience": 1, "schedule": COSINE}

    assert reported(policy, [1.0, 1.0]).endswith("patience 1, so the schedule's rate was halved.")
    assert reported({**policy, "patience": 5}, [1.0, 1.0]).endswith("patience 5, so the rate is the schedule's.")


def test_a_greedy_schedule_says_that_the_rate_rose():
    policy = {"type": "greedy", "patience": 0, "factor": 0.5, "max_lr": 10}

    assert "Epoch 1 trains with 2: val_loss 0.5 raised the rate from 1." == reported(policy, [0.5])


def test_an_open_curve_names_itself():
    assert "Epoch 5 trains with 0.05: as the cosine schedule gives it." == reported(COSINE, [0.5] * 5)


def test_a_beginning_says_what_begins():
    story = Story(COSINE)

    assert "The run is created, and epoch 0 trains with 0.1: as the cosine schedule gives it." == said(story)

    story.attempt(0)

    assert "Attempt 1 begins, and epoch 0 trains with 0.1: as the cosine schedule gives it." == said(story)


@pytest.mark.parametrize(
    ("orders", "expected"),
    [
        ([{"type": "set_learning_rate", "value": 0.02}], "an operator holds 0.02."),
        (
            [{"type": "set_learning_rate", "value": 0.02, "until": Until(time="2026-11-21T17:05:00+00:00")}],
            "an operator holds 0.02 until 2026-11-21T17:05:00+00:00.",
        ),
        (
            [{"type": "set_learning_rate", "value": 0.02, "mode": "one_shot", "until": Until(epoch=3)}],
            "an operator set 0.02 for a while.",
        ),
        (
            [{"type": "scale", "factor": 0.5}],
            "as the constant schedule gives it; an operator's factor of 0.5 applies.",
        ),
        ([{"type": "pause"}], "the constant schedule is paused."),
    ],
)
def test_an_operator_is_named_where_the_rate_is_theirs(orders, expected):
    assert reported(CONSTANT, [0.5], orders).partition(": ")[2] == expected


def test_the_length_of_pauses_is_in_the_sentence():
    story = Story(COSINE)
    story.command("pause")
    story.train([0.5, 0.5])
    story.command("resume_schedule")
    story.report(2, 0.5)

    assert "Epoch 3 trains with 0.1: as the cosine schedule gives it; pauses delayed the schedule by 3." == said(story)


def test_bounds_say_whose_they_are_and_what_they_kept_away():
    bounded = {"schedule": CONSTANT, "max_lr": 0.05}
    limited = {"policy": CONSTANT, "limits": Limits(min_lr=0.2)}

    assert (
        "Epoch 1 trains with 0.05: as the constant schedule gives it; "
        "it would be 0.1, and the policy's bounds allow no more than 0.05." == reported(bounded, [0.5])
    )
    assert (
        "Epoch 1 trains with 0.2: as the constant schedule gives it; "
        "it would be 0.1, and the limits of the experiment allow no less than 0.2."
        == reported(limited["policy"], [0.5], limits=limited["limits"])
    )


@pytest.mark.parametrize(
    ("guard", "losses", "expected"),
    [
        ({}, [0.5, nan], "Epoch 2 trains with 0.1: val_loss nan is not finite, so the guard holds the rate."),
        (
            {},
            [0.5, 9.0],
            "Epoch 2 trains with 0.1: val_loss 9 exploded beyond its running mean of 0.5, so the guard holds the rate.",
        ),
        (
            {"action": "scale"},
            [0.5, 9.0],
            (
                "Epoch 2 trains with 0.05: val_loss 9 exploded beyond its running mean of 0.5, "
                "so the guard had the rate halved."
            ),
        ),
        (
            {"action": "scale"},
            [0.5, 9.0, 0.5],
            "Epoch 3 trains with 0.05: as the constant schedule gives it; a factor of 0.5 of the guard applies.",
        ),
        (
            {"action": "rollback", "factor": 0.1},
            [0.5, 0.4, nan],
            (
                "Epoch 3 trains from the checkpoint of epoch 1 with 0.01: val_loss nan is not finite, "
                "so the guard goes back to epoch 1, and the rate was multiplied by 0.1."
            ),
        ),
        (
            {"action": "stop"},
            [0.5, nan],
            "Epoch 2 is not trained: val_loss nan is not finite, and the guard stops the run.",
        ),
    ],
)
def test_a_guard_says_what_it_saw_and_what_it_did(guard, losses, expected):
    assert expected == reported(guarded(**guard), losses)


@pytest.mark.parametrize(
    ("stop", "losses", "expected"),
    [
        (
            {"early_stopping": {"patience": 2}},
            [0.3, 0.4, 0.4],
            "val_loss 0.4 was no better than 0.3 (best) for 2 epochs, patience 2.",
        ),
        (
            {"early_stopping": {"patience": 1}},
            [0.3, 0.4, 0.4],
            "the run was stopped before, by its early stopping.",
        ),
        ({"target": {"value": 0.1}}, [0.3, 0.09], "val_loss 0.09 has reached the target 0.1."),
        ({"budget": {"epochs": 2}}, [0.3, 0.2], "the budget is spent, after 2 epochs, which are 20 steps."),
    ],
)
def test_a_stop_says_which_rule_it_was(stop, losses, expected):
    spoken = reported(stopping(**stop), losses, steps_per_epoch=10)

    assert spoken.partition(": ")[2] == expected


def test_an_operators_stop_says_so():
    assert "Epoch 1 is not trained: an operator stopped the run." == reported(CONSTANT, [0.5], [{"type": "stop"}])


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        ({"type": "set_learning_rate", "value": 0.05}, "holds 0.05 from epoch 2 on (0.1 becomes 0.05)."),
        (
            {"type": "set_learning_rate", "value": 0.05, "until": Until(epoch=5)},
            "holds 0.05 from epoch 2 on, until epoch 5 (0.1 becomes 0.05).",
        ),
        (
            {"type": "set_learning_rate", "value": 0.05, "mode": "one_shot"},
            "sets 0.05 for epoch 2 (0.1 becomes 0.05).",
        ),
        (
            {"type": "set_learning_rate", "value": 0.05, "mode": "one_shot", "until": Until(epoch=5)},
            "sets 0.05 from epoch 2 on, until epoch 5 (0.1 becomes 0.05).",
        ),
        (
            {"type": "set_learning_rate", "value": 0.05, "mode": "rebase"},
            "continues the schedule from 0.05 from epoch 2 on (0.1 becomes 0.05).",
        ),
        ({"type": "scale", "value": 0.5}, "has the rate halved from epoch 2 on (0.1 becomes 0.05)."),
        ({"type": "release"}, "releases the rate to the policy from epoch 2 on."),
        ({"type": "release", "only": "one_shot"}, "ends the one-shot from epoch 2 on."),
        ({"type": "pause"}, "pauses the schedule from epoch 2 on."),
        ({"type": "resume_schedule"}, "continues the schedule from epoch 2 on."),
        (
            {"type": "replace_policy", "policy": policy_from_json({"type": "constant", "learning_rate": 0.3})},
            "replaces the policy by constant, its state kept where it fits (0.1 becomes 0.3).",
        ),
        ({"type": "extend", "total": 20}, "has the run end after 20 epochs, keeping the rate at the joint."),
        ({"type": "stop"}, "stops the run."),
        ({"type": "note", "text": "disk is full"}, 'notes "disk is full".'),
        ({"type": "limits", "limits": Limits(max_lr=0.5)}, "sets the limits max_lr 0.5."),
        ({"type": "limits"}, "takes the limits away."),
    ],
)
def test_every_command_says_what_was_ordered(order, expected):
    assert f"An operator {expected}" == commanded(**order)


def test_a_cancel_names_the_command_it_takes_back():
    story = Story(CONSTANT)
    story.report(0, 0.5)
    story.command("scale", factor=0.5)
    story.command("cancel", seq=3)

    assert "An operator cancels command 3 (0.05 becomes 0.1)." == said(story)


def test_the_sentence_of_a_command_has_its_actor_and_reason():
    spoken = commanded(type="stop", actor="ada", reason="enough is enough")

    assert 'ada stops the run: "enough is enough".' == spoken


def test_events_without_a_decision_have_a_sentence_too():
    story = Story({"schedule": CONSTANT, "aggregate": {"ranks": "all"}}, world_size=2)
    story.report(0, 0.5, rank=1)
    waiting = said(story)
    story.report(0, 0.5, rank=0)
    story.put(COSINE, "replace", world_size=2)
    replaced = said(story)
    story.finish("completed")

    assert "Rank 1 reported epoch 0, and other ranks are missing." == waiting
    assert "The run's owner replaced its policy, and the state of its schedule is kept where it fits." == replaced
    assert "The run is completed." == said(story)


def test_a_late_rank_and_another_rate_are_mentioned():
    story = Story(CONSTANT, world_size=2)
    story.report(0, 0.5, learning_rate=0.3)
    drifted = said(story)
    story.report(0, 0.5, rank=1)

    assert drifted.endswith("; epoch 0 was trained with 0.3, not with 0.1.")
    assert "Rank 1 reported epoch 0 after it was decided." == said(story)


def test_epochs_without_a_report_are_mentioned():
    story = Story(CONSTANT)
    story.report(2, 0.5)

    assert said(story).endswith("; no report for 2 epochs before it.")


@pytest.mark.parametrize("reason", ["start", "schedule", "plateau", "command", "bounds", "guard"])
def test_a_decision_of_a_release_that_kept_no_why_has_a_sentence(reason):
    story = Story(CONSTANT)

    assert describe(replace(story.first, why=None, reason=reason)).startswith("Epoch 0 trains with 0.1: ")
