"""A schedule that cannot be meant for its run is described; every other one is not."""

import pytest

from remotelr.rules import RunSpec, describe_length_mismatch, policy_from_json
from support.rules.vectors import EXAMPLES


def mismatch(document, *, epochs=50, per_epoch=180, unit="epoch"):
    policy = policy_from_json(document if "schedule" in document else {"schedule": document, "unit": unit})
    return describe_length_mismatch(
        RunSpec(policy=policy, initial_learning_rate=0.1, total_epochs=epochs, steps_per_epoch=per_epoch)
    )


STEPS = [
    {"type": "cosine", "decay_steps": 9000},
    {"type": "cosine", "decay_steps": 8500, "warmup": {"steps": 500}},
    {"type": "linear", "decay_steps": 9000},
    {"type": "polynomial", "decay_steps": 9000},
    {"type": "tanh", "first_decay_steps": 9000},
    {"type": "one_cycle", "max_lr": 0.1, "total_steps": 9000},
    {"type": "wsd", "warmup_steps": 500, "stable_steps": 6500, "decay_steps": 2000},
    {"type": "piecewise_constant", "boundaries": [3000, 6000], "values": [0.1, 0.01, 0.001]},
    {"type": "multi_step", "milestones": [4500, 6750]},
    {
        "type": "sequential",
        "schedules": [{"type": "constant"}, {"type": "linear", "decay_steps": 4000}],
        "milestones": [5000],
    },
    {
        "type": "chained",
        "schedules": [{"type": "linear", "decay_steps": 9000}, {"type": "exponential", "decay_rate": 0.9}],
    },
]


@pytest.mark.parametrize("schedule", STEPS, ids=lambda schedule: schedule["type"])
def test_a_schedule_in_steps_whose_unit_was_forgotten_is_described(schedule):
    assert mismatch(schedule).endswith('It fits the 9,000 steps of the run: set "unit": "step" in the policy.')
    assert mismatch(schedule, unit="step") is None


def test_the_description_has_both_lengths():
    assert mismatch({"type": "cosine", "decay_steps": 9000}, epochs=3, per_epoch=19) == (
        "the schedule takes 9,000 epochs and the run has 3 epochs: only the beginning of the curve is used. "
        "Correct the lengths of the schedule or the unit of the policy."
    )


def test_a_schedule_in_epochs_under_the_unit_step_is_described():
    assert mismatch({"type": "cosine", "decay_steps": 50}, unit="step") == (
        "the schedule takes 50 steps and the run has 9,000 steps: the rest of the run has the last rate of the curve. "
        'It fits the 50 epochs of the run: set "unit": "epoch" in the policy.'
    )


@pytest.mark.parametrize("epochs", [13, 20, 50, 100, 499])
def test_a_run_that_is_somewhat_shorter_or_longer_than_its_schedule_is_not(epochs):
    assert mismatch({"type": "cosine", "decay_steps": 50}, epochs=epochs) is None


@pytest.mark.parametrize("epochs", [12, 501])
def test_a_run_far_shorter_or_longer_than_its_schedule_is(epochs):
    assert mismatch({"type": "cosine", "decay_steps": 50}, epochs=epochs) is not None


@pytest.mark.parametrize(
    "schedule",
    [
        {"type": "linear", "initial_learning_rate": 0.0, "end_learning_rate": 0.1, "decay_steps": 2},
        {"type": "piecewise_constant", "boundaries": [2], "values": [0.1, 0.01]},
        {"type": "multi_step", "milestones": [2]},
        {"type": "step", "step_size": 1, "gamma": 0.01},
        {"type": "exponential", "decay_rate": 0.01},
        {"type": "constant", "warmup": {"steps": 2}},
        {"type": "reduce_on_plateau", "warmup": {"steps": 2}},
        {"type": "cosine_restarts", "first_decay_steps": 1},
        {"type": "cosine", "decay_steps": 1, "beyond_end": "periodic"},
        {"type": "cyclic", "base_lr": 0.0, "max_lr": 0.1, "step_size_up": 1},
        {"type": "inverse_sqrt", "warmup_steps": 2},
        {"type": "noam", "d_model": 512, "warmup_steps": 2},
        {
            "type": "sequential",
            "schedules": [
                {"type": "linear", "initial_learning_rate": 0.01, "end_learning_rate": 0.1, "decay_steps": 2},
                {"type": "reduce_on_plateau"},
            ],
            "milestones": [2],
        },
        {"type": "chained", "schedules": [{"type": "linear", "decay_steps": 2}, {"type": "reduce_on_plateau"}]},
    ],
    ids=lambda schedule: str(schedule)[:60],
)
def test_a_warm_up_a_drop_or_a_period_far_below_the_run_is_not(schedule):
    assert mismatch(schedule) is None


@pytest.mark.parametrize("type_", EXAMPLES)
def test_no_schedule_is_described_while_the_length_of_the_run_is_unknown(type_):
    assert mismatch(EXAMPLES[type_], epochs=None) is None
    assert mismatch(EXAMPLES[type_], per_epoch=None, unit="step") is None


def test_a_curve_that_an_operator_made_longer_is_measured_as_it_is_now():
    extended = {"type": "extended", "schedule": {"type": "cosine", "decay_steps": 50}, "at": 10.0, "position": 10.0}

    assert mismatch({**extended, "speed": 40 / 790}, epochs=800) is None
    assert mismatch({**extended, "speed": 40 / 790}, epochs=50) is not None
