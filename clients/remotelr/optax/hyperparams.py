"""The hyperparameters that `optax.inject_hyperparams` keeps in the state of an optimizer."""

from collections.abc import Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax

State = TypeVar("State")

_INJECT = "optax.inject_hyperparams(optax.adamw, hyperparam_dtype=jnp.float32)(learning_rate=1e-3)"
# A rate in 16 bits differs from the decided one by more than the tolerance for drift.
_PRECISE = (np.float32, np.float64)


def set_learning_rate(
    opt_state: State, rate: Any, *, ratios: Mapping[str, float] | None = None, name: str = "learning_rate"
) -> State:
    """The optimizer's state with another rate; everything else in it is kept.

    With `optimizer = optax.inject_hyperparams(optax.sgd, hyperparam_dtype=jnp.float32)(learning_rate=0.1)`:

        for epoch in training.epochs():
            for step, batch in enumerate(batches):
                opt_state = set_learning_rate(opt_state, training.learning_rate(step))
                params, opt_state = train_step(params, opt_state, batch)
            training.report(val_loss=evaluate(params))

    A compiled step is not compiled again: dtype, shape and sharding stay.

    opt_state: of an optimizer in `optax.inject_hyperparams`, alone or within others; also a tree that contains it,
        such as a `TrainState`.
    rate: of the next step. Within a compiled function it must be an argument of the function, not a Python number.
    ratios: for several rates, as with `optax.multi_transform`: the part of `rate` that each label has.
    name: of the hyperparameter; `momentum` or `b1` can be set as well.

    Raises ValueError if the state has no such rate, a scheduled one, one of less than 32 bits, or several without
    `ratios`, and if `rate` would be a constant of a compiled function.
    """
    leaves, structure = jax.tree_util.tree_flatten_with_path(opt_state, is_leaf=lambda node: _has(node, name))
    places = [index for index, (_, leaf) in enumerate(leaves) if _has(leaf, name)]
    if not places:
        raise ValueError(f"the optimizer's state has no hyperparameter {name!r}: make the optimizer with {_INJECT}")
    if len(places) > 1 and ratios is None:
        labels = [_labels(leaves[index][0]) for index in places]
        raise ValueError(f"the optimizer has {len(places)} rates {name!r}, at {labels}: give ratios= by label")
    new = [leaf for _, leaf in leaves]
    for index in places:
        path, state = leaves[index]
        part = rate if ratios is None else rate * _ratio(_labels(path), ratios)
        new[index] = state._replace(hyperparams={**state.hyperparams, name: _as(state.hyperparams[name], part, name)})
    changed: State = jax.tree_util.tree_unflatten(structure, new)
    return changed


def _has(node: Any, name: str) -> bool:
    """`node` holds the hyperparameter. Raises ValueError if a schedule of optax would overwrite it."""
    if not isinstance(node, optax.InjectStatefulHyperparamsState):
        return False
    if name in node.hyperparams_states:
        raise ValueError(
            f"{name!r} is a schedule of optax, which writes it at each update: give inject_hyperparams a number, and "
            f"the schedule as policy= of the training"
        )
    return name in node.hyperparams


def _labels(path: tuple[Any, ...]) -> list[str]:
    return [str(each.key) for each in path if isinstance(each, jax.tree_util.DictKey)]


def _ratio(labels: list[str], ratios: Mapping[str, float]) -> float:
    found = [ratios[label] for label in labels if label in ratios]
    if len(found) != 1:
        raise ValueError(f"ratios must have one label of each rate, got {sorted(ratios)} for the rate at {labels}")
    return found[0]


def _as(old: Any, rate: Any, name: str) -> Any:
    """`rate` in the form of `old`, so that a compiled function takes it as the same argument."""
    dtype = getattr(old, "dtype", np.dtype(np.float32))
    if dtype not in _PRECISE:
        raise ValueError(
            f"{name!r} is held in {dtype}, which rounds it: give inject_hyperparams hyperparam_dtype=float32"
        )
    if isinstance(rate, jax.Array):
        return jnp.broadcast_to(rate, np.shape(old)).astype(dtype)
    if isinstance(old, jax.core.Tracer):
        raise ValueError(  # noqa: TRY004 - the type is right, the place is not
            f"within a compiled function, {name!r} = {rate!r} would be a constant of it: set the rate outside, or make "
            f"it an argument of the function"
        )
    # NumPy, not jnp: no computation on the device, and no new trace.
    value = np.full(np.shape(old), rate, dtype)
    return jax.device_put(value, old.sharding) if isinstance(old, jax.Array) and old.committed else value
