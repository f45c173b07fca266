"""One command of the command line out of two functions: what is ordered, and what is done with the order."""

import inspect
from collections.abc import Callable
from typing import Any

Order = dict[str, Any]


def combine_arguments(order: Callable[..., Order], act: Callable[..., None]) -> Callable[..., None]:
    """A function that takes the arguments of both, and calls `act` with its own and the order as the last one.

    Its help is the order's. The positional arguments of `act` stand first on the command line.
    """
    asked = list(inspect.signature(order).parameters.values())
    acting = [each for each in inspect.signature(act).parameters.values() if each.name != "order"]
    names = {each.name for each in asked}

    def command(**given: Any) -> None:
        ordered = order(**{name: value for name, value in given.items() if name in names})
        act(order=ordered, **{name: value for name, value in given.items() if name not in names})

    first = [each for each in acting if each.default is inspect.Parameter.empty]
    rest = [each for each in acting if each.default is not inspect.Parameter.empty]
    parameters = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in (*first, *asked, *rest)]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # typer reads it
    command.__annotations__ = {each.name: each.annotation for each in parameters}
    command.__doc__ = order.__doc__
    command.__name__ = order.__name__
    return command
