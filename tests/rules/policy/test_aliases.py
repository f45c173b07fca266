"""Nodes in the words of other libraries."""

import pytest
from pytest import approx

from remotelr.rules import InvalidPolicy
from remotelr.rules.policy.aliases import ALIASES
from remotelr.rules.policy.codec import node_from_json, node_to_json, policy_from_json
from remotelr.rules.policy.registry import NODES
from support.rules.curves import curve
from support.rules.vectors import CASES

TORCH = "torch.optim.lr_scheduler."

# Golden cases of classes that are an alias, whose own arguments are in the file.
SAME_WORDS = [
    case
    for case in CASES
    if case["spec"] is not None
    and case["target"].rpartition(".")[2] in ALIASES
    and case["target"].startswith(("keras.optimizers", TORCH))
    and "schedulers" not in case["spec_kwargs"]
]


def refusal(document):
    with pytest.raises(InvalidPolicy) as caught:
        node_from_json(document)
    return str(caught.value)


def in_its_own_words(case):
    name = case["target"].rpartition(".")[2]
    arguments = dict(case["spec_kwargs"])
    if name == "CyclicLR":
        arguments["base_lr"] = arguments.pop("cycle_base_lr", arguments["base_lr"])
    elif name == "OneCycleLR":
        arguments.pop("base_lr")
    return {"type": name, **arguments}


def parts_in_their_own_words(case):
    arguments = case["spec_kwargs"]
    parts = [{"type": part["class"], **part} for part in arguments["schedulers"]]
    for part in parts:
        del part["class"]
        if case["target"].endswith("SequentialLR"):
            part["base_lr"] = arguments["base_lr"]
    whole = {"type": case["target"].rpartition(".")[2], "schedulers": parts}
    return whole | ({"milestones": arguments["milestones"]} if "milestones" in arguments else {})


@pytest.mark.parametrize("case", SAME_WORDS, ids=[case["id"] for case in SAME_WORDS])
def test_the_librarys_own_arguments_give_the_librarys_rates(case):
    wanted = approx(case["expected"], rel=case["rtol"], abs=case["atol"])

    # Without a policy's bounds: torch's OneCycleLR has negative rates past its end.
    node = node_from_json(in_its_own_words(case))
    assert wanted == [node.learning_rate(None, position) for position in case["input"]]


COMPOSED = [case for case in CASES if case["spec"] is not None and "schedulers" in case["spec_kwargs"]]


@pytest.mark.parametrize("case", COMPOSED, ids=[case["id"] for case in COMPOSED])
def test_torchs_compositions_with_their_own_names_give_torchs_rates(case):
    wanted = approx(case["expected"], rel=case["rtol"], abs=case["atol"])

    assert wanted == curve(parts_in_their_own_words(case), case["input"], initial=case["spec_kwargs"]["base_lr"])


def test_enough_golden_cases_use_the_names_of_their_library():
    assert 100 < len(SAME_WORDS)
    assert {case["target"].rpartition(".")[2] for case in SAME_WORDS} >= {
        "ExponentialDecay",
        "InverseTimeDecay",
        "PolynomialDecay",
        "CosineDecay",
        "CosineDecayRestarts",
        "PiecewiseConstantDecay",
        "StepLR",
        "MultiStepLR",
        "ConstantLR",
        "LinearLR",
        "ExponentialLR",
        "PolynomialLR",
        "CosineAnnealingLR",
        "CosineAnnealingWarmRestarts",
        "OneCycleLR",
        "CyclicLR",
    }


def test_every_alias_stands_for_a_node_there_is():
    assert {alias.type for alias in ALIASES.values()} <= NODES.keys()
    assert not ALIASES.keys() & NODES.keys()


# -- Keras --------------------------------------------------------------------


def test_a_serialized_keras_schedule_is_a_node():
    document = {
        "module": "keras.optimizers.schedules",
        "class_name": "CosineDecay",
        "config": {
            "initial_learning_rate": 0.0,
            "decay_steps": 8,
            "alpha": 0.5,
            "name": "CosineDecay",
            "warmup_target": 0.1,
            "warmup_steps": 2,
        },
        "registered_name": None,
    }

    assert approx([0.0, 0.05, 0.1, 0.075, 0.05]) == curve(document, [0, 1, 2, 6, 10])


def test_a_policy_may_be_a_serialized_keras_schedule_inside():
    serialized = {
        "class_name": "ExponentialDecay",
        "config": {"initial_learning_rate": 0.1, "decay_steps": 10, "decay_rate": 0.5},
    }

    assert "step" == policy_from_json({"schedule": serialized, "unit": "step"}).unit


def test_the_defaults_of_keras_apply():
    polynomial = node_to_json(
        node_from_json({"type": "PolynomialDecay", "initial_learning_rate": 0.1, "decay_steps": 9})
    )
    restarts = node_to_json(
        node_from_json({"type": "CosineDecayRestarts", "initial_learning_rate": 0.1, "first_decay_steps": 9})
    )

    assert (1e-4, 1.0) == (polynomial["end_learning_rate"], polynomial["power"])
    assert (2.0, 1.0) == (restarts["t_mul"], restarts["m_mul"])


def test_old_keras_names_of_the_plateau_are_accepted():
    document = {"type": "ReduceLROnPlateau", "epsilon": 0.01, "verbose": 1}

    assert 0.01 == node_to_json(node_from_json(document))["min_delta"]


def test_a_class_of_both_keras_and_torch_is_keras_unless_the_flavor_is_set():
    assert 'threshold: belongs to flavor "torch"' in refusal({"type": "ReduceLROnPlateau", "threshold": 0.1})
    assert node_from_json({"type": "ReduceLROnPlateau", "flavor": "torch", "threshold": 0.1})


# -- others -------------------------------------------------------------------


def test_torchs_factors_are_of_the_runs_rate_where_none_is_given():
    assert approx([0.1, 0.1, 0.2]) == curve(
        {"type": "ConstantLR", "factor": 0.5, "total_iters": 2}, range(3), initial=0.2
    )
    assert approx([0.1, 0.15, 0.2]) == curve(
        {"type": "LinearLR", "start_factor": 0.5, "total_iters": 2}, range(3), initial=0.2
    )


def test_one_cycle_may_count_epochs_and_steps():
    document = {"type": "OneCycleLR", "max_lr": 0.1, "epochs": 3, "steps_per_epoch": 10}

    assert 30 == node_to_json(node_from_json(document))["total_steps"]


def test_paddles_classes_are_understood():
    assert approx([0.1, 0.1 * 2.718281828459045**-0.5]) == curve(
        {"type": "NaturalExpDecay", "learning_rate": 0.1, "gamma": 0.5}, range(2)
    )
    assert approx([0.5, 0.25]) == curve({"type": "ExponentialDecay", "learning_rate": 0.5, "gamma": 0.5}, range(2))
    assert approx([1.0, 1.0, 0.1]) == curve(
        {"type": "PiecewiseDecay", "boundaries": [2], "values": [1.0, 0.1]}, range(3)
    )
    plateau = node_to_json(node_from_json({"type": "ReduceOnPlateau", "learning_rate": 0.1, "epsilon": 1e-6}))
    assert ("torch", 1e-6, 0.1) == (plateau["flavor"], plateau["eps"], plateau["initial_learning_rate"])


def test_paddles_linear_warmup_wraps_a_rate_or_a_schedule():
    ramp = {"warmup_steps": 2, "start_lr": 0.0, "end_lr": 0.5}
    decay = {"type": "StepDecay", "learning_rate": 0.4, "step_size": 1, "gamma": 0.5}

    assert approx([0.0, 0.25, 0.5, 0.5]) == curve({"type": "LinearWarmup", "learning_rate": 0.5, **ramp}, range(4))
    assert approx([0.0, 0.25, 0.4, 0.2]) == curve({"type": "LinearWarmup", "learning_rate": decay, **ramp}, range(4))


def test_deepspeeds_warmups_are_understood():
    linear = {"warmup_max_lr": 0.1, "warmup_num_steps": 2, "warmup_type": "linear"}

    assert approx([0.0, 0.05, 0.1, 0.1]) == curve({"type": "WarmupLR", **linear}, range(4))
    assert approx([0.0, 0.05, 0.1, 0.05, 0.0]) == curve(
        {"type": "WarmupDecayLR", "total_num_steps": 4, **linear}, range(5)
    )


@pytest.mark.parametrize("name", ["LambdaLR", "MultiplicativeLR", "LearningRateScheduler"])
def test_a_python_function_cannot_travel(name):
    assert "write an `expression`" in refusal({"type": name})


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"type": "StepLR", "step_size": 3, "lr": 0.1, "base_lr": 0.2}, "base_lr: is given twice, here and as lr"),
        ({"type": "CosineAnnealingLR", "T_max": 3, "decay_steps": 4}, "decay_steps: is given twice, here and as T_max"),
        ({"type": "StepLR", "step_size": 3, "gama": 0.1}, "gama: is not known"),
        ({"type": "LinearLR", "start_factor": "half"}, "start_factor: must be a number"),
        ({"type": "NaturalExpDecay"}, "gamma: is missing"),
        ({"type": "CosineDecay", "decay_steps": 3, "warmup_target": 0.1}, "initial_learning_rate: is missing"),
        ({"type": "CyclicLR", "base_lr": 0.1, "max_lr": 1, "scale_fn": "f"}, "scale_fn: is a function"),
        (
            {"type": "ChainedScheduler", "schedulers": [{"type": "CosineAnnealingLR", "T_max": 3}]},
            "depends on its path",
        ),
        ({"type": "ChainedScheduler", "schedulers": 3}, "schedules: must be a list"),
        ({"class_name": "CosineDecay", "config": [], "module": None}, "config: must be an object"),
        ({"class_name": "CosineDecay", "config": {"type": "step"}}, "config.type: is not known"),
        ({"class_name": "CosineDecay", "config": {}, "extra": 1}, "extra: is not known"),
        ({"class_name": 3}, "type: 3 is not known"),
        ({"type": "LinearWarmup", "learning_rate": 0.1, "warmup_steps": 2, "power": 2}, "power: is not known"),
    ],
)
def test_what_no_library_says_is_refused_by_its_name(document, message):
    assert message in refusal(document)


def test_an_alias_inside_a_tree_is_understood_and_a_refusal_names_the_way_there():
    tree = {"type": "SequentialLR", "schedulers": [{"type": "StepLR", "step_size": -1}], "milestones": []}

    assert refusal(tree).startswith("schedules[0].step_size: ")
