"""The client of RemoteLR, a control plane for learning rates.

`Client`, `Run` and `Decision` serve a custom training loop, and return `RunView`, `ReportRecord` and `CommandReceipt`.
`remotelr.keras` has the callback for Keras, `remotelr.rules` the rules by which a rate evolves.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from remotelr._http.responses import CommandReceipt, ReportRecord, RunView
    from remotelr.client import Client
    from remotelr.decision import Decision
    from remotelr.errors import RanksMissing, RemoteLRError, ServiceRefused, ServiceUnreachable, StaleAttempt
    from remotelr.run import Run

_HOMES = {
    "Client": "remotelr.client",
    "CommandReceipt": "remotelr._http.responses",
    "Decision": "remotelr.decision",
    "RanksMissing": "remotelr.errors",
    "RemoteLRError": "remotelr.errors",
    "ReportRecord": "remotelr._http.responses",
    "Run": "remotelr.run",
    "RunView": "remotelr._http.responses",
    "ServiceRefused": "remotelr.errors",
    "ServiceUnreachable": "remotelr.errors",
    "StaleAttempt": "remotelr.errors",
}

__all__ = [
    "Client",
    "CommandReceipt",
    "Decision",
    "RanksMissing",
    "RemoteLRError",
    "ReportRecord",
    "Run",
    "RunView",
    "ServiceRefused",
    "ServiceUnreachable",
    "StaleAttempt",
]


def __getattr__(name: str) -> Any:
    """Import a public name at its first use: the service imports `remotelr.rules` without httpx."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
