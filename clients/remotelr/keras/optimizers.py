"""Access to Keras optimizers: their rates and counters."""

from typing import Any

import keras


def check_settable(optimizer: Any) -> None:
    """Raises TypeError for an optimizer whose rate cannot be set."""
    if not optimizers_of(optimizer):
        raise TypeError("the model has no optimizer: pass one with a learning rate to compile()")
    for each in optimizers_of(optimizer):
        if not _is_variable(own_rate(each)):
            raise TypeError(
                f"the optimizer {each.name!r} follows a learning-rate schedule of its own, so its rate cannot be set. "
                f"Give the schedule to RemoteLR as `policy=`, and the optimizer a float: "
                f"keras.optimizers.{type(each).__name__}(learning_rate=0.01)"
            )


def optimizers_of(optimizer: Any) -> list[Any]:
    """The optimizers that have a rate: those of a MultiOptimizer, or the single one."""
    if optimizer is None:
        return []
    return list(optimizer.optimizers) if hasattr(optimizer, "optimizers") else [optimizer]


def own_rate(optimizer: Any) -> Any:
    """The variable of the optimizer's rate; a tensor if it follows a schedule."""
    # The property gives the rate of a table (rate_table.py) in its place, if there is one.
    own = getattr(innermost(optimizer), "_learning_rate", None)
    return optimizer.learning_rate if own is None else own


def rate_of(optimizer: Any) -> float:
    """The current learning rate."""
    return float(_value(optimizer.learning_rate))


def rates_by_name(optimizer: Any) -> dict[str, float]:
    """The rates by their names in Keras's logs."""
    if hasattr(optimizer, "optimizers"):
        return {f"learning_rate_{each.name}": rate_of(each) for each in optimizer.optimizers}
    return {"learning_rate": rate_of(optimizer)}


def updates_of(optimizer: Any) -> int:
    """Updates of the weights so far; with gradient accumulation fewer than the batches."""
    return int(_value(optimizer.iterations))


def batches_per_step_of(optimizer: Any) -> int:
    """Batches for one update of the weights."""
    return getattr(innermost(optimizer), "gradient_accumulation_steps", None) or 1


def batches_of(optimizer: Any) -> int:
    """Batches so far: Keras's variable `iteration`, which checkpoints contain."""
    counters = [variable for variable in innermost(optimizer).variables if variable.name == "iteration"]
    return int(_value(counters[0])) if counters else 0


def _value(variable: Any) -> Any:
    # The value, not the variable: NumPy 2 warns when Keras 3.15 converts a variable into an array.
    return keras.ops.convert_to_numpy(variable.value if _is_variable(variable) else variable)


def _is_variable(value: Any) -> bool:
    # Not isinstance of keras.Variable: before Keras 3.7 an optimizer's rate is a variable of another class.
    return hasattr(value, "assign")


def innermost(optimizer: Any) -> Any:
    """The optimizer that updates the weights; mixed precision wraps it in one that scales the loss."""
    return getattr(optimizer, "inner_optimizer", optimizer)


def reset_non_finite(optimizer: Any) -> None:
    """Zero the optimizer's variables that are not finite: they would make the weights non-finite again."""
    for each in optimizers_of(optimizer):
        for variable in innermost(each).variables:
            if not bool(keras.ops.convert_to_numpy(keras.ops.all(keras.ops.isfinite(variable.value)))):
                variable.assign(keras.ops.zeros_like(variable.value))
