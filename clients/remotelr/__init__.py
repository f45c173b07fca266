"""Learning rates decided in one durable place. `Client`, `Run` and `Decision` are for your own loop, `RunView`,
`Reported` and `Commanded` are what else they give; `remotelr.keras` is the callback for Keras; `remotelr.rules` is
how a rate evolves."""

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
    """The public names, imported when first used: who imports `remotelr.rules` alone (the service) needs no httpx."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
