"""The queries of experiments. As in `store.py`, each takes a connection inside somebody else's transaction."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, insert, select, update

from remotelr_service.db.rows import Row, from_text, to_text
from remotelr_service.db.tables import experiments, runs


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """A named group of runs, and what its runs begin with.

    policy: of a run that is created without one, in canonical form; None when there is no such default.
    limits: within which rates and commands of its runs stay; None when there are none.
    """

    name: str
    policy: Mapping[str, Any] | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    limits: Mapping[str, Any] | None = None
    created_at: datetime
    updated_at: datetime


def find_experiment(connection: Connection, name: str) -> Experiment | None:
    row = connection.execute(select(experiments).where(experiments.c.name == name)).mappings().one_or_none()
    return None if row is None else _experiment(row)


def lock_experiment(connection: Connection, name: str, *, shared: bool = False) -> Experiment | None:
    """The experiment, as it stays until the transaction ends.

    shared: others may lock it like this at the same time, and nobody may change it: so a run that is created
    with its limits is there before whoever changes them looks for the runs to tell.
    """
    query = select(experiments).where(experiments.c.name == name).with_for_update(read=shared)
    row = connection.execute(query).mappings().one_or_none()
    return None if row is None else _experiment(row)


def list_experiments(connection: Connection, *, after: str | None, limit: int) -> list[Experiment]:
    """Up to `limit` experiments in order of name, from the first one behind `after` on."""
    query = select(experiments).order_by(experiments.c.name).limit(limit)
    if after is not None:
        query = query.where(experiments.c.name > after)
    return [_experiment(row) for row in connection.execute(query).mappings()]


def add_experiment(connection: Connection, experiment: Experiment) -> None:
    """Raises IntegrityError when another transaction has just added it."""
    row = {"name": experiment.name, "created_at": experiment.created_at, **_settings(experiment)}
    connection.execute(insert(experiments), row)


def save_experiment(connection: Connection, experiment: Experiment) -> None:
    """Store what is set for an experiment that is there."""
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


def _experiment(row: Row) -> Experiment:
    return Experiment(
        name=row["name"],
        policy=None if row["policy"] is None else from_text(row["policy"]),
        tags=from_text(row["tags"]),
        limits=None if row["limits"] is None else from_text(row["limits"]),
        created_at=row["created_at"],
        updated_at=row["updated_at"],
    )
