"""Experiments: what the runs of a named group begin with, and the limits none of them leaves."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from sqlalchemy import Engine

from remotelr.rules import Command, Limits, Policy, command_to_json, policy_to_json
from remotelr_service.db.engine import reading
from remotelr_service.db.queries import bulk_commands, experiments
from remotelr_service.db.queries.experiments import Experiment
from remotelr_service.db.writer.transaction import WriteTransaction
from remotelr_service.db.writer.writer import Writer
from remotelr_service.errors import ExperimentNotFound

__all__ = [
    "Experiment",
    "ExperimentPage",
    "ExperimentPut",
    "ExperimentSettings",
    "get_experiment",
    "list_experiments",
    "put_experiment",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExperimentSettings:
    """What is set for an experiment.

    policy: of a run that is created without one. tags: of every new run, unless it has others of these names.
    limits: of every run, also of those that run already.
    """

    policy: Policy | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    limits: Limits | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ExperimentPut:
    """What came of setting an experiment. limits_command: the bulk command that takes the new limits to its runs."""

    experiment: Experiment
    is_new: bool
    limits_command: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ExperimentPage:
    """Some experiments in order of name. after: what to ask for the next page with; None on the last."""

    experiments: list[Experiment]
    after: str | None


async def put_experiment(
    writer: Writer, name: str, settings: ExperimentSettings, *, actor: str | None = None, reason: str | None = None
) -> ExperimentPut:
    """The experiment with these settings in the place of those it had.

    Other limits go to each of its running runs by a bulk command, which is noted here and yet to be carried out.
    """

    def action(tx: WriteTransaction) -> ExperimentPut:
        known = experiments.lock_experiment(tx.connection, name)
        wanted = Experiment(
            name=name,
            policy=None if settings.policy is None else policy_to_json(settings.policy),
            tags=dict(settings.tags),
            limits=None if settings.limits is None else settings.limits.to_json() or None,
            created_at=tx.now if known is None else known.created_at,
            updated_at=tx.now,
        )
        if known is None:
            experiments.add_experiment(tx.writing(), wanted)
            return ExperimentPut(experiment=wanted, is_new=True, limits_command=None)
        if wanted == replace(known, updated_at=tx.now):
            return ExperimentPut(experiment=known, is_new=False, limits_command=None)
        experiments.save_experiment(tx.writing(), wanted)
        told = None if wanted.limits == known.limits else _tell(tx, wanted, actor, reason)
        return ExperimentPut(experiment=wanted, is_new=False, limits_command=told)

    return await writer.submit(action)


def get_experiment(engine: Engine, name: str) -> Experiment:
    """Raises ExperimentNotFound."""
    with reading(engine) as connection:
        found = experiments.find_experiment(connection, name)
    if found is None:
        raise ExperimentNotFound(name)
    return found


def list_experiments(engine: Engine, *, after: str | None = None, limit: int = 100) -> ExperimentPage:
    """Up to `limit` experiments in order of name, from the first one behind `after` on."""
    with reading(engine) as connection:
        found = experiments.list_experiments(connection, after=after, limit=limit + 1)
    shown = found[:limit]
    return ExperimentPage(experiments=shown, after=shown[-1].name if len(found) > limit else None)


def _tell(tx: WriteTransaction, experiment: Experiment, actor: str | None, reason: str | None) -> int | None:
    """Note the command that takes the experiment's limits to its running runs; None when none is running."""
    # A run that begins again in the same transaction is running too.
    tx.save()
    running = experiments.list_running(tx.connection, experiment.name)
    if not running:
        return None
    order = Command(type="limits", limits=Limits.from_json(experiment.limits))
    return bulk_commands.add_bulk(
        tx.writing(),
        key=None,
        selector={"experiment": experiment.name, "status": "running"},
        command=command_to_json(order),
        actor=actor,
        reason=reason,
        runs=running,
        at=tx.now,
    ).id
