"""Policies from Keras and torch objects. Keras is real here; torch is a likeness of itself (see `test_real_torch`)."""

import math
from collections import Counter

import keras
import numpy as np
import pytest
from pytest import approx

from remotelr.rules import InvalidPolicy, policy_from_json, policy_to_json
from remotelr.rules.plateau.reduce_on_plateau import ReduceOnPlateau
from remotelr.rules.policy.importers import from_keras_callback, from_keras_schedule, from_torch_scheduler
from support.rules.vectors import CASES

schedules = keras.optimizers.schedules

KERAS_SCHEDULES = [
    schedules.ExponentialDecay(0.1, 10, 0.5),
    schedules.ExponentialDecay(0.1, 10, 0.5, staircase=True),
    schedules.InverseTimeDecay(0.1, 10, 0.5),
    schedules.PolynomialDecay(0.1, 40),
    schedules.PolynomialDecay(0.1, 40, end_learning_rate=0.01, power=0.5, cycle=True),
    schedules.CosineDecay(0.1, 40, alpha=0.1),
    schedules.CosineDecay(0.01, 40, warmup_target=0.1, warmup_steps=10),
    schedules.CosineDecay(0.01, 40, warmup_target=0.1),
    schedules.CosineDecayRestarts(0.1, 10),
    schedules.CosineDecayRestarts(0.1, 10, t_mul=1.0, m_mul=0.9, alpha=0.1),
    schedules.PiecewiseConstantDecay([10, 20], [0.1, 0.05, 0.01]),
]

STEPS = [0, 1, 5, 9, 10, 11, 19, 20, 21, 29, 35, 41, 64, 75, 99]


def rates(policy, positions):
    state = policy.start(policy.initial_learning_rate or 0.1)
    return [policy.raw_learning_rate(state, position) for position in positions]


def by_class(schedule):
    return type(schedule).__name__


# -- Keras --------------------------------------------------------------------


@pytest.mark.parametrize("schedule", KERAS_SCHEDULES, ids=by_class)
def test_a_keras_schedule_goes_on_as_it_would_in_keras(schedule):
    """
    Keras computes in float32, and is asked eagerly: what it compiles is wrong at its boundaries.
    """
    wanted = [float(schedule(step)) for step in STEPS]

    assert approx(wanted, rel=2e-5, abs=2e-8) == rates(from_keras_schedule(schedule), STEPS)


@pytest.mark.parametrize("schedule", KERAS_SCHEDULES, ids=by_class)
def test_a_keras_schedule_and_its_serialized_form_are_the_same_policy(schedule):
    serialized = schedules.serialize(schedule)

    assert from_keras_schedule(schedule) == from_keras_schedule(serialized)


def test_a_keras_schedule_counts_steps():
    assert "step" == from_keras_schedule(KERAS_SCHEDULES[0]).unit


def test_numbers_of_numpy_in_a_config_are_numbers():
    schedule = schedules.PiecewiseConstantDecay((np.int64(10),), (np.float32(0.5), np.float64(0.1)))

    assert [0.5, 0.1] == rates(from_keras_schedule(schedule), [10, 11])


def test_a_custom_schedule_is_rejected_by_its_name():
    class Mine(schedules.LearningRateSchedule):
        def get_config(self):
            return {}

    with pytest.raises(InvalidPolicy, match="Mine"):
        from_keras_schedule(Mine())
    with pytest.raises(InvalidPolicy, match=r"not 0\.1"):
        from_keras_schedule(0.1)


def test_a_plateau_callback_keeps_its_arguments_also_after_it_has_run():
    """
    Keras negates the callback's min_delta when it first sees a metric whose lower values are better.
    """
    callback = keras.callbacks.ReduceLROnPlateau(
        factor=0.5, patience=5, min_delta=0.01, cooldown=2, min_lr=1e-5, mode="min"
    )
    fresh = from_keras_callback(callback)
    callback._set_monitor_op()

    assert fresh == from_keras_callback(callback)
    assert fresh.schedule == ReduceOnPlateau(
        factor=0.5, patience=5, min_delta=0.01, cooldown=2, min_lr=1e-5, mode="min", monitor="val_loss"
    )


def test_the_arguments_of_a_plateau_will_do():
    assert ReduceOnPlateau(patience=3) == from_keras_callback({"patience": 3}).schedule
    assert 0.5 == from_keras_callback({"patience": 3}, initial_learning_rate=0.5).initial_learning_rate


def test_a_rate_function_becomes_a_table_and_holds_its_last_rate():
    callback = keras.callbacks.LearningRateScheduler(lambda epoch: 0.01 * 0.5 ** (epoch // 2))

    policy = from_keras_callback(callback, epochs=6)

    assert "epoch" == policy.unit
    assert [0.01, 0.01, 0.005, 0.005, 0.0025, 0.0025, 0.0025] == rates(policy, range(7))
    assert 3 == len(policy_to_json(policy)["schedule"]["values"])


def test_a_recursive_rate_function_is_handed_its_own_rates():
    def kept_then_falling(epoch, lr):
        return lr if epoch < 2 else lr * math.exp(-0.1)

    policy = from_keras_callback(kept_then_falling, epochs=4, initial_learning_rate=0.1)

    assert approx([0.1, 0.1, 0.1 * math.exp(-0.1), 0.1 * math.exp(-0.2)]) == rates(policy, range(4))


@pytest.mark.parametrize(
    ("function", "settings", "message"),
    [
        (lambda epoch: 0.1, {}, "epochs: a function is read into a table"),
        (lambda epoch, lr: lr, {"epochs": 3}, "initial_learning_rate: a function of \\(epoch, lr\\) needs a rate"),
        (lambda epoch: None, {"epochs": 3}, "gives null at epoch 0"),
        (lambda epoch: -0.1, {"epochs": 3}, r"values\[0\]: "),
        (lambda epoch: 0.1 / (epoch + 1), {"epochs": 2000}, "2,000 different rates"),
        (3, {"epochs": 3}, "a Keras callback of the learning rate is needed, not 3"),
    ],
)
def test_a_function_that_gives_no_curve_is_refused(function, settings, message):
    with pytest.raises(InvalidPolicy, match=message):
        from_keras_callback(function, **settings)


# -- torch, in its likeness ---------------------------------------------------


class Optimizer:
    """What schedulers keep of an optimizer: parameter groups, which are dicts."""

    def __init__(self, *rates):
        self.param_groups = [{"lr": rate, "initial_lr": rate} for rate in rates]


def scheduler(name, /, base_lr=0.1, **attributes):
    """An object of a class called `name` with these attributes, as torch 2.13 has them."""
    made = type(name, (), {})()
    vars(made).update({"optimizer": Optimizer(base_lr), "base_lrs": [base_lr], "last_epoch": 0, **attributes})
    return made


def in_likeness(case):
    """A stand-in for the scheduler of a golden case, after what torch's constructors do with their arguments."""
    arguments = dict(case["spec_kwargs"])
    name, base_lr = case["target"].rpartition(".")[2], arguments.pop("base_lr")
    if name in ("SequentialLR", "ChainedScheduler"):
        parts = [
            in_likeness({"target": part["class"], "spec_kwargs": {**part, "base_lr": base_lr}})
            for part in arguments["schedulers"]
        ]
        return scheduler(name, _schedulers=parts, _milestones=arguments.get("milestones"))
    arguments.pop("class", None)
    if name == "MultiStepLR":
        arguments["milestones"] = Counter(arguments["milestones"])
    if name in ("LambdaLR", "MultiplicativeLR"):
        function = eval(arguments["lr_lambda"], {"cos": math.cos, "pi": math.pi, "max": max, "min": min, "math": math})
        return scheduler(name, base_lr, lr_lambdas=[function])
    if name == "OneCycleLR":
        return one_cycle(**arguments)
    if name == "CyclicLR":
        return cyclic(**arguments)
    return scheduler(name, base_lr, **arguments)


def one_cycle(
    *, max_lr, total_steps, pct_start=0.3, anneal_strategy="cos", div_factor=25.0, final_div_factor=1e4,
    three_phase=False, base_momentum=0.85, max_momentum=0.95, cycle_momentum=True,
):  # fmt: skip
    made = scheduler(
        "OneCycleLR",
        total_steps=total_steps,
        cycle_momentum=cycle_momentum,
        _anneal_func_type=anneal_strategy,
        _schedule_phases=[{"end_step": pct_start * total_steps - 1}] + [{}] * (2 if three_phase else 1),
    )
    low = max_lr / div_factor
    made.optimizer.param_groups[0] |= {
        "initial_lr": low,
        "max_lr": max_lr,
        "min_lr": low / final_div_factor,
        "base_momentum": base_momentum,
        "max_momentum": max_momentum,
    }
    return made


def cyclic(
    *, max_lr, step_size_up=2000, step_size_down=None, mode="triangular", gamma=1.0, cycle_base_lr=0.1,
    base_momentum=0.8, max_momentum=0.9, cycle_momentum=True,
):  # fmt: skip
    total = float(step_size_up + (step_size_up if step_size_down is None else step_size_down))
    return scheduler(
        "CyclicLR",
        cycle_base_lr,
        max_lrs=[max_lr],
        total_size=total,
        step_ratio=step_size_up / total,
        mode=mode,
        gamma=gamma,
        cycle_momentum=cycle_momentum,
        base_momentums=[base_momentum],
        max_momentums=[max_momentum],
        _scale_fn_custom=None,
    )


TORCH = [
    case for case in CASES if case["library"] == "torch" and case["spec"] is not None and "SWALR" not in case["target"]
]


@pytest.mark.parametrize("case", TORCH, ids=[case["id"] for case in TORCH])
def test_a_torch_scheduler_goes_on_as_it_would_in_torch(case):
    policy = from_torch_scheduler(in_likeness(case), positions=len(case["input"]))

    assert approx(case["expected"], rel=case["rtol"], abs=case["atol"]) == rates(policy, case["input"])
    assert policy == policy_from_json(policy_to_json(policy))


def test_a_torch_plateau_keeps_its_arguments():
    settings = {"factor": 0.5, "patience": 3, "threshold": 0.01, "threshold_mode": "abs", "cooldown": 2, "eps": 0.0}
    plateau = scheduler("ReduceLROnPlateau", mode="max", min_lrs=[0.001], **settings)

    policy = from_torch_scheduler(plateau, monitor="val_score")

    assert policy.schedule == ReduceOnPlateau(flavor="torch", mode="max", monitor="val_score", min_lr=0.001, **settings)


def test_the_unit_is_what_one_call_of_step_stands_for():
    assert "step" == from_torch_scheduler(scheduler("StepLR", step_size=3, gamma=0.1), unit="step").unit


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (scheduler("MyLR"), "MyLR is not known"),
        (scheduler("StepLR", base_lrs=[0.1, 0.2], step_size=3, gamma=0.1), "differs between parameter groups"),
        (scheduler("LambdaLR", lr_lambdas=[lambda t: 1.0]), "positions: a function is read into a table"),
        (scheduler("LambdaLR", lr_lambdas=[lambda t: 1.0, lambda t: 0.5]), "its own function"),
        (scheduler("CyclicLR", _scale_fn_custom=math.cos), "scale_fn: is a function"),
        (
            scheduler("ChainedScheduler", _schedulers=[scheduler("CosineAnnealingLR", T_max=9, eta_min=0.0)]),
            "depends on its path",
        ),
        (scheduler("ChainedScheduler", _schedulers=[scheduler("LambdaLR")]), "write the product as an expression"),
    ],
)
def test_a_torch_scheduler_that_is_no_policy_is_refused(made, message):
    several = "its own" in message

    with pytest.raises(InvalidPolicy, match=message):
        from_torch_scheduler(made, positions=3 if several else None)
