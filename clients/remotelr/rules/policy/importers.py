"""Policies from what a trainer has already: a Keras schedule or callback, a torch scheduler.

Objects are known by their class name and read by their attributes, so no framework is imported here.
"""

# ruff: noqa: SLF001 - torch keeps what its schedulers are made of in private attributes and has no other way to it

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, Literal

from remotelr.rules.errors import InvalidPolicy
from remotelr.rules.policy.codec import policy_from_json
from remotelr.rules.policy.policy import Policy
from remotelr.rules.values.fields import MAX_ITEMS, format_value

Document = dict[str, Any]

# The rate function of Keras's `LearningRateScheduler`: schedule(epoch, lr), or the older schedule(epoch).
RateFunction = Callable[..., Any]

_PLATEAU_ARGUMENTS: Final = ("monitor", "factor", "patience", "mode", "min_delta", "cooldown", "min_lr")


def from_keras_schedule(schedule: Any) -> Policy:
    """The policy of a Keras `LearningRateSchedule`, counted in optimizer steps as Keras counts.

    schedule: an object of `keras.optimizers.schedules`; its config as `keras.saving.serialize_keras_object` gives
        it; or that of `get_config`, together with its class: `{"class_name": ..., "config": ...}`.

    Raises InvalidPolicy for a custom class: its Python code cannot be stored.
    """
    document = schedule
    if not isinstance(schedule, Mapping):
        if not callable(getattr(schedule, "get_config", None)):
            raise InvalidPolicy(f"a Keras schedule or its config is needed, not {_described(schedule)}")
        document = {"class_name": type(schedule).__name__, "config": schedule.get_config()}
    return policy_from_json({"schedule": _plain(document), "unit": "step"})


def from_keras_callback(
    callback: Any, *, epochs: int | None = None, initial_learning_rate: float | None = None
) -> Policy:
    """The policy of a Keras `ReduceLROnPlateau` or `LearningRateScheduler`, counted in epochs.

    callback: the callback; or a mapping of `ReduceLROnPlateau`'s arguments; or the function that
        `LearningRateScheduler` takes.
    epochs: for a function: number of epochs to evaluate; later epochs have the last rate.
    initial_learning_rate: what a function of (epoch, lr) is given first; other callbacks may leave it to the run.

    A function becomes the table of its rates. Raises InvalidPolicy if it cannot be evaluated, or
    gives what is no rate.
    """
    if isinstance(callback, Mapping):
        return _from_plateau_arguments(callback, initial_learning_rate)
    if type(callback).__name__ == "ReduceLROnPlateau":
        arguments = {name: getattr(callback, name) for name in _PLATEAU_ARGUMENTS}
        return _from_plateau_arguments(arguments, initial_learning_rate)
    function = getattr(callback, "schedule", callback)
    if not callable(function):
        raise InvalidPolicy(f"a Keras callback of the learning rate is needed, not {_described(callback)}")
    rates = _rates_of(function, _asked(epochs, "epochs"), initial_learning_rate)
    return policy_from_json({"schedule": _table(rates), "unit": "epoch"})


def from_torch_scheduler(
    scheduler: Any,
    *,
    unit: Literal["epoch", "step"] = "epoch",
    positions: int | None = None,
    monitor: str = "val_loss",
) -> Policy:
    """The policy of a `torch.optim.lr_scheduler`, as it is from its first position on.

    unit: of one `scheduler.step()` in the training loop.
    positions: for LambdaLR and MultiplicativeLR: number to evaluate; later positions have the last rate.
    monitor: the metric that `ReduceLROnPlateau.step` is given, which torch does not name.

    Raises InvalidPolicy for a custom class, and if parameter groups have different rates.
    """
    schedule = _torch_node(scheduler, positions, monitor)
    return policy_from_json({"schedule": schedule, "unit": unit})


def _from_plateau_arguments(arguments: Mapping[str, Any], initial_learning_rate: float | None) -> Policy:
    node: Document = {"type": "ReduceLROnPlateau", "flavor": "keras", **_plain(arguments)}
    # Keras's own default; None would say the same, but a mapping may leave it out.
    node = {name: value for name, value in node.items() if value is not None}
    if initial_learning_rate is not None:
        node["initial_learning_rate"] = initial_learning_rate
    return policy_from_json({"schedule": node, "unit": "epoch"})


def _rates_of(function: RateFunction, epochs: int, initial_learning_rate: float | None) -> list[float]:
    """What Keras would set at the beginning of each epoch, each rate handed on to the next call."""
    rates: list[float] = []
    lr = initial_learning_rate
    for epoch in range(epochs):
        lr = _rate(_called(function, epoch, lr), epoch)
        rates.append(lr)
    return rates


def _called(function: RateFunction, epoch: int, lr: float | None) -> Any:
    if lr is None:
        # Without an initial rate only a function of the epoch alone can be evaluated.
        try:
            return function(epoch)
        except TypeError:
            raise InvalidPolicy(
                "a function of (epoch, lr) needs a rate to begin with", "initial_learning_rate"
            ) from None
    try:
        return function(epoch, lr)
    except TypeError:
        # Keras falls back to the older signature here.
        return function(epoch)


def _rate(value: Any, epoch: int) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise InvalidPolicy(f"the function gives {_described(value)} at epoch {epoch}, which is no rate") from None


def _table(rates: list[float]) -> Document:
    """A step wherever the rate changes."""
    starts = [0, *(index for index in range(1, len(rates)) if rates[index] != rates[index - 1])]
    if len(starts) > MAX_ITEMS:
        raise InvalidPolicy(f"the function gives {len(starts):,} different rates, a table holds {MAX_ITEMS:,}")
    return {
        "type": "piecewise_constant",
        "boundaries": starts[1:],
        "values": [rates[start] for start in starts],
        "boundary": "at",
    }


def _asked(count: int | None, name: str) -> int:
    if count is None or count < 1:
        raise InvalidPolicy(f"a function is read into a table: say for how many {name}", name)
    return count


def _torch_node(scheduler: Any, positions: int | None, monitor: str) -> Document:
    name = type(scheduler).__name__
    if name == "ReduceLROnPlateau":
        return _torch_plateau(scheduler, monitor)
    if name in ("LambdaLR", "MultiplicativeLR"):
        return _table(_torch_rates(scheduler, name == "LambdaLR", _asked(positions, "positions")))
    if name == "SequentialLR":
        parts = [_torch_node(part, positions, monitor) for part in scheduler._schedulers]
        return {"type": name, "schedulers": parts, "milestones": list(scheduler._milestones)}
    if name == "ChainedScheduler":
        base = _base_rate(scheduler._schedulers[0])
        parts = [_torch_factor(part) for part in scheduler._schedulers]
        return {"type": name, "base_lr": base, "schedulers": parts}
    if name not in _TORCH:
        raise InvalidPolicy(f"{name} is not known; known are {', '.join(sorted(_TORCH))} and plateaus and functions")
    return {"type": name, **_TORCH[name](scheduler)}


def _torch_factor(part: Any) -> Document:
    """A member of a chain, as a multiple of what the others give."""
    name = type(part).__name__
    if name in ("LambdaLR", "MultiplicativeLR", "ReduceLROnPlateau"):
        raise InvalidPolicy(f"{name} inside a chain is not read: write the product as an expression")
    return _torch_node(part, None, "") | {"base_lr": 1.0}


def _torch_plateau(scheduler: Any, monitor: str) -> Document:
    same = ("mode", "factor", "patience", "threshold", "threshold_mode", "cooldown", "eps")
    node = {name: getattr(scheduler, name) for name in same}
    min_lr = _one(scheduler.min_lrs, "min_lr")
    return {"type": "reduce_on_plateau", "flavor": "torch", "monitor": monitor, "min_lr": min_lr, **node}


def _torch_rates(scheduler: Any, absolute: bool, positions: int) -> list[float]:
    function = scheduler.lr_lambdas[0]
    if any(other is not function for other in scheduler.lr_lambdas):
        raise InvalidPolicy("every parameter group has its own function: a run has one rate")
    base = _base_rate(scheduler)
    if absolute:
        return [_rate(base * function(position), position) for position in range(positions)]
    # MultiplicativeLR calls its function from the second position on.
    rates = [base]
    for position in range(1, positions):
        rates.append(_rate(rates[-1] * function(position), position))
    return rates


def _attributes(*names: str) -> Callable[[Any], Document]:
    """A scheduler whose attributes have the names of its arguments."""
    return lambda scheduler: {
        "base_lr": _base_rate(scheduler),
        **{name: getattr(scheduler, name) for name in names},
    }


def _multi_step(scheduler: Any) -> Document:
    # torch keeps the milestones as a Counter: a repeated one counts twice.
    milestones = sorted(scheduler.milestones.elements())
    return {"base_lr": _base_rate(scheduler), "gamma": scheduler.gamma, "milestones": milestones}


def _one_cycle(scheduler: Any) -> Document:
    group = scheduler.optimizer.param_groups[0]
    _one((each["max_lr"] for each in scheduler.optimizer.param_groups), "max_lr")
    phases = scheduler._schedule_phases
    momenta = {name: group[name] for name in ("base_momentum", "max_momentum") if scheduler.cycle_momentum}
    return {
        "max_lr": group["max_lr"],
        "total_steps": scheduler.total_steps,
        "pct_start": (phases[0]["end_step"] + 1) / scheduler.total_steps,
        "anneal_strategy": scheduler._anneal_func_type,
        "div_factor": group["max_lr"] / group["initial_lr"],
        "final_div_factor": group["initial_lr"] / group["min_lr"],
        "three_phase": len(phases) == 3,
        "cycle_momentum": scheduler.cycle_momentum,
        **momenta,
    }


def _cyclic(scheduler: Any) -> Document:
    if getattr(scheduler, "_scale_fn_custom", None) is not None:
        raise InvalidPolicy("is a function: choose a mode, or write an expression", "scale_fn")
    up = scheduler.total_size * scheduler.step_ratio
    node = {
        "base_lr": _base_rate(scheduler),
        "max_lr": _one(scheduler.max_lrs, "max_lr"),
        "step_size_up": up,
        "step_size_down": scheduler.total_size - up,
        "mode": scheduler.mode,
        "gamma": scheduler.gamma,
        "cycle_momentum": scheduler.cycle_momentum,
    }
    if scheduler.cycle_momentum:
        node["base_momentum"] = _one(scheduler.base_momentums, "base_momentum")
        node["max_momentum"] = _one(scheduler.max_momentums, "max_momentum")
    return node


_TORCH: Final[Mapping[str, Callable[[Any], Document]]] = {
    "StepLR": _attributes("step_size", "gamma"),
    "MultiStepLR": _multi_step,
    "ConstantLR": _attributes("factor", "total_iters"),
    "LinearLR": _attributes("start_factor", "end_factor", "total_iters"),
    "ExponentialLR": _attributes("gamma"),
    "PolynomialLR": _attributes("total_iters", "power"),
    "CosineAnnealingLR": _attributes("T_max", "eta_min"),
    "CosineAnnealingWarmRestarts": _attributes("T_0", "T_mult", "eta_min"),
    "OneCycleLR": _one_cycle,
    "CyclicLR": _cyclic,
}


def _base_rate(scheduler: Any) -> float:
    return _one(scheduler.base_lrs, "base_lr")


def _one(values: Iterable[Any], name: str) -> float:
    """The value all parameter groups share. Raises InvalidPolicy when they do not."""
    different = list(dict.fromkeys(float(value) for value in values))
    if len(different) != 1:
        raise InvalidPolicy(f"differs between parameter groups ({different[:4]}): a run has one rate", name)
    return different[0]


def _plain(value: Any) -> Any:
    """A config without the tuples and NumPy scalars that people put into one."""
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        # np.float64 is a float; the codec takes it as one.
        return value
    return value.item() if callable(getattr(value, "item", None)) else value


def _described(value: Any) -> str:
    return (
        format_value(value)
        if value is None or isinstance(value, bool | int | float | str)
        else f"a {type(value).__name__}"
    )
