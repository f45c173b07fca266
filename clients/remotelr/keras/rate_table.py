"""The rates of one epoch as variables of the optimizer, which the compiled training step reads.

A rate that is written before every batch costs a synchronisation of the state on JAX, of all weights. The table is
written once per epoch, and each step looks its own rate up by the optimizer's counter of updates.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import keras

from remotelr.errors import warn
from remotelr.keras.optimizers import innermost, own_rate


class RateTable:
    """The rates of the next steps of one optimizer.

    The table counts only while the optimizer's own rate is the one that was set with it: whatever sets another rate,
    the user's code or another callback, wins from that step on. The files of weights and optimizers do not contain it.
    """

    def __init__(self, optimizer: Any, steps: int, replaces: "RateTable | None" = None) -> None:
        """optimizer: with a settable rate. steps: the size of the table. replaces: a table that is too small."""
        self.steps = steps
        self._optimizer = target = innermost(optimizer)
        settings: dict[str, Any] = {"initializer": "zeros"}
        self._rates = target.add_variable(shape=(steps,), dtype="float32", name="epoch_rates", **settings)
        self._first = target.add_variable(shape=(), dtype="int32", name="epoch_start", **settings)
        self._rate_set = target.add_variable(shape=(), dtype="float32", name="rate_set", **settings)
        self.hidden: list[Any] = [self._rates, self._first, self._rate_set, *(replaces.hidden if replaces else [])]
        self.clear()
        # On the object and not by a class of its own: a saved model names the class of its optimizer.
        target._get_current_learning_rate = self.current_rate  # noqa: SLF001
        for each in {id(each): each for each in (optimizer, target)}.values():
            each.save_own_variables = partial(self._save, each)
            each.load_own_variables = partial(self._load, each)

    def set(self, rates: Sequence[float], updates: int) -> None:
        """Put the rates of the next steps in force. updates: made so far. The optimizer's own rate is rates[0]."""
        self._rates.assign([*rates, *[rates[-1]] * (self.steps - len(rates))])
        self._first.assign(updates)
        self._rate_set.assign(keras.ops.convert_to_numpy(own_rate(self._optimizer).value))

    def finish(self) -> None:
        """Leave the optimizer with the rate of the last step as its own."""
        self.current_rate()
        self.clear()

    def clear(self) -> None:
        """Leave the optimizer with its own rate."""
        self._rate_set.assign(math.nan)

    def current_rate(self) -> Any:
        """The rate of the next update: a tensor in the compiled training step, elsewhere the optimizer's own variable.

        Code that reads the variable, as `optimizer.learning_rate.numpy()` does, works as without a table.
        """
        ops, own = keras.ops, own_rate(self._optimizer)
        step = ops.cast(self._optimizer.iterations, "int32") - ops.convert_to_tensor(self._first)
        # After the last step of the epoch, loggers still read its rate.
        counts = ops.logical_and(ops.logical_and(step >= 0, step <= self.steps), ops.equal(own, self._rate_set))
        rate = ops.take(self._rates, ops.clip(step, 0, self.steps - 1))
        try:
            is_current = bool(ops.convert_to_numpy(counts))
        except Exception:  # noqa: BLE001 - each backend has an error of its own for a traced value
            return ops.where(counts, rate, ops.convert_to_tensor(own))
        if is_current:
            # A number each: JAX donates the buffers of variables, which two of them must not share.
            value = float(ops.convert_to_numpy(rate))
            own.assign(value)
            self._rate_set.assign(value)
        return own

    def _save(self, optimizer: Any, store: Any) -> None:
        for index, variable in enumerate(self._saved(optimizer)):
            store[str(index)] = variable.numpy()

    def _load(self, optimizer: Any, store: Any) -> None:
        variables = self._saved(optimizer)
        if len(store.keys()) != len(variables):
            warn(
                f"the state of the optimizer {optimizer.name!r} is not loaded: it has {len(variables)} variables, and "
                f"the file has {len(store.keys())}."
            )
            return
        for index, variable in enumerate(variables):
            variable.assign(store[str(index)])
        self.clear()

    def _saved(self, optimizer: Any) -> list[Any]:
        hidden = {id(variable) for variable in self.hidden}
        return [variable for variable in optimizer.variables if id(variable) not in hidden]


def install(model: Any, optimizer: Any, steps: int) -> RateTable | None:
    """The table of an optimizer; None for one that is not built like Keras's own, and on torch.

    The torch backend does not compile the training step, so a rate that is written before a batch costs little there.

    Call it before the first batch of an epoch: it makes the training step anew.
    """
    target = innermost(optimizer)
    present = getattr(target, "_get_current_learning_rate", None)
    table = getattr(present, "__self__", None)
    if isinstance(table, RateTable) and table.steps >= steps:
        return table
    if present is None or not hasattr(own_rate(target), "assign") or keras.backend.backend() == "torch":
        return None
    made = RateTable(optimizer, steps, replaces=table if isinstance(table, RateTable) else None)
    if getattr(model, "train_function", None) is not None:
        # It was made for other variables.
        model.make_train_function(force=True)
    record = getattr(model, "_record_training_state_sharding_spec", None)
    if record is not None:
        # Some releases note the layout of the variables on JAX before the first callback.
        record()
    return made
