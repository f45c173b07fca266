"""Creates, lists, tags, finishes and deletes runs."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from sqlalchemy import Engine

from remotelr import rules
from remotelr.rules import Decision, InvalidPolicy, Limits, Policy, RunSpec, policy_from_json
from remotelr.rules.run.model import FinalStatus, OnConflict, Run, Status
from remotelr_service.db.engine import reading
from remotelr_service.db.queries import experiments, runs
from remotelr_service.db.queries.events import get_stored_decision, list_decisions
from remotelr_service.db.queries.experiments import Experiment
from remotelr_service.db.queries.runs import StoredRun, get_stored_run
from remotelr_service.db.writer.expensive_runs import is_expensive
from remotelr_service.db.writer.transaction import WriteTransaction
from remotelr_service.db.writer.writer import Writer
from remotelr_service.errors import ExperimentConflict, TooManyTags
from remotelr_service.http.auth import audit

MAX_TAGS: Final = 32


# A spec without its policy: called with `policy=`, it gives the spec.
UnboundSpec = Callable[..., RunSpec]


@dataclass(frozen=True, slots=True)
class RunView:
    """A stored run, with the decision in force."""

    stored: StoredRun
    decision: Decision

    @property
    def run(self) -> Run:
        return self.stored.run


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPage:
    """Runs in order of key. after: the key from which the next page continues; None on the last page."""

    runs: Sequence[RunView]
    after: str | None


async def put_run(
    writer: Writer,
    key: str,
    spec: RunSpec | UnboundSpec,
    *,
    experiment: str | None = None,
    tags: Mapping[str, str] | None = None,
    on_conflict: OnConflict = "error",
    by: str | None = None,
) -> tuple[RunView, bool]:
    """Create the run, or get it, with another length if the request states one. Returns: the run, whether it is new.

    A new run gets its experiment's limits, missing tags and, with an UnboundSpec, policy. An existing run keeps its
    tags and, with an UnboundSpec, its policy.
    by: the caller's name, for the audit of a replaced policy.

    Raises PolicyConflict as `on_conflict` determines; ExperimentConflict if the run has another experiment;
    InvalidCommand if the limits forbid the new policy's rate; InvalidPolicy if there is no policy, or if it needs a
    value that the run does not set; TooManyTags.
    """

    def action(tx: WriteTransaction) -> tuple[RunView, bool]:
        stored = tx.find(key)
        if stored is None:
            created = _create(tx, key, spec, experiment, tags or {})
            return RunView(created, tx.decision(created)), True
        if experiment is not None and experiment != stored.experiment:
            raise ExperimentConflict(key, stored.experiment, experiment)
        # Without a policy, the request can still state another length.
        full = spec if isinstance(spec, RunSpec) else spec(policy=stored.run.spec.policy)
        # Only the experiment sets limits.
        wanted = replace(full, limits=stored.run.spec.limits)
        outcome = rules.put_policy(stored.run, wanted, on_conflict if full is spec else "keep")
        version = stored.run.policy_version
        stored = tx.append(stored, outcome)
        if outcome.event is not None and outcome.run.policy_version != version:
            audit.note(tx, "policy_set", key, {"seq": outcome.event.seq, "on_conflict": on_conflict}, by)
        return RunView(stored, tx.decision(stored)), False

    if not isinstance(spec, RunSpec):
        return await writer.submit(action, key)
    if is_expensive(spec.policy):
        # Binding tries the policy's formulas. In a thread first, since the rules remember the result.
        await asyncio.to_thread(spec.bound)
    return await writer.submit(action, key, policy=spec.policy)


def _create(
    tx: WriteTransaction, key: str, spec: RunSpec | UnboundSpec, experiment: str | None, tags: Mapping[str, str]
) -> StoredRun:
    known = None if experiment is None else experiments.lock_experiment(tx.connection, experiment, shared=True)
    merged = {**(known.tags if known else {}), **tags}
    if len(merged) > MAX_TAGS:
        raise TooManyTags(key, len(merged), MAX_TAGS)
    full = spec if isinstance(spec, RunSpec) else spec(policy=_default_policy(experiment, known))
    outcome = rules.create(key, replace(full, limits=Limits.from_json(known.limits if known else None)))
    if experiment is not None and known is None:
        added = Experiment(name=experiment, created_at=tx.now, updated_at=tx.now)
        experiments.add_experiment(tx.writing(), added)
    return tx.create(outcome, experiment=experiment, tags=merged)


def _default_policy(name: str | None, experiment: Experiment | None) -> Policy:
    if experiment is None or experiment.policy is None:
        raise InvalidPolicy(
            "a new run needs a policy: give one, or name an experiment that has one"
            if name is None
            else f"a new run needs a policy: give one, or set one for all runs of {name!r} by "
            f"PUT /v1/experiments/{name}"
        )
    return policy_from_json(experiment.policy)


def get_run(engine: Engine, key: str) -> RunView:
    """The run `key`. Raises RunNotFound."""
    with reading(engine) as connection:
        stored = get_stored_run(connection, key)
        return RunView(stored, get_stored_decision(connection, stored))


def list_runs(
    engine: Engine,
    *,
    experiment: str | None = None,
    status: Status | None = None,
    tag: tuple[str, str] | None = None,
    stalled: bool | None = None,
    after: str | None = None,
    limit: int = 100,
) -> RunPage:
    """Up to `limit` runs after the key `after`, in order of key.

    experiment, status, tag (name and value), stalled: filters; None means no filter.
    """
    with reading(engine) as connection:
        # One run more than the page tells whether there is a next page.
        stored_runs = runs.list_runs(
            connection, experiment=experiment, status=status, tag=tag, stalled=stalled, after=after, limit=limit + 1
        )
        shown = stored_runs[:limit]
        decisions = list_decisions(connection, shown)
    views = [RunView(stored, decisions[stored.id]) for stored in shown if stored.id in decisions]
    return RunPage(runs=views, after=shown[-1].run.key if len(stored_runs) > limit else None)


async def tag_run(writer: Writer, key: str, changes: Mapping[str, str | None]) -> RunView:
    """Change tags: a value sets a tag, None removes it, other tags stay. Returns: the changed run.

    Raises RunNotFound; TooManyTags above MAX_TAGS.
    """

    def action(tx: WriteTransaction) -> RunView:
        stored = tx.get(key)
        merged = {**stored.tags, **changes}
        tags = {name: value for name, value in merged.items() if value is not None}
        if len(tags) > MAX_TAGS:
            raise TooManyTags(key, len(tags), MAX_TAGS)
        stored = tx.tag(stored, tags)
        return RunView(stored, tx.decision(stored))

    return await writer.submit(action, key)


async def finish_run(writer: Writer, key: str, status: FinalStatus, last_seq: int | None = None) -> RunView:
    """Finish the run. A repeated call changes nothing. Returns: the finished run.

    Raises RunNotFound; RunFinished for another status; ServerBehind if `last_seq` is beyond the log.
    """

    def action(tx: WriteTransaction) -> RunView:
        stored = tx.get(key)
        after = tx.append(stored, rules.finish(stored.run, status, last_seq))
        return RunView(after, tx.decision(after))

    return await writer.submit(action, key)


async def delete_run(writer: Writer, key: str, *, by: str | None = None) -> None:
    """Delete the run and its events. The audit keeps its commands. Raises RunNotFound."""

    def action(tx: WriteTransaction) -> None:
        stored = tx.get(key)
        audit.note_deletion(tx, stored, by)
        tx.delete(stored)

    await writer.submit(action, key)
