"""Metrics on the wire and at rest. JSON has no NaN, so a value that is not finite goes by its name."""

import math
from collections.abc import Mapping

_NAMES = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


def metrics_to_json(metrics: Mapping[str, float]) -> dict[str, float | str]:
    """The metrics with NaN and the infinities as "nan", "inf" and "-inf"."""
    if all(map(math.isfinite, metrics.values())):
        return dict(metrics)
    return {name: number_to_json(value) for name, value in metrics.items()}


def metrics_from_json(document: Mapping[str, float | str]) -> dict[str, float]:
    """The inverse of `metrics_to_json`. Raises KeyError for any other string."""
    return {name: number_from_json(value) for name, value in document.items()}


def same_metrics(one: Mapping[str, float], other: Mapping[str, float]) -> bool:
    """Equal name by name; two NaN are the same value here, unlike in arithmetic."""
    return metrics_to_json(one) == metrics_to_json(other)


def number_to_json(value: float) -> float | str:
    """The number itself, or the name of one that is not finite."""
    if math.isfinite(value):
        return value
    if math.isnan(value):
        return "nan"
    return "inf" if value > 0 else "-inf"


def number_from_json(document: float | str) -> float:
    """The inverse of `number_to_json`. Raises KeyError for any other string."""
    return _NAMES[document] if isinstance(document, str) else float(document)
