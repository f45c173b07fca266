"""What each command does, when it holds, and what becomes of it. `docs/commands.md` says the same in a table."""

from dataclasses import replace
from datetime import UTC, datetime
from math import isclose

import pytest

from remotelr.rules import (
    InvalidCommand,
    InvalidPolicy,
    Limits,
    SeqConflict,
    Until,
    command_from_payload,
    expired_override,
    next_expiry,
    policy_from_json,
)
from support.rules.run_histories import COSINE, CURVE, FALLING, FLAT, PLATEAU, STEPS, Story, began, next_rates


def test_a_pin_holds_until_it_is_released_and_the_curve_is_where_it_would_have_been():
    story = began()
    story.command("set_learning_rate", 0.3)
    held = next_rates(story, 3)
    story.command("release")

    assert [0.3, 0.3, 0.3] == held
    assert CURVE[7:10] == next_rates(story, 3)


def test_a_pin_until_an_epoch_ends_there_by_itself():
    story = began()
    story.command("set_learning_rate", 0.3, until=Until(epoch=6))

    assert [0.3, 0.3, *CURVE[6:8]] == next_rates(story, 4)


def test_a_factor_given_before_a_pin_is_there_again_when_its_time_is_over():
    story = began()
    story.command("scale", factor=0.5)
    story.command("set_learning_rate", 0.3, until=Until(epoch=6))

    assert [0.3, 0.3, CURVE[6] * 0.5] == next_rates(story, 3)


def test_a_second_pin_ends_at_its_own_until_and_not_at_that_of_the_first():
    story = began()
    story.command("set_learning_rate", 0.3, until=Until(epoch=5))
    story.report(3, 1.0)
    story.command("set_learning_rate", 0.2)

    assert [0.2, 0.2, 0.2] == next_rates(story, 3)


def test_a_one_shot_holds_for_one_epoch():
    story = began()
    story.command("set_learning_rate", 0.3, mode="one_shot")

    assert [0.3, *CURVE[5:7]] == next_rates(story, 3)


def test_a_one_shot_gives_a_pin_back():
    story = began()
    story.command("set_learning_rate", 0.3)
    next_rates(story, 1)
    story.command("set_learning_rate", 0.01, mode="one_shot", until=Until(epoch=7))

    assert [0.01, 0.01, 0.3, 0.3] == next_rates(story, 4)


def test_a_pin_given_while_a_one_shot_holds_comes_after_it():
    story = began()
    story.command("set_learning_rate", 0.01, mode="one_shot", until=Until(epoch=6))
    story.report(3, 1.0)
    story.command("set_learning_rate", 0.3)

    assert [0.01, 0.3, 0.3] == next_rates(story, 3)


def test_a_factor_leaves_a_one_shot_alone():
    story = began()
    story.command("set_learning_rate", 0.3, mode="one_shot")
    story.command("scale", factor=0.5)

    assert [0.3, CURVE[5] * 0.5] == next_rates(story, 2)


def test_after_a_rebase_the_curve_goes_on_from_the_rate_in_its_own_proportions():
    story = began()
    story.command("set_learning_rate", 0.2, mode="rebase")

    rates = next_rates(story, 3)

    assert rates == pytest.approx([0.2, 0.2 * CURVE[5] / CURVE[4], 0.2 * CURVE[6] / CURVE[4]])


def test_a_rebase_takes_a_pin_away():
    story = began()
    story.command("set_learning_rate", 0.3)
    story.command("set_learning_rate", 0.2, mode="rebase")

    assert next_rates(story, 2) == pytest.approx([0.2, 0.2 * CURVE[5] / CURVE[4]])


def test_a_rebase_where_the_curve_has_come_to_zero_is_a_pin():
    story = began(epochs=11)
    story.command("set_learning_rate", 0.2, mode="rebase")

    assert [0.2, 0.2] == next_rates(story, 2)


def test_a_rebase_counts_a_reduction_that_comes_with_it():
    """
    The report that is answered with the first rebased rate lowers the plateau's: the operator's word stands.
    """
    story = began(PLATEAU, epochs=2)
    story.command("set_learning_rate", 0.3, mode="rebase")

    assert next_rates(story, 3) == pytest.approx([0.3, 0.3, 0.15])


@pytest.mark.parametrize("mode", ["pin", "one_shot"])
def test_a_rate_until_a_time_is_held_until_its_release_is_appended(mode):
    story = began()
    story.command("set_learning_rate", 0.3, mode=mode, until=Until(time="2026-11-21T17:05:00+00:00"))
    held = next_rates(story, 4)
    early = expired_override(story.run, datetime(2026, 11, 21, 17, 4, 59, tzinfo=UTC))
    due = expired_override(story.run, datetime(2026, 11, 21, 17, 5, tzinfo=UTC))
    story.order(due)

    assert [0.3] * 4 == held
    assert (None, "remotelr", "until") == (early, due.actor, due.reason)
    assert CURVE[8:10] == next_rates(story, 2)
    assert expired_override(story.run, datetime(2030, 1, 1, tzinfo=UTC)) is None


def test_the_end_of_a_time_leaves_factors_and_a_stop_alone():
    story = began()
    story.command("scale", factor=0.5)
    story.command("set_learning_rate", 0.3, until=Until(time="2026-11-21T17:05:00Z"))
    story.command("stop")
    next_rates(story, 1)
    story.order(expired_override(story.run, datetime(2027, 1, 1, tzinfo=UTC)))
    decision = story.report(4, 1.0)

    assert (CURVE[5] * 0.5, "stop") == (decision.learning_rate, decision.action)


def test_a_pin_that_expires_before_its_first_epoch_never_takes_effect():
    story = began()
    story.command("set_learning_rate", 0.3, until=Until(time="2026-11-21T17:05:00Z"))
    due = expired_override(story.run, datetime(2027, 1, 1, tzinfo=UTC))
    story.order(due)

    assert "pin" == due.only
    assert expired_override(story.run, datetime(2027, 1, 1, tzinfo=UTC)) is None
    assert CURVE[4:6] == next_rates(story, 2)


def test_the_next_time_that_matters_is_known_before_it_comes():
    story = began()
    story.command("set_learning_rate", 0.3, until=Until(time="2026-11-21T17:05:00Z"))
    story.command("set_learning_rate", 0.2, mode="one_shot", until=Until(time="2026-11-21T16:00:00+01:00"))
    both = next_expiry(story.run)
    story.command("release")

    assert datetime(2026, 11, 21, 15, tzinfo=UTC) == both
    assert next_expiry(story.run) is None


def test_a_pause_holds_the_rate_in_force_and_the_curve_goes_on_where_it_stood():
    story = began()
    story.command("pause")
    held = next_rates(story, 4)
    story.command("resume_schedule")

    assert [CURVE[3]] * 4 == held
    assert CURVE[4:7] == next_rates(story, 3)


def test_a_plateau_sees_nothing_of_a_pause():
    """
    Epoch 3 is trained until the pause is over, so to say; only the last report of it counts.
    """
    story = began(PLATEAU, epochs=3)
    before = story.run.state.schedule
    story.command("pause")
    held = next_rates(story, 5)
    unmoved = story.run.state.schedule
    story.command("resume_schedule")
    story.report(8, 1.0)

    assert [FALLING[3]] * 5 == held
    assert before == unmoved
    assert FALLING[4:7] == [story.run.learning_rate, *next_rates(story, 2)]


def test_a_factor_on_a_paused_run_multiplies_what_is_held():
    story = began()
    story.command("pause")
    story.command("scale", factor=0.5)

    assert [CURVE[3] * 0.5] * 2 == next_rates(story, 2)


def test_a_release_ends_a_pause_and_what_it_cost():
    story = began()
    story.command("pause")
    next_rates(story, 2)
    story.command("resume_schedule")
    next_rates(story, 1)
    story.command("release")

    assert CURVE[7:10] == next_rates(story, 3)


def test_a_curve_of_steps_stands_still_at_the_step_it_was_paused_at():
    story = began(STEPS, steps_per_epoch=10)
    story.command("pause")
    held = next_rates(story, 3)
    story.command("resume_schedule")

    assert held == pytest.approx([CURVE[4]] * 3)
    assert next_rates(story, 3) == pytest.approx(CURVE[4:7])


def test_a_paused_run_that_resumes_from_a_checkpoint_has_the_same_rates_again():
    story = began()
    story.command("pause")
    next_rates(story, 2)
    story.command("resume_schedule")
    rates = next_rates(story, 3)
    story.attempt(4)

    assert rates == story.train(FLAT[:4], first=4)[-3:]


def policy_command(story: Story, policy: dict, **rest) -> None:
    story.command("replace_policy", policy=policy_from_json(policy), **rest)


def test_a_replaced_policy_keeps_what_the_plateau_remembers_where_the_tree_has_the_same_shape():
    story = began(PLATEAU, epochs=3)
    policy_command(story, {**PLATEAU, "factor": 0.1})

    assert [0.5, 0.05] == pytest.approx(next_rates(story, 2))


def test_a_policy_replaced_with_a_reset_begins_at_the_runs_rate():
    story = began(PLATEAU, epochs=3)
    policy_command(story, {**PLATEAU, "factor": 0.1}, state="reset")

    assert [1.0, 1.0, 0.1] == pytest.approx(next_rates(story, 3))


def test_a_policy_that_cannot_be_is_refused_and_changes_nothing():
    story = began({"type": "constant", "learning_rate": 0.1}, initial_learning_rate=None)
    before = story.run

    with pytest.raises(InvalidPolicy):
        policy_command(story, {"type": "cosine", "decay_steps": 9})

    assert before == story.run


def test_pins_and_factors_outlive_a_replaced_policy():
    story = began()
    story.command("scale", factor=0.5)
    next_rates(story, 1)
    policy_command(story, {"type": "constant", "learning_rate": 0.4})

    assert [0.2] == next_rates(story, 1)


@pytest.mark.parametrize("order", ["replace", "extend"])
def test_a_restarted_trainer_requests_its_old_policy_and_gets_that_of_the_operator(order):
    story = began(total_epochs=10)
    if order == "replace":
        policy_command(story, {"type": "constant", "learning_rate": 0.4})
    else:
        story.command("extend", total=20)
    before = story.run
    story.put(COSINE, total_epochs=10)
    story.attempt(2)

    assert before.policy == story.run.policy
    assert story.replayed() == story.run


def test_a_note_is_kept_and_changes_nothing():
    story = began()
    state = story.run.state
    story.command("note", text="the disk was full", actor="ada")

    assert state == story.run.state
    assert "the disk was full" == command_from_payload(story.log.events[-1]).text


def test_a_cancelled_command_is_as_if_never_given():
    story = began()
    story.command("scale", factor=0.5)
    story.command("cancel", seq=story.run.seq)

    assert CURVE[4:6] == next_rates(story, 2)


def test_a_cancelled_pin_gives_back_the_one_it_would_have_replaced_with_its_end():
    story = began()
    story.command("set_learning_rate", 0.3, until=Until(epoch=6))
    story.command("set_learning_rate", 0.2)
    story.command("cancel", seq=story.run.seq)

    assert [0.3, 0.3, CURVE[6]] == next_rates(story, 3)


def test_a_cancelled_stop_does_not_stop_the_run():
    story = began()
    story.command("stop")
    story.command("cancel", seq=story.run.seq)

    assert "continue" == story.report(3, 1.0).action


def test_a_cancelled_command_does_not_come_back_when_the_run_goes_back():
    story = began(epochs=5)
    story.command("scale", factor=0.5)
    number = story.run.seq
    story.attempt(2)
    next_rates(story, 2)
    story.command("cancel", seq=number)
    story.attempt(4)

    assert CURVE[5:9] == next_rates(story, 4)


@pytest.mark.parametrize("seq", [1, 2, 99])
def test_only_a_command_can_be_cancelled(seq):
    story = began()

    with pytest.raises(InvalidCommand, match="number of a queued command"):
        story.command("cancel", seq=seq)


def test_a_command_that_was_delivered_cannot_be_cancelled():
    story = began()
    story.command("scale", factor=0.5)
    number = story.run.seq
    story.report(3, 1.0)

    with pytest.raises(InvalidCommand, match="was delivered"):
        story.command("cancel", seq=number)


def test_a_command_is_cancelled_once():
    story = began()
    story.command("scale", factor=0.5)
    number = story.run.seq
    story.command("cancel", seq=number)

    with pytest.raises(InvalidCommand, match="already"):
        story.command("cancel", seq=number)


@pytest.mark.parametrize("order", ["note", "limits"])
def test_what_holds_at_once_cannot_be_cancelled(order):
    story = began()
    story.command(order, **({"text": "hm"} if order == "note" else {}))

    with pytest.raises(InvalidCommand, match="applied immediately"):
        story.command("cancel", seq=story.run.seq)


def test_two_operators_at_once_are_one_too_many():
    story = began()
    seen = story.run.seq
    story.command("scale", factor=0.5, expected_seq=seen)

    with pytest.raises(SeqConflict) as refusal:
        story.command("scale", factor=0.5, expected_seq=seen)

    assert {"seq": seen + 1, "expected_seq": seen} == refusal.value.details
    assert CURVE[4] * 0.5 == next_rates(story, 1)[0]


ORDERS = [
    {"type": "set_learning_rate", "value": 0.3},
    {"type": "set_learning_rate", "value": 0.3, "mode": "one_shot"},
    {"type": "set_learning_rate", "value": 0.3, "mode": "rebase"},
    {"type": "set_learning_rate", "value": 0.3, "until": Until(epoch=9)},
    {"type": "scale", "factor": 0.5},
    {"type": "release"},
    {"type": "pause"},
    {"type": "resume_schedule"},
    {"type": "replace_policy", "policy": policy_from_json({**COSINE, "decay_steps": 20})},
    {"type": "extend", "total": 20},
    {"type": "stop"},
    {"type": "note", "text": "hm"},
    {"type": "limits", "limits": Limits(max_lr=0.9)},
]
by_type = pytest.mark.parametrize("order", ORDERS, ids=[str(sorted(order.items())) for order in ORDERS])


@by_type
def test_a_command_repeated_under_its_key_counts_once(order):
    story = began(total_epochs=10)
    story.command(**order, key="k")
    once = story.run
    story.command(**order, key="k", expected_seq=1)

    assert once == story.run


@by_type
def test_the_key_of_another_command_is_refused(order):
    story = began(total_epochs=10)
    story.command(**order, key="k")

    with pytest.raises(InvalidCommand, match="belongs to another command"):
        story.command("scale", factor=0.7, key="k")


@by_type
def test_a_command_survives_a_restart_and_effective_from_the_epoch_it_held_from(order):
    story, undisturbed = began(total_epochs=10), began(total_epochs=10)
    story.command(**order)
    undisturbed.command(**order)
    next_rates(story, 3)
    story.attempt(2)

    assert next_rates(undisturbed, 6) == story.train(FLAT[:7], first=2)[1:]


@by_type
def test_what_a_command_does_to_the_rate_is_noted_with_it(order):
    story, without = began(total_epochs=10), began(total_epochs=10)
    story.command(**order)
    notes = story.log.events[-1].notes

    if order["type"] == "note":
        assert {} == notes
    else:
        assert isclose(notes["before"], next_rates(without, 1)[0], rel_tol=1e-12)
        assert isclose(notes["after"], next_rates(story, 1)[0], rel_tol=1e-12)


@pytest.mark.parametrize(
    "old", [{"type": "scale", "value": 0.5}, {"type": "set_learning_rate", "value": 0.3}, {"type": "release"}]
)
def test_an_older_log_is_read_and_folds(old):
    """
    Events of release 0.1.0 keep neither a why nor what a command does.
    """
    story = began()
    story.command(**old)
    next_rates(story, 2)
    bare = [
        replace(event, notes={} if event.kind == "command" else event.notes, decision=_without_why(event.decision))
        for event in story.log.events
    ]
    story.log.events[:] = bare

    assert story.replayed() == story.run


def _without_why(decision):
    return decision and replace(decision, why=None)


@pytest.mark.parametrize(
    ("order", "field"),
    [
        ({"type": "set_learning_rate"}, "value"),
        ({"type": "set_learning_rate", "value": 0.0}, "value"),
        ({"type": "set_learning_rate", "value": 0.1, "factor": 0.1}, "factor"),
        ({"type": "set_learning_rate", "value": 0.1, "mode": "hold"}, "mode"),
        ({"type": "set_learning_rate", "value": 0.1, "mode": "rebase", "until": Until(epoch=9)}, "until"),
        ({"type": "set_learning_rate", "value": 0.1, "until": Until(epoch=4)}, "until"),
        ({"type": "set_learning_rate", "value": 0.1, "until": Until()}, "until"),
        ({"type": "set_learning_rate", "value": 0.1, "until": Until(epoch=9, time="2026-01-01T00:00:00Z")}, "until"),
        ({"type": "set_learning_rate", "value": 0.1, "until": Until(time="2026-01-01T00:00:00")}, "until"),
        ({"type": "set_learning_rate", "value": 0.1, "until": Until(time="tomorrow")}, "until"),
        ({"type": "scale"}, "value"),
        ({"type": "scale", "factor": -1.0}, "factor"),
        ({"type": "release", "value": 0.1}, "value"),
        ({"type": "pause", "until": Until(epoch=9)}, "until"),
        ({"type": "replace_policy"}, "policy"),
        ({"type": "extend"}, "total"),
        ({"type": "stop", "mode": "one_shot"}, "mode"),
        ({"type": "note"}, "text"),
        ({"type": "note", "text": ""}, "text"),
        ({"type": "cancel"}, "seq"),
        ({"type": "explode"}, "type"),
    ],
)
def test_a_command_that_makes_no_sense_is_refused_by_the_name_of_the_member(order, field):
    story = began(total_epochs=10)
    before = story.run

    with pytest.raises(InvalidCommand) as refusal:
        story.command(**order)

    assert field == refusal.value.details["field"]
    assert before == story.run
