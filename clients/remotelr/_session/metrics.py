"""Which of the numbers in Keras's logs can be reported."""

import re
from collections.abc import Mapping
from typing import Any

# What the service takes: names of metrics, and how many of them.
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_./-]{0,99}")
_MOST = 64


def reportable(logs: Mapping[str, Any], first: tuple[str, ...]) -> dict[str, float]:
    """The metrics the service takes, those the policy looks at first."""
    names = sorted(logs, key=lambda name: name not in first)
    metrics = {
        name: float(logs[name])
        for name in names
        if _NAME.fullmatch(name) and not name.startswith("learning_rate") and _is_number(logs[name])
    }
    return dict(list(metrics.items())[:_MOST])


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True
