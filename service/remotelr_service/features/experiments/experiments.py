"""Experiments: default policy, tags and limits of their runs."""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class ExperimentSettings:
    """The settings of an experiment.

    policy: for a new run without a policy. tags: for every new run; the run's own tags win.
    limits: for every run, running ones included.
    """

    policy: Policy | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    limits: Limits | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ExperimentPut:
    """The result of a PUT. limits_command: the id of the bulk command that sends the new limits to the runs."""

    experiment: Experiment
    is_new: bool
    limits_command: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ExperimentPage:
    """Experiments ordered by name. after: where the next page continues; None on the last page."""

    experiments: list[Experiment]
    after: str | None


async def put_experiment(
    writer: Writer, name: str, settings: ExperimentSettings, *, actor: str | None = None, reason: str | None = None
) -> ExperimentPut:
    """Create the experiment or replace its settings.

    For changed limits this stores a bulk command to the running runs. The bulk executor executes it.
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
        command_id = None if wanted.limits == known.limits else _add_limits_command(tx, wanted, actor, reason)
        return ExperimentPut(experiment=wanted, is_new=False, limits_command=command_id)

    return await writer.submit(action)


def get_experiment(engine: Engine, name: str) -> Experiment:
    """The experiment `name`. Raises ExperimentNotFound."""
    with reading(engine) as connection:
        found = experiments.find_experiment(connection, name)
    if found is None:
        raise ExperimentNotFound(name)
    return found


def list_experiments(engine: Engine, *, after: str | None = None, limit: int = 100) -> ExperimentPage:
    """Up to `limit` experiments after the name `after`, in order of name."""
    with reading(engine) as connection:
        found = experiments.list_experiments(connection, after=after, limit=limit + 1)
    shown = found[:limit]
    return ExperimentPage(experiments=shown, after=shown[-1].name if len(found) > limit else None)


def _add_limits_command(
    tx: WriteTransaction, experiment: Experiment, actor: str | None, reason: str | None
) -> int | None:
    """The id of a new bulk command with the limits to the running runs; None without a running run."""
    # Save first: a run that began an attempt in this transaction is running, too.
    tx.save()
    running = experiments.list_running(tx.connection, experiment.name)
    if not running:
        return None
    command = Command(type="limits", limits=Limits.from_json(experiment.limits))
    return bulk_commands.add_bulk(
        tx.writing(),
        key=None,
        selector={"experiment": experiment.name, "status": "running"},
        command=command_to_json(command),
        actor=actor,
        reason=reason,
        runs=running,
        at=tx.now,
    ).id
