"""Metrics of closed-loop nodes: their direction, and the treatment of NaN."""

from math import isfinite
from typing import Annotated, Literal

from remotelr.rules.errors import InvalidPolicy, InvalidReport
from remotelr.rules.values.fields import Range
from remotelr.rules.values.metrics import number_to_json

Mode = Literal["auto", "min", "max"]
NanPolicy = Literal["bad", "skip", "error", "library"]

Reports = Annotated[int, Range(least=0, most=10**9)]
# How much better is better.
Margin = Annotated[float, Range(least=0, most=1e12)]

# Endings of metric names with an undisputed direction.
_LOWER_IS_BETTER = ("loss", "mae", "mse", "mean_absolute_error", "mean_squared_error")
_HIGHER_IS_BETTER = ("acc", "accuracy", "auc", "r2_score")


def resolve_mode(mode: Mode, monitor: str) -> Literal["min", "max"]:
    """The mode, with "auto" resolved from the metric's name.

    Only names with an undisputed direction resolve (`val_loss`, `head_accuracy`, `val_auc`), because the service does
    not have the metric object. Raises InvalidPolicy.
    """
    if mode != "auto":
        return mode
    if _ends_in(monitor, _LOWER_IS_BETTER):
        return "min"
    if _ends_in(monitor, _HIGHER_IS_BETTER):
        return "max"
    raise InvalidPolicy(f'the direction of "{monitor}" is unknown; set mode to "min" or "max"', "mode")


def _ends_in(monitor: str, endings: tuple[str, ...]) -> bool:
    return any(monitor == ending or monitor.endswith(f"_{ending}") for ending in endings)


def is_counted(value: float, monitor: str, nan_policy: NanPolicy) -> bool:
    """Whether a reported value is evaluated. Raises InvalidReport if nan_policy is "error" and it is not finite."""
    if isfinite(value) or nan_policy in ("bad", "library"):
        return True
    if nan_policy == "skip":
        return False
    name = number_to_json(value)
    raise InvalidReport(
        f"{monitor} is {name}, which this policy refuses: begin an attempt at an earlier epoch, or give the policy "
        f'nan_policy "bad" or "skip"',
        metric=monitor,
        value=name,
    )
