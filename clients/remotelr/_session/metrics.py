"""The entries of a framework's logs that the service accepts as metrics."""

import re
from collections.abc import Mapping
from typing import Any

# The service's rules for metrics.
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_./-]{0,99}")
_MAX_METRICS = 64


def reportable(logs: Mapping[str, Any], first: tuple[str, ...]) -> dict[str, float]:
    """The numbers in `logs` with valid names, at most `_MAX_METRICS`; those named in `first` come first."""
    names = sorted(logs, key=lambda name: name not in first)
    metrics = {
        name: float(logs[name])
        for name in names
        if _NAME.fullmatch(name) and not name.startswith("learning_rate") and _is_number(logs[name])
    }
    return dict(list(metrics.items())[:_MAX_METRICS])


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True
