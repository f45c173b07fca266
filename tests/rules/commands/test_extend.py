"""A run made longer: what `extend` makes of the rest of its curve. `docs/commands.md` has the formulas."""

import pytest

from remotelr.rules import InvalidCommand
from support.rules.run_histories import CURVE, FALLING, FLAT, PLATEAU, STEPS, Story, began, next_rates


def test_an_extended_curve_keeps_its_rate_at_the_joint_and_ends_at_the_total():
    story = began(total_epochs=10)
    story.command("extend", total=20)

    rates = next_rates(story, 17)

    assert rates[0] == pytest.approx(CURVE[4])
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] == pytest.approx(0.0, abs=1e-12)
    assert 20 == story.run.spec.total_epochs


def test_an_extended_curve_keeps_the_share_that_is_done():
    """
    At epoch 4 of 10 six epochs of curve are left, for the sixteen epochs up to 20.
    """
    story = began(total_epochs=10)
    story.command("extend", total=20, continuity="keep_fraction")

    rates = next_rates(story, 17)[::8]

    assert rates == [CURVE[4], pytest.approx(CURVE[7]), pytest.approx(CURVE[10], abs=1e-12)]


def test_an_extended_curve_can_begin_again():
    story = began(total_epochs=10)
    story.command("extend", total=24, continuity="restart")

    rates = next_rates(story, 21)[::10]

    assert rates == [CURVE[0], pytest.approx(CURVE[5]), pytest.approx(CURVE[10], abs=1e-12)]


def test_an_extended_plateau_goes_on_as_it_was():
    story = began(PLATEAU, epochs=3, total_epochs=10)
    story.command("extend", total=20)

    assert FALLING[4:8] == next_rates(story, 4)


def test_a_curve_of_steps_is_extended_by_epochs():
    story = began(STEPS, steps_per_epoch=10, total_epochs=10)
    story.command("extend", total=20, continuity="keep_fraction")

    assert next_rates(story, 9)[8] == pytest.approx(CURVE[7])


def test_a_run_that_goes_back_to_before_its_extension_has_the_rates_of_back_then():
    story = began(total_epochs=10)
    story.command("extend", total=20)
    rates = next_rates(story, 5)
    story.attempt(1)

    assert CURVE[2:4] == story.train(FLAT[:2], first=1)
    assert rates == next_rates(story, 5)


def test_a_run_can_be_extended_more_than_once_but_not_without_end():
    story = began(total_epochs=10)

    with pytest.raises(InvalidCommand, match="extended too often"):
        extend_for_ever(story)

    assert story.run.spec.total_epochs > 15
    assert story.replayed() == story.run


def extend_for_ever(story: Story) -> None:
    for total in range(11, 60):
        story.command("extend", total=total)


@pytest.mark.parametrize(("spec", "total"), [({"total_epochs": 10}, 4), ({"total_epochs": 10}, None), ({}, 20)])
def test_an_extension_needs_an_end_to_move_and_a_later_one(spec, total):
    story = began(**spec)

    with pytest.raises(InvalidCommand) as refusal:
        story.command("extend", total=total)

    assert "total" == refusal.value.details["field"]


def test_an_expression_of_the_total_is_extended_once_and_not_twice():
    story = began({"type": "expression", "expression": "0.1 * (1 - epoch / total)"}, total_epochs=10)
    story.command("extend", total=20, continuity="keep_fraction")

    assert next_rates(story, 9)[8] == pytest.approx(0.1 * 0.3)


@pytest.mark.parametrize(
    ("continuity", "rate"),
    [
        ("keep_lr", lambda lr, t: lr(t * 10 / 17) * lr(4) / lr(4 * 10 / 17)),
        ("keep_fraction", lambda lr, t: lr(4 + (t - 4) * (10 - 4) / (17 - 4))),
        ("restart", lambda lr, t: lr((t - 4) * 10 / (17 - 4))),
    ],
)
def test_the_formulas_of_an_extension_are_those_of_the_documentation(continuity, rate):
    """
    From 10 epochs to 17, at epoch 4.
    """
    story = began(total_epochs=10)
    policy = story.run.policy
    story.command("extend", total=17, continuity=continuity)
    expected = [rate(lambda position: policy.learning_rate(None, position), epoch) for epoch in range(4, 18)]

    assert next_rates(story, 14) == pytest.approx(expected)
