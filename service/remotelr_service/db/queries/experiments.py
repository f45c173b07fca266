"""Queries on experiments. The caller owns the transaction; no query commits."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Select, insert, select, update

from remotelr_service.db.rows import Row, from_text, to_text
from remotelr_service.db.tables import experiments, runs


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """A named group of runs with defaults.

    policy: the default policy of a new run, in canonical form, or None. tags: the default tags.
    limits: the limits of all rates and commands of its runs, or None.
    """

    name: str
    policy: Mapping[str, Any] | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    limits: Mapping[str, Any] | None = None
    created_at: datetime
    updated_at: datetime


def find_experiment(connection: Connection, name: str) -> Experiment | None:
    return _find(connection, select(experiments).where(experiments.c.name == name))


def lock_experiment(connection: Connection, name: str, *, shared: bool = False) -> Experiment | None:
    """Lock the experiment until the transaction ends.

    shared: other transactions may take this lock too, but none may change the experiment. So a run that is created
    with its limits is committed before a change of the limits lists the runs.
    """
    return _find(connection, select(experiments).where(experiments.c.name == name).with_for_update(read=shared))


def list_experiments(connection: Connection, *, after: str | None, limit: int) -> list[Experiment]:
    """Up to `limit` experiments with names above `after`, in order of name."""
    query = select(experiments).order_by(experiments.c.name).limit(limit)
    if after is not None:
        query = query.where(experiments.c.name > after)
    return [_experiment(row) for row in connection.execute(query).mappings()]


def add_experiment(connection: Connection, experiment: Experiment) -> None:
    """Insert an experiment. Raises IntegrityError if another transaction has just added it."""
    row = {"name": experiment.name, "created_at": experiment.created_at, **_settings(experiment)}
    connection.execute(insert(experiments), row)


def save_experiment(connection: Connection, experiment: Experiment) -> None:
    """Update an existing experiment."""
    connection.execute(update(experiments).where(experiments.c.name == experiment.name).values(**_settings(experiment)))


def list_running(connection: Connection, experiment: str) -> list[str]:
    """The keys of all running runs of the experiment, in order."""
    query = select(runs.c.key).where(runs.c.experiment == experiment, runs.c.status == "running")
    return list(connection.execute(query.order_by(runs.c.key)).scalars())


def _settings(experiment: Experiment) -> dict[str, Any]:
    return {
        "policy": None if experiment.policy is None else to_text(experiment.policy),
        "tags": to_text(dict(experiment.tags)),
        "limits": None if experiment.limits is None else to_text(experiment.limits),
        "updated_at": experiment.updated_at,
    }


def _find(connection: Connection, query: Select[Any]) -> Experiment | None:
    row = connection.execute(query).mappings().one_or_none()
    return None if row is None else _experiment(row)


def _experiment(row: Row) -> Experiment:
    documents = ("policy", "tags", "limits")
    return Experiment(**{k: from_text(v) if k in documents and v is not None else v for k, v in row.items()})
