"""Aliases of nodes: class names, parameter names, defaults and off-by-ones of other libraries.

What comes in as `{"type": "StepLR", ...}`, or as Keras serializes it, `{"class_name": "CosineDecay", "config": {...}}`,
leaves as the document of a node of this project, which is what is stored.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import exp
from typing import Any, Final

from remotelr.rules.errors import InvalidPolicy

Document = dict[str, Any]

_RATE: Final = "initial_learning_rate"


def canonical(document: Mapping[str, Any]) -> Document:
    """The node with the names of this project, itself where it has them already. Nodes inside it are left alone.

    What no table below knows is left to the codec to refuse. Raises InvalidPolicy for a parameter that is given
    under two names, or that says what no node can say.
    """
    node = _flattened(document)
    name = node.get("type")
    if not isinstance(name, str):
        return node
    if name in _UNTRANSLATABLE:
        raise InvalidPolicy(f"{name} {_UNTRANSLATABLE[name]}", "type")
    if name == "reduce_on_plateau":
        return _settle_plateau(node)
    alias = ALIASES.get(name)
    if alias is None:
        return node
    renamed = _renamed(node, {**_EVERYWHERE, **alias.names})
    settled = {**alias.defaults, **{key: value for key, value in renamed.items() if key != "type"}}
    return {"type": alias.type, **(alias.settle(settled) if alias.settle is not None else settled)}


def _flattened(document: Mapping[str, Any]) -> Document:
    """A node as `keras.saving` serializes it, with its config on the node itself."""
    if "class_name" not in document:
        return dict(document)
    rest = document.keys() - {"class_name", "config", "module", "registered_name", "build_config"}
    if rest:
        raise InvalidPolicy("is not known; a serialized Keras object has class_name and config", min(map(str, rest)))
    config = document.get("config", {})
    if not isinstance(config, dict):
        raise InvalidPolicy("must be an object", "config")
    if "type" in config:
        raise InvalidPolicy("is not known in a Keras config", "config.type")
    return {"type": document["class_name"], **config}


def _renamed(node: Mapping[str, Any], names: Mapping[str, str | None]) -> Document:
    renamed: Document = {}
    origin: dict[str, str] = {}
    for name, value in node.items():
        new = names.get(name, name)
        if new is None:
            continue
        if new in renamed and renamed[new] != value:
            raise InvalidPolicy(f"is given twice, here and as {origin[new]}", name)
        renamed[new] = value
        origin[new] = name
    return renamed


def _settle_cosine_decay(node: Document) -> Document:
    """Keras warms up from the initial rate to `warmup_target`, which then is the peak of the cosine."""
    target, steps = node.pop("warmup_target", None), node.pop("warmup_steps", 0)
    if target is None:
        return node
    if _RATE not in node:
        raise InvalidPolicy("is missing: the warm-up starts from it", _RATE)
    warmup = {"steps": steps, "start_learning_rate": node[_RATE]}
    return {**node, _RATE: target, "warmup": warmup} if steps else {**node, _RATE: target}


def _settle_constant_lr(node: Document) -> Document:
    factor, total_iters = _number(node, "factor", 1 / 3), node.pop("total_iters", 5)
    steps = {"boundaries": [total_iters], "boundary": "at"}
    return _of_base(node, lambda base: {"type": "piecewise_constant", **steps, "values": [base * factor, base]})


def _settle_linear_lr(node: Document) -> Document:
    start, end = _number(node, "start_factor", 1 / 3), _number(node, "end_factor", 1.0)
    steps = {"decay_steps": node.pop("total_iters", 5)}
    return _of_base(
        node, lambda base: {"type": "linear", _RATE: base * start, "end_learning_rate": base * end, **steps}
    )


def _of_base(node: Document, absolute: Callable[[float], Document]) -> Document:
    """Factors of a base rate: absolute where the node names it, else a chain on the run's own rate."""
    if _RATE in node:
        return node | absolute(_number(node, _RATE))
    return {**node, "type": "chained", "schedules": [absolute(1.0)]}


def _settle_one_cycle(node: Document) -> Document:
    if "epochs" not in node or "steps_per_epoch" not in node:
        return node
    total = _number(node, "epochs") * _number(node, "steps_per_epoch")
    return {"total_steps": total, **node}


def _settle_cyclic(node: Document) -> Document:
    if node.pop("scale_fn", None) is not None:
        raise InvalidPolicy("is a function: choose a mode, or write an expression", "scale_fn")
    return node


def _settle_chain(node: Document) -> Document:
    parts = node.get("schedules")
    for index, part in enumerate(parts if isinstance(parts, list | tuple) else ()):
        if isinstance(part, dict) and part.get("type") in _ADDITIVE:
            raise InvalidPolicy(
                f"{part['type']} adds to the rate it finds, so that torch's chain depends on its path: "
                f"chain only factors",
                f"schedules[{index}]",
            )
    return node


def _settle_plateau(node: Document) -> Document:
    """Old Keras called min_delta `epsilon`; Paddle calls eps so."""
    if "epsilon" not in node:
        return node
    return _renamed(node, {"epsilon": "eps" if node.get("flavor") == "torch" else "min_delta"})


def _settle_natural_exponential(node: Document) -> Document:
    # Beyond 100 the codec refuses what comes out, as it should; exp itself would overflow.
    rate = min(max(_number(node, "gamma"), -100.0), 100.0)
    return {**node, "decay_rate": exp(-rate)}


def _settle_linear_warmup(node: Document) -> Document:
    warmup = {
        "steps": node.pop("warmup_steps", None),
        "start_learning_rate": node.pop("start_lr", 0.0),
        "target": node.pop("end_lr", "peak"),
    }
    inner = node.pop("learning_rate", None)
    if node:
        raise InvalidPolicy("is not known in LinearWarmup", min(node))
    if isinstance(inner, dict):
        return {**canonical(inner), "warmup": warmup}
    return {"type": "constant", "learning_rate": inner, "warmup": warmup}


def _settle_deepspeed_warmup(node: Document) -> Document:
    warmup, _, peak = _deepspeed_warmup(node)
    return {**node, "learning_rate": peak, "warmup": warmup}


def _settle_deepspeed_warmup_decay(node: Document) -> Document:
    warmup, lowest, peak = _deepspeed_warmup(node)
    decay_steps = max(_number(node, "total_num_steps") - warmup["steps"], 1)
    return {**node, _RATE: peak, "end_learning_rate": lowest, "decay_steps": decay_steps, "warmup": warmup}


def _deepspeed_warmup(node: Document) -> tuple[Document, Any, Any]:
    lowest, peak = node.pop("warmup_min_lr", 0.0), node.pop("warmup_max_lr", 0.001)
    steps, shape = _number(node, "warmup_num_steps", 1000), node.pop("warmup_type", "log")
    return {"steps": steps, "start_learning_rate": lowest, "shape": shape}, lowest, peak


def _number(node: Document, name: str, default: float | None = None) -> float:
    """Take the number `name` out of the node. Raises InvalidPolicy where it is missing or none."""
    value = node.pop(name, default)
    if value is None:
        raise InvalidPolicy("is missing", name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidPolicy("must be a number", name)
    return value


@dataclass(frozen=True, slots=True, kw_only=True)
class Alias:
    """A class of another library.

    type: the node it is. names: its parameters that are called otherwise here; None for one without meaning here.
    defaults: those of the library that differ from those of the node.
    settle: what renaming cannot do.
    """

    type: str
    names: Mapping[str, str | None] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    settle: Callable[[Document], Document] | None = None


# Parameters that only say how an object is called or resumed.
_EVERYWHERE: Final[Mapping[str, str | None]] = {"name": None, "last_epoch": None, "verbose": None}

_BASE: Final[Mapping[str, str | None]] = {"base_lr": _RATE, "lr": _RATE, "learning_rate": _RATE}

_COSINE_ANNEALING: Final = Alias(
    type="cosine",
    names={**_BASE, "T_max": "decay_steps", "eta_min": "end_learning_rate"},
    defaults={"end_learning_rate": 0.0, "beyond_end": "periodic"},
)

ALIASES: Final[Mapping[str, Alias]] = {
    # Keras, keras.optimizers.schedules. Paddle has four of the names, with other names of the rate and `gamma`.
    "ExponentialDecay": Alias(type="exponential", names={**_BASE, "gamma": "decay_rate"}),
    "InverseTimeDecay": Alias(type="inverse_time", names={**_BASE, "gamma": "decay_rate"}),
    "PolynomialDecay": Alias(
        type="polynomial", names={**_BASE, "end_lr": "end_learning_rate"}, defaults={"end_learning_rate": 1e-4}
    ),
    "CosineDecay": Alias(type="cosine", settle=_settle_cosine_decay),
    "CosineDecayRestarts": Alias(type="cosine_restarts", defaults={"t_mul": 2.0, "m_mul": 1.0, "m_mul_on": "range"}),
    "PiecewiseConstantDecay": Alias(type="piecewise_constant", defaults={"boundary": "after"}),
    # Keras, keras.callbacks. torch's class of this name is flavor "torch".
    "ReduceLROnPlateau": Alias(type="reduce_on_plateau", settle=_settle_plateau),
    # torch, torch.optim.lr_scheduler. The base rate is the optimizer's: the run's, unless it is given.
    "StepLR": Alias(type="step", names=_BASE),
    "MultiStepLR": Alias(type="multi_step", names=_BASE),
    "ConstantLR": Alias(type="piecewise_constant", names=_BASE, settle=_settle_constant_lr),
    "LinearLR": Alias(type="linear", names=_BASE, settle=_settle_linear_lr),
    "ExponentialLR": Alias(type="exponential", names={**_BASE, "gamma": "decay_rate"}),
    "PolynomialLR": Alias(
        type="polynomial", names={**_BASE, "total_iters": "decay_steps"}, defaults={"decay_steps": 5}
    ),
    "CosineAnnealingLR": _COSINE_ANNEALING,
    "CosineAnnealingWarmRestarts": Alias(
        type="cosine_restarts",
        names={**_BASE, "T_0": "first_decay_steps", "T_mult": "t_mul", "eta_min": "end_learning_rate"},
        defaults={"end_learning_rate": 0.0},
    ),
    "OneCycleLR": Alias(type="one_cycle", settle=_settle_one_cycle),
    "CyclicLR": Alias(type="cyclic", names={"scale_mode": None}, settle=_settle_cyclic),
    "SequentialLR": Alias(type="sequential", names={"schedulers": "schedules"}),
    "ChainedScheduler": Alias(type="chained", names={**_BASE, "schedulers": "schedules"}, settle=_settle_chain),
    # Hugging Face transformers.
    "GreedyLR": Alias(type="greedy", names=_BASE),
    # Paddle, paddle.optimizer.lr.
    "StepDecay": Alias(type="step", names=_BASE),
    "MultiStepDecay": Alias(type="multi_step", names=_BASE),
    "PiecewiseDecay": Alias(type="piecewise_constant", defaults={"boundary": "at"}),
    "NaturalExpDecay": Alias(type="exponential", names=_BASE, settle=_settle_natural_exponential),
    "CosineAnnealingDecay": _COSINE_ANNEALING,
    "NoamDecay": Alias(type="noam", names={"learning_rate": "factor"}),
    "ReduceOnPlateau": Alias(
        type="reduce_on_plateau", names={**_BASE, "epsilon": "eps"}, defaults={"flavor": "torch", "mode": "min"}
    ),
    "LinearWarmup": Alias(type="constant", settle=_settle_linear_warmup),
    # DeepSpeed.
    "WarmupLR": Alias(type="constant", settle=_settle_deepspeed_warmup),
    "WarmupDecayLR": Alias(type="linear", settle=_settle_deepspeed_warmup_decay),
    "LRRangeTest": Alias(
        type="lr_range_test",
        names={
            "lr_range_test_min_lr": "min_lr",
            "lr_range_test_step_size": "step_size",
            "lr_range_test_step_rate": "step_rate",
            "lr_range_test_staircase": "staircase",
        },
    ),
}

# torch's recursive forms of these add an absolute amount, or overwrite what the chain made so far.
_ADDITIVE: Final = frozenset(
    {"CosineAnnealingLR", "CosineAnnealingWarmRestarts", "OneCycleLR", "CyclicLR", "LambdaLR", "SequentialLR"}
)

_BY_FUNCTION: Final = "computes the rate in a Python function, which cannot travel: write an `expression`"
_UNTRANSLATABLE: Final[Mapping[str, str]] = {
    "LearningRateScheduler": _BY_FUNCTION,
    "LambdaLR": _BY_FUNCTION,
    "MultiplicativeLR": _BY_FUNCTION,
}
