"""Documents become policies and policies documents; what cannot be one is refused with its path."""

import json

import pytest

from remotelr.rules import InvalidPolicy, Policy, policy_from_json, policy_to_json
from remotelr.rules.composition.modifiers import Warmup, WithModifiers
from remotelr.rules.policy.codec import node_from_json, node_to_json
from remotelr.rules.policy.registry import NODES
from remotelr.rules.schedules.cosine import Cosine
from remotelr.rules.schedules.linear import Constant

COSINE = {"type": "cosine", "decay_steps": 90}


def refusal(document):
    with pytest.raises(InvalidPolicy) as caught:
        policy_from_json(document)
    return str(caught.value)


def test_a_node_alone_is_a_policy_per_epoch():
    policy = policy_from_json({"type": "constant", "learning_rate": 0.1})

    assert Policy(schedule=Constant(initial_learning_rate=0.1), unit="epoch") == policy


def test_the_canonical_form_says_everything_that_is_not_null():
    document = {"schedule": COSINE | {"warmup": {"steps": 5}}, "max_lr": 1}

    assert policy_to_json(policy_from_json(document)) == {
        "schedule": {
            "type": "cosine",
            "decay_steps": 90.0,
            "exponent": 1.0,
            "num_cycles": 0.5,
            "k_decay": 1.0,
            "beyond_end": "hold",
            "warmup": {
                "steps": 5.0,
                "start_learning_rate": 0.0,
                "shape": "linear",
                "prefix": True,
                "target": "peak",
                "offset": 0.0,
            },
        },
        "unit": "epoch",
        "max_lr": 1.0,
    }


def test_python_and_json_make_the_same_policy():
    made = WithModifiers(schedule=Cosine(decay_steps=90), warmup=Warmup(steps=5))

    assert made == node_from_json(COSINE | {"warmup": {"steps": 5}})


def test_a_field_of_the_node_wins_over_the_modifier_of_its_name():
    schedule = node_from_json({"type": "lr_range_test", "min_lr": 0.1, "max_lr": 0.5})

    assert 0.1 == schedule.schedule.min_lr
    assert schedule.min_lr is None
    assert 0.5 == schedule.max_lr


def test_a_constant_has_two_names_for_its_rate_and_keeps_one():
    schedule = node_from_json({"type": "constant", "initial_learning_rate": 0.1})

    assert {"type": "constant", "learning_rate": 0.1} == node_to_json(schedule)


def test_null_is_the_same_as_absent():
    assert node_from_json(COSINE) == node_from_json(COSINE | {"alpha": None, "warmup": None, "min_lr": None})


@pytest.mark.parametrize("name", NODES)
def test_only_null_stands_for_nothing(name):
    """
    Null fields are left out of the canonical form, so an optional field must not mean anything else by default.
    """
    from remotelr.rules.values.fields import coerce, fields_of

    def refuse(hint, value):
        raise InvalidPolicy("not a plain value")

    for field in fields_of(NODES[name]):
        try:
            coerce(field.hint, None, refuse)
        except InvalidPolicy:
            continue
        assert field.default is None, field.name


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        (None, "a policy must be an object, is null"),
        ([], "a policy must be an object, is a list"),
        ({}, "type: is missing; one of constant, "),
        ({"schedule": {}}, "schedule.type: is missing; one of constant, "),
        ({"type": "cosin"}, 'type: "cosin" is not known (did you mean "cosine"?)'),
        ({"type": 7}, "type: 7 is not known; one of "),
        ({"type": ["cosine"]}, "type: a list is not known; one of "),
        ({"schedule": 0.1}, "schedule: a schedule must be an object, is 0.1"),
        ({"schedule": COSINE, "units": "step"}, 'units: is not known (did you mean "unit"?); known are schedule, unit'),
        ({"schedule": COSINE, "unit": "batch"}, 'unit: must be one of epoch, step, is "batch"'),
        ({"schedule": COSINE, "unit": None}, "unit: must be one of epoch, step, is null"),
        ({"type": "cosine"}, "decay_steps: is missing"),
        (
            {"type": "constant", "learning_rate": 0.1, "initial_learning_rate": 0.2},
            "initial_learning_rate: means the same as learning_rate, which is 0.1",
        ),
        (COSINE | {"decay_step": 9}, 'decay_step: is not known (did you mean "decay_steps"?)'),
        (COSINE | {"decay_steps": 0}, "decay_steps: must be between 1e-06 and 1e+12, is 0.0"),
        (COSINE | {"decay_steps": True}, "decay_steps: must be a number, is true"),
        (COSINE | {"decay_steps": "90"}, 'decay_steps: must be a number, is "90"'),
        (COSINE | {"decay_steps": None}, "decay_steps: must be a number, is null"),
        (COSINE | {"decay_steps": float("nan")}, "decay_steps: must be finite, is nan"),
        (COSINE | {"decay_steps": float("inf")}, "decay_steps: must be finite, is inf"),
        (COSINE | {"decay_steps": 10**400}, "decay_steps: must be finite, is a very long number"),
        (COSINE | {"alpha": 1.5}, "alpha: must be between 0 and 1, is 1.5"),
        (COSINE | {"alpha": 0.1, "end_learning_rate": 0.1}, "alpha: cannot be combined with end_learning_rate"),
        (COSINE | {"initial_learning_rate": 0}, "initial_learning_rate: must be above 0 and at most 1000, is 0.0"),
        (COSINE | {"initial_learning_rate": -1}, "initial_learning_rate: must be above 0 and at most 1000, is -1.0"),
        (COSINE | {"beyond_end": 1}, "beyond_end: must be one of hold, periodic, is 1"),
        (COSINE | {"warmup": 5}, "warmup: must be an object, is 5"),
        (COSINE | {"warmup": {}}, "warmup.steps: is missing"),
        (COSINE | {"warmup": {"steps": 5, "shap": "log"}}, 'warmup.shap: is not known (did you mean "shape"?)'),
        (COSINE | {"warmup": {"steps": 5, "prefix": 1}}, "warmup.prefix: must be true or false, is 1"),
        (
            COSINE | {"warmup": {"steps": 5, "target": None}},
            'warmup.target: must be "peak" or "schedule" or a number, is null',
        ),
        (COSINE | {"warmup": {"steps": 5, "target": "top"}}, "warmup.target: must be one of peak, schedule"),
        (COSINE | {"noise": {"on": [1]}}, "noise.on: must hold 2 items, has 1"),
        (COSINE | {"noise": {"on": "1"}}, 'noise.on: must be a number or a list, is "1"'),
        (COSINE | {"noise": {"on": [5, 2]}}, "noise.on: must not end (2) before it begins (5)"),
        (COSINE | {"noise": {"seed": 1.0}}, "noise.seed: must be a whole number, is 1.0"),
        (COSINE | {"noise": {"seed": True}}, "noise.seed: must be a whole number, is true"),
        (COSINE | {"noise": {"pct": 0.001}}, "noise.pct: must be at least a hundredth of std (1), is 0.001"),
        (COSINE | {"min_lr": 0.2, "max_lr": 0.1}, "min_lr: must be at most max_lr (0.1), is 0.2"),
        ({"schedule": COSINE, "min_lr": 0.2, "max_lr": 0.1}, "min_lr: must be at most max_lr (0.1), is 0.2"),
        ({"type": "step", "step_size": 5, "gamma": 0}, "gamma: must be above 0 and at most 1e+06, is 0.0"),
        ({"type": "multi_step", "milestones": 3}, "milestones: must be a list, is 3"),
        ({"type": "multi_step", "milestones": [3, "4"]}, 'milestones[1]: must be a number, is "4"'),
        ({"type": "multi_step", "milestones": [1] * 1001}, "milestones: holds at most 1,000 items, has 1,001"),
        (
            {"type": "polynomial", "decay_steps": 5, "cycle_limit": 2.0},
            "cycle_limit: must be a whole number, is 2.0",
        ),
        (
            {"type": "polynomial", "decay_steps": 5, "cycle": True, "cycle_limit": 2},
            "cycle: cannot be combined with cycle_limit",
        ),
        (
            {"type": "piecewise_constant", "boundaries": [5, 3], "values": [1, 2, 3]},
            "boundaries[1]: must be after the one before (5), is 3",
        ),
        (
            {"type": "piecewise_constant", "boundaries": [5], "values": [1]},
            "values: must hold one value more than there are boundaries (1), has 1",
        ),
        (
            {"type": "piecewise_interpolate", "boundaries": [], "values": []},
            "boundaries: must hold at least one point",
        ),
        (
            {"type": "piecewise_interpolate", "boundaries": [1, 2], "values": [1]},
            "values: must hold one value for each of 2 boundaries, has 1",
        ),
        (
            {"type": "one_cycle", "max_lr": 1, "total_steps": 1},
            "total_steps: must be between 2 and 1e+12, is 1.0",
        ),
        (
            {"type": "one_cycle", "max_lr": 1, "total_steps": 9, "three_phase": True, "pct_start": 0.6},
            "pct_start: must be at most 0.5 with three phases, is 0.6",
        ),
        ({"type": "cyclic", "base_lr": 1, "max_lr": 0.5}, "max_lr: must be at least base_lr (1), is 0.5"),
        ({"type": "tanh", "first_decay_steps": 9, "lower": 3}, "lower: must be below upper (3), is 3"),
        (
            {"type": "wsd", "stable_steps": 1, "decay_steps": 1, "decay_shape": "geometric"},
            "end_learning_rate: must be above 0 for a geometric decay",
        ),
        (
            {"type": "wsd", "stable_steps": 1, "decay_steps": 1, "stable_shape": "rsqrt"},
            "stable_timescale: is missing: rsqrt without a warm-up needs it",
        ),
        ({"type": "sequential", "schedules": [], "milestones": []}, "schedules: must hold at least one schedule"),
        (
            {"type": "sequential", "schedules": [COSINE, COSINE], "milestones": []},
            "milestones: must hold one milestone less than there are schedules (2), has 0",
        ),
        (
            {"schedule": {"type": "sequential", "schedules": [COSINE, COSINE | {"alpha": 2}], "milestones": [5]}},
            "schedule.schedules[1].alpha: must be between 0 and 1, is 2.0",
        ),
        (
            {"schedule": {"type": "chained", "schedules": [{"type": "chained", "schedules": [{"type": "x"}]}]}},
            'schedule.schedules[0].schedules[0].type: "x" is not known',
        ),
    ],
)
def test_a_refusal_names_the_path_and_what_was_expected(document, expected):
    assert refusal(document).startswith(expected)


def test_a_document_nested_too_deep_is_refused_before_anything_recurses_into_it():
    document = COSINE
    for _ in range(100_000):
        document = {"type": "chained", "schedules": [document]}

    assert "is nested deeper than 16 levels" == refusal(document)


def test_a_document_with_too_many_nodes_is_refused():
    few = {"type": "chained", "schedules": [COSINE] * 40}

    assert "holds more than 1,000 objects" == refusal({"type": "chained", "schedules": [few] * 40})


def test_an_unknown_key_of_any_length_gives_a_short_path():
    with pytest.raises(InvalidPolicy) as caught:
        policy_from_json(COSINE | {"x" * 10_000: 1})

    assert "x" * 60 == caught.value.path
    assert len(caught.value.reason) < 1_000


def test_python_code_gets_the_same_checks():
    with pytest.raises(InvalidPolicy, match=r"^decay_steps: must be a number, is true"):
        Cosine(decay_steps=True)
    with pytest.raises(InvalidPolicy, match=r"^schedule: must be a Schedule, is 0\.1"):
        Policy(schedule=0.1)
    with pytest.raises(InvalidPolicy, match=r"^warmup: must be a Warmup, is 5"):
        WithModifiers(schedule=Cosine(decay_steps=9), warmup=5)


def test_a_node_is_modified_once_and_never_where_it_has_the_field_itself():
    once = WithModifiers(schedule=Cosine(decay_steps=9), offset=1)

    with pytest.raises(InvalidPolicy, match=r"^schedule: is modified already"):
        WithModifiers(schedule=once, offset=1)
    with pytest.raises(InvalidPolicy, match=r"^min_lr: belongs to lr_range_test itself"):
        WithModifiers(schedule=NODES["lr_range_test"](), min_lr=0.1)


def test_the_document_is_plain_json():
    document = {"type": "sequential", "schedules": [COSINE, {"type": "one_cycle", "max_lr": 1, "total_steps": 9}]}
    canonical = policy_to_json(policy_from_json(document | {"milestones": [5], "noise": {"on": [1, 2]}}))

    assert canonical == json.loads(json.dumps(canonical, allow_nan=False))


def test_node_to_json_is_the_inverse_of_node_from_json():
    schedule = node_from_json(COSINE | {"offset": 2, "noise": {"on": [1, 2]}})

    assert schedule == node_from_json(node_to_json(schedule))
