"""When a policy has a run stop: early stopping, a target, a budget."""

import json
from math import inf, nan
from pathlib import Path

import pytest

from remotelr.rules import InvalidPolicy, InvalidReport, policy_from_json
from support.rules.run_histories import Story

CONSTANT = {"type": "constant", "learning_rate": 0.1}
CASES = json.loads((Path(__file__).parents[1] / "golden" / "early_stopping.json").read_text())["cases"]


def stopping(**stop) -> Story:
    rest = {name: stop.pop(name) for name in ("steps_per_epoch",) if name in stop}
    story = Story({"schedule": CONSTANT, "stop": stop}, **rest)
    story.attempt(0)
    return story


def stopped_after(story: Story, losses) -> int | None:
    """The epoch whose report was answered with a stop."""
    for epoch, loss in enumerate(losses, story.run.epoch):
        if story.report(epoch, loss).action == "stop":
            return epoch
    return None


@pytest.mark.parametrize("case", CASES, ids=[str(number) for number in range(len(CASES))])
def test_early_stopping_stops_where_keras_does(case):
    rule = {**case["early_stopping"], "mode": case["early_stopping"].get("mode", "min"), "nan_policy": "library"}
    story = stopping(early_stopping=rule)
    losses = [float(loss) for loss in case["losses"]]

    assert case["stopped_epoch"] == stopped_after(story, losses)


def test_nan_is_no_improvement_whenever_it_comes():
    """
    In Keras one that comes first is best for good.
    """
    assert stopped_after(stopping(early_stopping={"patience": 2}), [nan, 0.5, 0.4, nan, inf]) == 4
    assert stopped_after(stopping(early_stopping={"patience": 2, "nan_policy": "library"}), [nan, 0.5, 0.4]) == 2


def test_nan_may_be_refused():
    with pytest.raises(InvalidReport):
        stopping(early_stopping={"nan_policy": "error"}).report(0, nan)


def test_a_report_without_the_metric_is_not_waited_on():
    story = stopping(early_stopping={"patience": 1})
    story.report(0, 0.5)

    assert "continue" == story.report(1).action


def test_a_stopped_run_stays_stopped_and_an_attempt_gets_the_action_stop():
    story = stopping(early_stopping={"patience": 1})
    stopped_after(story, [0.5, 0.6])

    assert "stop" == story.report(2, 0.1).action
    assert "stop" == story.attempt(3).action


def test_an_attempt_from_before_the_stop_is_not_stopped():
    story = stopping(early_stopping={"patience": 2})
    stopped_after(story, [0.5, 0.6, 0.7])
    decision = story.attempt(2)

    assert "continue" == decision.action
    assert 2 == stopped_after(story, [0.7])


def test_a_release_lets_the_run_go_on_and_wait_anew():
    story = stopping(early_stopping={"patience": 2})
    stopped_after(story, [0.5, 0.6, 0.7])
    story.command("release")

    assert 4 == stopped_after(story, [0.8, 0.8])
    assert story.replayed() == story.run


@pytest.mark.parametrize(
    ("target", "values", "expected"),
    [
        ({"value": 0.1}, [0.5, 0.11, 0.1, 0.05], 2),
        ({"value": 0.1}, [0.5, nan, -inf], 2),
        ({"value": 0.9, "mode": "max"}, [0.5, 0.89, nan, 0.95], 3),
        ({"value": 0.1}, [0.5, 0.4], None),
    ],
)
def test_a_target_stops_the_run_when_it_is_reached(target, values, expected):
    assert expected == stopped_after(stopping(target=target), values)


@pytest.mark.parametrize(
    ("budget", "expected"), [({"epochs": 3}, 2), ({"steps": 30}, 2), ({"steps": 31}, 3), ({"epochs": 9, "steps": 5}, 0)]
)
def test_a_budget_stops_the_run_when_it_is_spent(budget, expected):
    assert expected == stopped_after(stopping(budget=budget, steps_per_epoch=10), [0.5] * 9)


def test_unknown_steps_spend_no_budget():
    assert stopped_after(stopping(budget={"steps": 1}), [0.5] * 9) is None


def test_a_spent_budget_is_not_released():
    story = stopping(budget={"epochs": 1})
    story.report(0, 0.5)
    story.command("release")

    assert "stop" == story.report(1, 0.5).action


def test_a_run_resumed_beyond_its_budget_stops_immediately():
    story = stopping(budget={"epochs": 2})

    assert "stop" == story.attempt(2, gap=True).action


@pytest.mark.parametrize(
    "stop", [{"budget": {}}, {"early_stopping": {"monitor": "wibble"}}, {"target": {}}, {"patience": 3}]
)
def test_stop_rules_that_cannot_be_are_refused(stop):
    with pytest.raises(InvalidPolicy, match="stop"):
        policy_from_json({"schedule": CONSTANT, "stop": stop})


def test_the_metrics_of_stop_rules_are_monitored():
    stop = {"early_stopping": {}, "target": {"monitor": "val_accuracy", "value": 0.9}}

    assert ("val_loss", "val_accuracy") == policy_from_json({"schedule": CONSTANT, "stop": stop}).monitors()
