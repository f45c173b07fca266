"""RemoteLR for optax: a rate of `remotelr.training`, written into the state of an optimizer."""

try:
    import optax as _optax  # noqa: F401
except ImportError as _error:
    raise ImportError("remotelr.optax needs optax 0.2 or newer: pip install optax") from _error

from remotelr.optax.hyperparams import set_learning_rate

__all__ = ["set_learning_rate"]
