"""What sets the rate of a Keras training already, read into a policy: `RemoteLR.from_callbacks`.

Objects of Keras are known by their class name and their attributes, so nothing is imported here. What
cannot be read exactly stays where it is, and the message says so: a rate that is almost the old one is
worse than none.
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
    """What became of the callbacks.

    policy: what the run follows now; None where everything stays as it was.
    callbacks: those that are left, in their order. place: where RemoteLR belongs among them.
    verbose: as the replaced callbacks had it. said: all of it, for people.
    """

    policy: Policy | None
    callbacks: list[Any]
    place: int
    verbose: int = 0
    said: str


class _NotConvertible(Exception):
    """It cannot be read exactly; the words say why."""


def adopt(
    callbacks: Sequence[Any], *, schedule: Any = None, learning_rate: float | None = None, epochs: int | None = None
) -> Adoption:
    """The policy that gives the rates these callbacks give, and the callbacks without those it replaces.

    schedule: what the optimizer follows by itself, as its config has it; else None.
    learning_rate: the optimizer's, which a function of (epoch, lr) is given first.
    epochs: for how many a function is asked.

    Raises ValueError where a function needs `epochs`, or where two things set the rate, which Keras refuses too.
    """
    replaced = [each for each in callbacks if type(each).__name__ in (_PLATEAU, _FUNCTION)]
    kept = [each for each in callbacks if each not in replaced]
    if schedule is not None and replaced:
        raise ValueError(
            f"the optimizer follows a schedule of its own, so {type(replaced[0]).__name__} cannot set its rate: "
            f"take one of the two away"
        )
    if schedule is None and not replaced:
        return _untouched(callbacks, "nothing in the callbacks sets the rate")
    try:
        policy, said = _schedule(schedule) if schedule is not None else _policy(replaced, learning_rate, epochs)
    except (_NotConvertible, InvalidPolicy) as reason:
        return _untouched(callbacks, str(reason))
    # At the end where there was none: a callback before it may put the metric into the logs.
    place = next((place for place, each in enumerate(callbacks) if each in replaced), len(kept))
    verbose = max((getattr(each, "verbose", 0) for each in replaced), default=0)
    return Adoption(policy=policy, callbacks=kept, place=place, verbose=verbose, said=f"RemoteLR takes over: {said}.")


def first_rate(policy: Policy) -> float:
    """The rate a policy that names all of its rates begins with."""
    bound = policy.bind(Binding(None, None))
    return bound.learning_rate(bound.start(bound.initial_learning_rate or 0.0), 0.0)


def with_rate(model: Any, learning_rate: float) -> None:
    """Give the model its optimizer anew, with a float for a learning rate and all that it remembers."""
    old = model.optimizer
    new = type(old).from_config({**old.get_config(), "learning_rate": learning_rate})
    if old.built:
        new.build(model.trainable_variables)
        remembered = [variable for variable in new.variables if variable is not new.learning_rate]
        for ours, theirs in zip(remembered, old.variables, strict=True):
            ours.assign(theirs.value)
    model.optimizer = new
    # A compiled step holds the old one.
    model.train_function = None


def _untouched(callbacks: Sequence[Any], why: str) -> Adoption:
    said = f"RemoteLR takes nothing over, the callbacks stay as they are: {why}."
    return Adoption(policy=None, callbacks=list(callbacks), place=len(callbacks), said=said)


def _schedule(config: Any) -> tuple[Policy, str]:
    policy = from_keras_schedule(config)
    name = config["class_name"]
    return policy, f"the optimizer's {name} becomes the policy, counted in updates, and the optimizer has a float"


def _policy(replaced: Sequence[Any], learning_rate: float | None, epochs: int | None) -> tuple[Policy, str]:
    plateaus = [each for each in replaced if type(each).__name__ == _PLATEAU]
    functions = [each.schedule for each in replaced if type(each).__name__ == _FUNCTION]
    if not functions:
        return _plateau(plateaus)
    if epochs is None:
        raise ValueError(f"{_FUNCTION} has a Python function, which is read into a table: say for how many `epochs`")
    rates = _as_keras_asks(functions)
    table = _table(rates, epochs, learning_rate)
    said = f"the function of {_FUNCTION} becomes a table of the rates it gives over {epochs} epochs; then the last one"
    if not plateaus:
        return table, said
    if _depends_on_rate(rates, table, epochs):
        raise _NotConvertible(f"{_PLATEAU} and a function of the rate it left multiply, which no table can say")
    return table, f"{said}; {_PLATEAU} is left out, for the function undid each reduction at the next epoch"


def _plateau(plateaus: Sequence[Any]) -> tuple[Policy, str]:
    if len(plateaus) > 1:
        raise _NotConvertible(f"there are {len(plateaus)} {_PLATEAU} which reduce each other's rates")
    only = plateaus[0]
    settings = {name: getattr(only, name) for name in ("monitor", "factor", "patience", "cooldown")}
    # Keras turns the sign of `min_delta` around in a callback that has been used.
    margins = {"min_delta": abs(only.min_delta), "min_lr": only.min_lr, "mode": only.mode}
    policy = from_keras_callback({**settings, **margins})
    shown = ", ".join(f"{name}={value!r}" for name, value in settings.items())
    return policy, f"{_PLATEAU}({shown}) becomes the policy"


def _as_keras_asks(functions: Sequence[Callable[..., Any]]) -> RateFunction:
    """The callbacks' functions as one, each given the rate the one before it set, as the optimizer holds it."""

    def asked(epoch: int, learning_rate: float | None) -> Any:
        for function in functions:
            learning_rate = _called(function, epoch, learning_rate)
        return learning_rate

    return asked


def _called(function: Callable[..., Any], epoch: int, learning_rate: float | None) -> Any:
    if learning_rate is not None:
        try:
            return function(epoch, float32(learning_rate))
        except TypeError:
            # Keras falls back to the older signature here.
            return function(epoch)
    try:
        return function(epoch)
    except TypeError:
        raise _NotConvertible(
            f"the function of {_FUNCTION} needs the optimizer's rate to begin with: give the `model`"
        ) from None


def _table(rates: RateFunction, epochs: int, learning_rate: float | None) -> Policy:
    """What the functions give, asked twice: they may throw dice, or look at something that trains."""

    def read() -> Policy:
        return from_keras_callback(
            lambda epoch, rate=None: rates(epoch, rate), epochs=epochs, initial_learning_rate=learning_rate
        )

    try:
        first, again = read(), read()
    except (_NotConvertible, InvalidPolicy):
        raise
    except Exception as error:  # anybody's code: whatever it raises, it stays where it is
        raise _NotConvertible(f"the function of {_FUNCTION} cannot be asked before training ({error!r})") from error
    if first != again:
        raise _NotConvertible(f"the function of {_FUNCTION} gives other rates when it is asked again")
    return first


def _depends_on_rate(rates: RateFunction, table: Policy, epochs: int) -> bool:
    """Whether a rate that somebody has reduced would change what the functions give."""
    given = [table.learning_rate(None, float(epoch)) for epoch in range(epochs)]
    return any(rates(epoch, rate * 0.37) != rates(epoch, rate) for epoch, rate in enumerate(given, start=1))
