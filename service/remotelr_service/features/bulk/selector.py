"""Which runs a bulk command is for."""

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

# How many runs one look at the database is for: nobody who writes waits for longer.
_PAGE = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """What a metric has to be. finite: False asks for "nan" and infinities."""

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
    """The runs for which all of this holds; what is not given holds for every run.

    runs: only these keys. One that is no run's is selected too, so that somebody is told.
    metrics: what the run last reported; one that did not measure it is not selected.
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
    """The keys of the runs, in order. Raises TooManyRuns for more than a bulk command takes."""
    found: list[str] = []
    for keys in _named(engine, selector) if selector.runs is not None else _pages(engine, selector):
        found += keys if not selector.metrics else _measured(engine, selector, keys)
        if len(found) > MAX_RUNS:
            raise TooManyRuns(
                f"more than {MAX_RUNS} runs are selected, which one command does not take: "
                f"select by experiment, tags or status, and order it to one part after the other",
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


def _named(engine: Engine, selector: Selector) -> Iterator[list[str]]:
    assert selector.runs is not None
    wanted = sorted(set(selector.runs))
    for begin in range(0, len(wanted), _PAGE):
        keys = wanted[begin : begin + _PAGE]
        with reading(engine) as connection:
            there = selection.list_keys_among(
                connection, keys, experiment=selector.experiment, status=selector.status, tags=selector.tags
            )
            there |= selection.list_unknown(connection, keys)
        yield [key for key in keys if key in there]


def _measured(engine: Engine, selector: Selector, keys: list[str]) -> list[str]:
    with reading(engine) as connection:
        last = selection.last_metrics(connection, keys)
    return [key for key in keys if key in last and _holds(selector, last[key])]


def _holds(selector: Selector, metrics: Mapping[str, float]) -> bool:
    return all(name in metrics and bound.holds(metrics[name]) for name, bound in selector.metrics.items())
