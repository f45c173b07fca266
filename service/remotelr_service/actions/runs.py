"""Runs: create or get, list, tag, finish, delete."""

from collections.abc import Mapping
from typing import Final

from sqlalchemy import Engine

from remotelr import rules
from remotelr.rules import RunSpec
from remotelr.rules.run import FinalStatus, OnConflict, Status
from remotelr_service.actions.errors import ExperimentConflict, TooManyTags
from remotelr_service.actions.finding import locked_run, stored_decision, stored_run
from remotelr_service.actions.views import Page, RunView, view_of
from remotelr_service.db import store
from remotelr_service.db.engine import reading
from remotelr_service.db.group import Group
from remotelr_service.db.writer import Writer

MAX_TAGS: Final = 32


async def put_run(
    writer: Writer,
    key: str,
    spec: RunSpec,
    *,
    experiment: str | None = None,
    tags: Mapping[str, str] | None = None,
    on_conflict: OnConflict = "error",
) -> tuple[RunView, bool]:
    """The run `key`, and whether it is new. The tags of a run that exists stay as they are.

    Raises PolicyConflict as `on_conflict` says, ExperimentConflict when the run is in another
    experiment than the given one, InvalidPolicy when the policy lacks what the run does not give.
    """

    def action(group: Group) -> tuple[RunView, bool]:
        head = group.find(key)
        if head is None:
            created = group.create(rules.create(key, spec), experiment=experiment, tags=tags or {})
            return view_of(created, group.decision(created)), True
        if experiment is not None and experiment != head.experiment:
            raise ExperimentConflict(key, head.experiment, experiment)
        after = group.append(head, rules.put_policy(head.run, spec, on_conflict))
        return view_of(after, group.decision(after)), False

    return await writer.submit(action, key)


def get_run(engine: Engine, key: str) -> RunView:
    """The run `key`. Raises RunNotFound."""
    with reading(engine) as connection:
        head = stored_run(connection, key)
        return view_of(head, stored_decision(connection, head))


def list_runs(
    engine: Engine,
    *,
    experiment: str | None = None,
    status: Status | None = None,
    tag: tuple[str, str] | None = None,
    after: str | None = None,
    limit: int = 100,
) -> Page:
    """Up to `limit` runs in order of key, from the first one behind `after` on.

    experiment, status, tag (name and value): only the runs that have it.
    """
    with reading(engine) as connection:
        # One more than asked for tells whether there is a next page.
        heads = store.list_heads(
            connection, experiment=experiment, status=status, tag=tag, after=after, limit=limit + 1
        )
        shown = heads[:limit]
        decisions = store.list_decisions(connection, shown)
    views = [view_of(head, decisions[head.id]) for head in shown if head.id in decisions]
    return Page(runs=views, after=shown[-1].run.key if len(heads) > limit else None)


async def tag_run(writer: Writer, key: str, changes: Mapping[str, str | None]) -> RunView:
    """The run with its tags changed: a value sets a tag, None removes it, all others stay.

    Raises RunNotFound, and TooManyTags where the run would then have more than it may.
    """

    def action(group: Group) -> RunView:
        head = locked_run(group, key)
        merged = {**head.tags, **changes}
        tags = {name: value for name, value in merged.items() if value is not None}
        if len(tags) > MAX_TAGS:
            raise TooManyTags(key, len(tags), MAX_TAGS)
        head = group.tag(head, tags)
        return view_of(head, group.decision(head))

    return await writer.submit(action, key)


async def finish_run(writer: Writer, key: str, status: FinalStatus) -> RunView:
    """The run at its end; the same end again changes nothing. Raises RunNotFound, RunFinished for another end."""

    def action(group: Group) -> RunView:
        head = locked_run(group, key)
        after = group.append(head, rules.finish(head.run, status))
        return view_of(after, group.decision(after))

    return await writer.submit(action, key)


async def delete_run(writer: Writer, key: str) -> None:
    """The run and its events are gone. Raises RunNotFound."""
    await writer.submit(lambda group: group.delete(locked_run(group, key)), key)
