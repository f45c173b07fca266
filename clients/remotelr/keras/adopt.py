"""Converts what sets the rate of a Keras training into a policy, for `RemoteLR.from_callbacks`.

Objects of Keras are recognised by class name and attributes, so Keras is not imported here. An object without an
exact equivalent stays unchanged, and the message names the reason.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from remotelr.rules import InvalidPolicy, Policy
from remotelr.rules.plateau.machine import float32
from remotelr.rules.policy.importers import from_keras_callback, from_keras_schedule
from remotelr.rules.schedules.base import Binding

_PLATEAU, _FUNCTION = "ReduceLROnPlateau", "LearningRateScheduler"

RateFunction = Callable[[int, float | None], Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Adoption:
    """The result of `adopt`.

    policy: of the run; None if nothing was converted.
    callbacks: those that are not replaced, in order. index: the position of RemoteLR among them.
    verbose: of the replaced callbacks. message: for the user.
    """

    policy: Policy | None
    callbacks: list[Any]
    index: int
    verbose: int = 0
    message: str


class _NotConvertible(Exception):
    """There is no exact policy; the text is the reason."""


def adopt(
    callbacks: Sequence[Any], *, schedule: Any = None, learning_rate: float | None = None, epochs: int | None = None
) -> Adoption:
    """Convert the callbacks that set the rate, or the optimizer's schedule, into a policy with the same rates.

    schedule: the config of the optimizer's schedule, or None.
    learning_rate: the optimizer's, the first argument `lr` of a function of (epoch, lr).
    epochs: length of the table that replaces a function.

    Raises ValueError if a function needs `epochs`, or if two objects set the rate, which Keras rejects too.
    """
    replaced = [each for each in callbacks if type(each).__name__ in (_PLATEAU, _FUNCTION)]
    others = [each for each in callbacks if each not in replaced]
    if schedule is not None and replaced:
        raise ValueError(
            f"the optimizer follows a schedule of its own, so {type(replaced[0]).__name__} cannot set its rate: "
            f"remove one of the two"
        )
    if schedule is None and not replaced:
        return _unchanged(callbacks, "no callback sets the rate")
    try:
        policy, outcome = _schedule(schedule) if schedule is not None else _policy(replaced, learning_rate, epochs)
    except (_NotConvertible, InvalidPolicy) as reason:
        return _unchanged(callbacks, str(reason))
    # An optimizer's schedule has no position in the list. Last, because another callback may add the metric.
    index = next((index for index, each in enumerate(callbacks) if each in replaced), len(others))
    verbose = max((getattr(each, "verbose", 0) for each in replaced), default=0)
    message = f"RemoteLR sets the learning rate: {outcome}."
    return Adoption(policy=policy, callbacks=others, index=index, verbose=verbose, message=message)


def first_rate(policy: Policy) -> float:
    """The first rate of a policy that names all of its rates."""
    bound = policy.bind(Binding(None, None))
    return bound.learning_rate(bound.start(bound.initial_learning_rate or 0.0), 0.0)


def replace_rate(model: Any, learning_rate: float) -> None:
    """Replace the model's optimizer by one with a float as its learning rate and the same state."""
    old = model.optimizer
    new = type(old).from_config({**old.get_config(), "learning_rate": learning_rate})
    if old.built:
        new.build(model.trainable_variables)
        state = [variable for variable in new.variables if variable is not new.learning_rate]
        for target, source in zip(state, old.variables, strict=True):
            target.assign(source.value)
    model.optimizer = new
    # A compiled training step refers to the old optimizer.
    model.train_function = None


def _unchanged(callbacks: Sequence[Any], reason: str) -> Adoption:
    message = f"RemoteLR leaves the callbacks unchanged: {reason}."
    return Adoption(policy=None, callbacks=list(callbacks), index=len(callbacks), message=message)


def _schedule(config: Any) -> tuple[Policy, str]:
    policy = from_keras_schedule(config)
    name = config["class_name"]
    return policy, f"the optimizer's {name} becomes the policy, in optimizer steps, and the optimizer gets a float"


def _policy(replaced: Sequence[Any], learning_rate: float | None, epochs: int | None) -> tuple[Policy, str]:
    plateaus = [each for each in replaced if type(each).__name__ == _PLATEAU]
    functions = [each.schedule for each in replaced if type(each).__name__ == _FUNCTION]
    if not functions:
        return _plateau(plateaus)
    if epochs is None:
        raise ValueError(f"epochs is missing: the function of {_FUNCTION} is read into a table of that many rates")
    rates = _composed(functions)
    table = _table(rates, epochs, learning_rate)
    outcome = f"the function of {_FUNCTION} becomes a table of its rates over {epochs} epochs; the last one stays"
    if not plateaus:
        return table, outcome
    if _depends_on_rate(rates, table, epochs):
        raise _NotConvertible(f"{_PLATEAU} and a function of the present rate multiply, which no table expresses")
    return table, f"{outcome}; {_PLATEAU} is dropped, because the function undid each reduction at the next epoch"


def _plateau(plateaus: Sequence[Any]) -> tuple[Policy, str]:
    if len(plateaus) > 1:
        raise _NotConvertible(f"there are {len(plateaus)} {_PLATEAU}, which reduce each other's rates")
    only = plateaus[0]
    settings = {name: getattr(only, name) for name in ("monitor", "factor", "patience", "cooldown")}
    # Keras negates `min_delta` of a callback that has been used.
    margins = {"min_delta": abs(only.min_delta), "min_lr": only.min_lr, "mode": only.mode}
    policy = from_keras_callback({**settings, **margins})
    shown = ", ".join(f"{name}={value!r}" for name, value in settings.items())
    return policy, f"{_PLATEAU}({shown}) becomes the policy"


def _composed(functions: Sequence[Callable[..., Any]]) -> RateFunction:
    """One function: each of `functions` gets the rate that the one before it set, as the optimizer holds it."""

    def rate(epoch: int, learning_rate: float | None) -> Any:
        for function in functions:
            learning_rate = _called(function, epoch, learning_rate)
        return learning_rate

    return rate


def _called(function: Callable[..., Any], epoch: int, learning_rate: float | None) -> Any:
    if learning_rate is not None:
        try:
            return function(epoch, float32(learning_rate))
        except TypeError:
            # Keras then tries the older signature.
            return function(epoch)
    try:
        return function(epoch)
    except TypeError:
        raise _NotConvertible(f"the function of {_FUNCTION} needs the optimizer's rate: give the `model`") from None


def _table(rates: RateFunction, epochs: int, learning_rate: float | None) -> Policy:
    """The functions' rates. They are called twice, because they may be random or depend on the training."""

    def read() -> Policy:
        return from_keras_callback(
            lambda epoch, rate=None: rates(epoch, rate), epochs=epochs, initial_learning_rate=learning_rate
        )

    try:
        first, second = read(), read()
    except (_NotConvertible, InvalidPolicy):
        raise
    except Exception as error:  # the user's code may raise anything
        raise _NotConvertible(f"the function of {_FUNCTION} cannot be called before training ({error!r})") from error
    if first != second:
        raise _NotConvertible(f"the function of {_FUNCTION} returns other rates when it is called again")
    return first


def _depends_on_rate(rates: RateFunction, table: Policy, epochs: int) -> bool:
    given = [table.learning_rate(None, float(epoch)) for epoch in range(epochs)]
    return any(rates(epoch, rate * 0.37) != rates(epoch, rate) for epoch, rate in enumerate(given, start=1))
