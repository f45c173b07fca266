"""The callback classes of `lightning.pytorch` and `pytorch_lightning`."""

import sys
from importlib import import_module

_MODULES = ("lightning.pytorch", "pytorch_lightning")


def callback_classes() -> tuple[type, ...]:
    """The class `Callback` of each package that the program has imported; else of the first that is installed.

    A trainer calls hooks by their name, so a callback also serves a package that is imported later. Only imported
    packages count, as each takes seconds to import.

    Raises ImportError if none is installed.
    """
    imported = [name for name in _MODULES if hasattr(sys.modules.get(name), "Callback")]
    if imported:
        return tuple(sys.modules[name].Callback for name in imported)
    for name in _MODULES:
        try:
            return (import_module(name).Callback,)
        except ImportError:
            continue
    raise ImportError("remotelr.lightning needs lightning or pytorch-lightning 2.0 or newer: pip install lightning")
