"""How the reports of several ranks about one epoch become one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import fsum, isfinite, isnan, nan
from typing import Literal

from remotelr.rules.errors import InvalidPolicy
from remotelr.rules.values.fields import Count, Seconds, check_fields
from remotelr.rules.values.floats import clamp


@dataclass(frozen=True, slots=True, kw_only=True)
class Aggregate:
    """Which ranks have a say in a decision, and what becomes of their values.

    ranks: "rank0": its report alone decides, for all ranks. "all": every rank must report.
        "quorum": the first `quorum` of them decide.
    reduction: what the values of one metric become; in JSON the field is `reduce`. The mean is weighted with
        the reports' weights (samples), for shards are seldom equal.
    quorum: how many ranks, with "quorum" and only with it.
    timeout_s: seconds from a point's first report on for which missing ranks are waited for; None is for ever.
    on_timeout: "proceed": the ranks that are there decide. "hold": the point is left out; a plateau stays as it
        is, and so does its rate, while a schedule of time alone goes on.
    """

    ranks: Literal["rank0", "all", "quorum"] = "rank0"
    reduction: Literal["weighted_mean", "mean", "min", "max", "median"] = field(
        default="weighted_mean", metadata={"name": "reduce"}
    )
    quorum: Count | None = None
    timeout_s: Seconds | None = None
    on_timeout: Literal["proceed", "hold"] = "proceed"

    def __post_init__(self) -> None:
        check_fields(self)
        if self.ranks == "quorum" and self.quorum is None:
            raise InvalidPolicy('is missing: how many ranks decide with ranks "quorum"', "quorum")
        if self.ranks != "quorum" and self.quorum is not None:
            raise InvalidPolicy(f'goes with ranks "quorum", not "{self.ranks}"', "quorum")

    def needed(self, world_size: int) -> int:
        """How many reports decide a point of a run with `world_size` ranks."""
        if self.ranks == "rank0":
            return 1
        return world_size if self.quorum is None else min(self.quorum, world_size)

    def reduce(self, reports: Mapping[int, tuple[Mapping[str, float], float]]) -> dict[str, float]:
        """One value for each metric, over the ranks that measured it.

        reports: rank to its metrics and its weight (> 0; only ratios matter).

        Taken in order of rank and summed exactly, so the order of arrival changes nothing. A NaN gives NaN.
        """
        in_order = [reports[rank] for rank in sorted(reports)]
        names = dict.fromkeys(name for metrics, _ in in_order for name in metrics)
        return {
            name: self._reduced([(metrics[name], weight) for metrics, weight in in_order if name in metrics])
            for name in names
        }

    def _reduced(self, weighted: Sequence[tuple[float, float]]) -> float:
        values = [value for value, _ in weighted]
        if any(isnan(value) for value in values):
            # min and max would let the order decide.
            return nan
        match self.reduction:
            case "min":
                return min(values)
            case "max":
                return max(values)
            case "median":
                return _median(sorted(values))
            case "mean":
                return _mean([(value, 1.0) for value in values])
            case "weighted_mean":
                return _mean(weighted)


def _mean(weighted: Sequence[tuple[float, float]]) -> float:
    infinite = {value for value, _ in weighted if not isfinite(value)}
    if infinite:
        return infinite.pop() if len(infinite) == 1 else nan
    values = [value for value, _ in weighted]
    # Rounding or an overflow may move it out of the range of the values.
    return clamp(_unclamped_mean(weighted), min(values), max(values))


def _unclamped_mean(weighted: Sequence[tuple[float, float]]) -> float:
    """The sum over the sum of the weights; by shares where a sum leaves the floats."""
    try:
        mean = fsum(value * weight for value, weight in weighted) / fsum(weight for _, weight in weighted)
    except (OverflowError, ValueError):
        mean = nan
    if isfinite(mean):
        return mean
    heaviest = max(weight for _, weight in weighted)
    total = fsum(weight / heaviest for _, weight in weighted)
    return fsum(value / 2 * (weight / heaviest / total) for value, weight in weighted) * 2


def _median(values: Sequence[float]) -> float:
    middle = len(values) // 2
    if len(values) % 2:
        return values[middle]
    return clamp(values[middle - 1] / 2 + values[middle] / 2, values[middle - 1], values[middle])
