"""The schedule of `TrainingArguments` as a policy: `lr_scheduler_type`, `warmup_steps` and `lr_scheduler_kwargs`.

| `lr_scheduler_type` | node |
|---|---|
| `constant`, `constant_with_warmup` | `constant` |
| `linear`, `polynomial`, `inverse_sqrt` | of the same name |
| `cosine`, `cosine_with_min_lr` | `cosine` |
| `cosine_with_restarts` | `cosine_restarts` |
| `cosine_warmup_with_min_lr` | `expression` |
| `warmup_stable_decay` | `wsd` |
| `reduce_lr_on_plateau`, `greedy` | `reduce_on_plateau`, `greedy`, by evaluations |
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from remotelr.rules import policy_from_json, policy_to_json

Node = dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Asked:
    """What the arguments ask for. rate: the peak. warmup, total: in optimizer steps. kwargs: of the scheduler."""

    type: str
    rate: float
    warmup: int
    total: int
    kwargs: dict[str, Any]
    monitor: str

    @property
    def rest(self) -> int:
        """Steps after the warm-up, as `get_scheduler` divides by them."""
        return max(1, self.total - self.warmup)

    def take(self, name: str, default: Any) -> Any:
        return self.kwargs.pop(name, default)

    def refuse(self, name: str, value: Any, remedy: str) -> ValueError:
        return ValueError(f"lr_scheduler_kwargs[{name!r}] must be {remedy} for {self.type}, got {value!r}")

    def end(self) -> Node:
        """The members of a cosine that ends at `min_lr` or `min_lr_rate`."""
        min_lr, share = self.take("min_lr", None), self.take("min_lr_rate", None)
        if (min_lr is None) == (share is None):
            raise ValueError(f"lr_scheduler_kwargs must have either min_lr or min_lr_rate for {self.type}")
        return {"alpha": share} if min_lr is None else {"end_learning_rate": min_lr}


def policy_of_arguments(args: Any, max_steps: int) -> dict[str, Any]:
    """The document of the policy whose rates equal those of `transformers.get_scheduler`.

    args: `TrainingArguments`. max_steps: optimizer steps of the training.

    Raises ValueError for a scheduler or an argument of one that no policy equals.
    """
    name = str(getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type))
    if name not in _NODES:
        raise ValueError(
            f"lr_scheduler_type must be one of {', '.join(_NODES)} for from_args, got {name!r}; give policy= instead"
        )
    kwargs = dict(getattr(args, "lr_scheduler_kwargs", None) or {})
    asked = _Asked(
        name, float(args.learning_rate), args.get_warmup_steps(max_steps), max_steps, kwargs, _monitor_of(args)
    )
    node = _NODES[name](asked)
    if asked.kwargs:
        raise ValueError(f"lr_scheduler_kwargs has {', '.join(sorted(asked.kwargs))}, which {name} does not take")
    unit = "epoch" if name in _BY_EVALUATION else "step"
    return policy_to_json(policy_from_json({"schedule": node, "unit": unit}))


def _monitor_of(args: Any) -> str:
    """The metric that the Trainer gives to a plateau."""
    name = str(args.metric_for_best_model or "loss")
    return name if name.startswith("eval_") else f"eval_{name}"


def _warmed(asked: _Asked, node: Node) -> Node:
    return {**node, "warmup": {"steps": asked.warmup}} if asked.warmup else node


def _constant(asked: _Asked) -> Node:
    # The Trainer ignores the arguments of this one.
    asked.kwargs.clear()
    return {"type": "constant"}


def _constant_with_warmup(asked: _Asked) -> Node:
    return _warmed(asked, _constant(asked))


def _linear(asked: _Asked) -> Node:
    return _warmed(asked, {"type": "linear", "decay_steps": asked.rest})


def _polynomial(asked: _Asked) -> Node:
    end, power = asked.take("lr_end", 1e-7), asked.take("power", 1.0)
    if end >= asked.rate:
        raise asked.refuse("lr_end", end, f"below learning_rate ({asked.rate:g})")
    return _warmed(asked, {"type": "polynomial", "decay_steps": asked.rest, "end_learning_rate": end, "power": power})


def _cosine(asked: _Asked) -> Node:
    return _warmed(
        asked,
        {
            "type": "cosine",
            "decay_steps": asked.rest,
            "num_cycles": asked.take("num_cycles", 0.5),
            "beyond_end": "periodic",
        },
    )


def _cosine_with_min_lr(asked: _Asked) -> Node:
    return {**_cosine(asked), **asked.end()}


def _cosine_warmup_with_min_lr(asked: _Asked) -> Node:
    """Warm-up and cosine are one step ahead of the other types: no node has this shift."""
    end = asked.end()
    share = end["alpha"] if "alpha" in end else end["end_learning_rate"] / asked.rate
    first, turns = asked.take("warmup_lr_rate", None), asked.take("num_cycles", 0.5)
    warmup = (
        f"(step + 1) / {asked.warmup}"
        if first is None
        else f"{first!r} + {1.0 - first!r} * step / {max(1, asked.warmup - 1)}"
    )
    cosine = f"0.5 * (1 + cos(pi * {turns!r} * 2 * (step - {asked.warmup} + 1) / {asked.rest}))"
    factor = f"max(0, {cosine} * {1 - share!r} + {share!r})"
    if asked.warmup:
        factor = f"({warmup} if step < {asked.warmup} else {factor})"
    return {"type": "expression", "expression": f"initial_learning_rate * {factor}"}


def _cosine_with_restarts(asked: _Asked) -> Node:
    cycles = asked.take("num_cycles", 1)
    if cycles != int(cycles) or cycles < 1:
        raise asked.refuse("num_cycles", cycles, "a whole number >= 1")
    return _warmed(
        asked,
        {"type": "cosine_restarts", "first_decay_steps": asked.rest / int(cycles), "cycle_limit": int(cycles)},
    )


def _inverse_sqrt(asked: _Asked) -> Node:
    node: Node = {"type": "inverse_sqrt", "warmup_steps": asked.warmup}
    timescale = asked.take("timescale", None)
    return node if timescale is None else {**node, "timescale": timescale}


def _warmup_stable_decay(asked: _Asked) -> Node:
    decay, stable = asked.take("num_decay_steps", None), asked.take("num_stable_steps", None)
    if decay is None:
        raise ValueError("lr_scheduler_kwargs must have num_decay_steps for warmup_stable_decay")
    cycles, shape = asked.take("num_cycles", 0.5), asked.take("decay_type", "cosine")
    if shape == "cosine" and cycles != 0.5:
        raise asked.refuse("num_cycles", cycles, "0.5")
    return {
        "type": "wsd",
        "warmup_steps": asked.warmup,
        "warmup_shape": asked.take("warmup_type", "linear"),
        "stable_steps": max(asked.total - asked.warmup - decay, 0) if stable is None else stable,
        "decay_steps": decay,
        "decay_shape": shape,
        "end_learning_rate": asked.take("min_lr_ratio", 0.0) * asked.rate,
    }


def _reduce_lr_on_plateau(asked: _Asked) -> Node:
    return {"type": "reduce_on_plateau", "flavor": "torch", "monitor": asked.monitor, **_rest_of(asked)}


def _greedy(asked: _Asked) -> Node:
    return {"type": "GreedyLR", "monitor": asked.monitor, **_rest_of(asked)}


def _rest_of(asked: _Asked) -> Node:
    """All arguments that are left: the node has the library's own names, and refuses others."""
    given = {name: value for name, value in asked.kwargs.items() if name != "verbose"}
    asked.kwargs.clear()
    return given


_NODES: Mapping[str, Callable[[_Asked], Node]] = {
    "linear": _linear,
    "cosine": _cosine,
    "cosine_with_restarts": _cosine_with_restarts,
    "polynomial": _polynomial,
    "constant": _constant,
    "constant_with_warmup": _constant_with_warmup,
    "inverse_sqrt": _inverse_sqrt,
    "reduce_lr_on_plateau": _reduce_lr_on_plateau,
    "cosine_with_min_lr": _cosine_with_min_lr,
    "cosine_warmup_with_min_lr": _cosine_warmup_with_min_lr,
    "warmup_stable_decay": _warmup_stable_decay,
    "greedy": _greedy,
}

_BY_EVALUATION = ("reduce_lr_on_plateau", "greedy")
