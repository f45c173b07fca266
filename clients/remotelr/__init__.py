"""The client of RemoteLR, a control plane for learning rates.

`training` serves a training loop of one's own, `remotelr.keras` has the callback for Keras, and `remotelr.torch` the
scheduler for PyTorch. `Client` and `Run` are the plain REST layer. `remotelr.rules` has the rules of the rates.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from remotelr._http.responses import CommandReceipt, ReportRecord, RunView
    from remotelr._training.loop import TrainingLoop, training
    from remotelr.client import Client
    from remotelr.decision import Decision
    from remotelr.errors import (
        RanksDisagree,
        RanksMissing,
        RemoteLRError,
        ServiceRefused,
        ServiceUnreachable,
        StaleAttempt,
    )
    from remotelr.run import Run

_HOMES = {
    "Client": "remotelr.client",
    "CommandReceipt": "remotelr._http.responses",
    "Decision": "remotelr.decision",
    "RanksDisagree": "remotelr.errors",
    "RanksMissing": "remotelr.errors",
    "RemoteLRError": "remotelr.errors",
    "ReportRecord": "remotelr._http.responses",
    "Run": "remotelr.run",
    "RunView": "remotelr._http.responses",
    "ServiceRefused": "remotelr.errors",
    "ServiceUnreachable": "remotelr.errors",
    "StaleAttempt": "remotelr.errors",
    "TrainingLoop": "remotelr._training.loop",
    "training": "remotelr._training.loop",
}

__all__ = [
    "Client",
    "CommandReceipt",
    "Decision",
    "RanksDisagree",
    "RanksMissing",
    "RemoteLRError",
    "ReportRecord",
    "Run",
    "RunView",
    "ServiceRefused",
    "ServiceUnreachable",
    "StaleAttempt",
    "TrainingLoop",
    "training",
]


def __getattr__(name: str) -> Any:
    """Import a public name at its first use: the service imports `remotelr.rules` without httpx."""
    if name == "__version__":
        return version("remotelr")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
