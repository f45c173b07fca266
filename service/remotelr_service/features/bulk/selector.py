"""Selects the runs of a bulk command."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy import Engine

from remotelr.rules.run.model import Status
from remotelr_service.db.engine import reading
from remotelr_service.db.queries import selection
from remotelr_service.errors import TooManyRuns

MAX_RUNS: Final = 100_000

# The number of runs in one query. It bounds the time that the database is read at once.
_PAGE = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """Conditions on one metric. finite: False selects NaN and infinite values."""

    gt: float | None = None
    ge: float | None = None
    lt: float | None = None
    le: float | None = None
    finite: bool | None = None

    def holds(self, value: float) -> bool:
        return (
            (self.gt is None or value > self.gt)
            and (self.ge is None or value >= self.ge)
            and (self.lt is None or value < self.lt)
            and (self.le is None or value <= self.le)
            and (self.finite is None or math.isfinite(value) == self.finite)
        )

    def to_json(self) -> dict[str, Any]:
        members = {"gt": self.gt, "ge": self.ge, "lt": self.lt, "le": self.le, "finite": self.finite}
        return {name: value for name, value in members.items() if value is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class Selector:
    """Conditions that a selected run meets. An absent condition is met by every run.

    runs: these keys. A key without a run is selected too, so that its result shows the error.
    metrics: conditions on the last report. A run that did not report the metric is not selected.
    """

    experiment: str | None = None
    status: Status | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    runs: Sequence[str] | None = None
    metrics: Mapping[str, Bound] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        members = {
            "experiment": self.experiment,
            "status": self.status,
            "tags": dict(self.tags) or None,
            "runs": None if self.runs is None else list(self.runs),
            "metrics": {name: bound.to_json() for name, bound in self.metrics.items()} or None,
        }
        return {name: value for name, value in members.items() if value is not None}


def select_runs(engine: Engine, selector: Selector) -> list[str]:
    """The keys of the selected runs, in order. Raises TooManyRuns above MAX_RUNS."""
    found: list[str] = []
    for keys in _pages_of_keys(engine, selector) if selector.runs is not None else _pages(engine, selector):
        found += keys if not selector.metrics else _measured(engine, selector, keys)
        if len(found) > MAX_RUNS:
            raise TooManyRuns(
                f"a bulk command must select at most {MAX_RUNS} runs: "
                f"select by experiment, tags or status, and send several commands",
                limit=MAX_RUNS,
            )
    return found


def _pages(engine: Engine, selector: Selector) -> Iterator[list[str]]:
    after: str | None = None
    while True:
        with reading(engine) as connection:
            keys = selection.list_keys(
                connection,
                experiment=selector.experiment,
                status=selector.status,
                tags=selector.tags,
                after=after,
                limit=_PAGE,
            )
        yield keys
        if len(keys) < _PAGE:
            return
        after = keys[-1]


def _pages_of_keys(engine: Engine, selector: Selector) -> Iterator[list[str]]:
    assert selector.runs is not None
    wanted = sorted(set(selector.runs))
    for begin in range(0, len(wanted), _PAGE):
        keys = wanted[begin : begin + _PAGE]
        with reading(engine) as connection:
            known = selection.list_keys_among(
                connection, keys, experiment=selector.experiment, status=selector.status, tags=selector.tags
            )
            known |= selection.list_unknown(connection, keys)
        yield [key for key in keys if key in known]


def _measured(engine: Engine, selector: Selector, keys: list[str]) -> list[str]:
    with reading(engine) as connection:
        last = selection.last_metrics(connection, keys)
    return [key for key in keys if key in last and _holds(selector, last[key])]


def _holds(selector: Selector, metrics: Mapping[str, float]) -> bool:
    return all(name in metrics and bound.holds(metrics[name]) for name, bound in selector.metrics.items())
