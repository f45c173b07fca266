"""Bulk commands: one stored command, with a result for each selected run.

    create_bulk     selects the runs and stores the command in one row
    execute_bulk    executes the command run by run, in chunks: each transaction stores the runs' events and results
    finished        every run has a result

After a crash, another process or a retry executes the runs that have no result yet. A run with a result is not changed
again. Pauses between the chunks leave the writer to other actions.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final, TypeVar
from uuid import uuid4

from sqlalchemy import Connection, Engine

from remotelr import rules
from remotelr.rules import (
    Command,
    Event,
    InvalidCommand,
    Limits,
    Outcome,
    RulesError,
    command_from_json,
    command_to_json,
)
from remotelr_service.db.engine import reading, run_query
from remotelr_service.db.queries import bulk_commands, experiments
from remotelr_service.db.queries.bulk_commands import BulkCommand, BulkResult, Progress
from remotelr_service.db.queries.runs import get_stored_run
from remotelr_service.db.writer.event_log import EventLog
from remotelr_service.db.writer.transaction import WriteTransaction
from remotelr_service.db.writer.writer import Writer
from remotelr_service.errors import CommandNotFound, RunBusy, ServiceError
from remotelr_service.features.bulk.selector import Selector, select_runs
from remotelr_service.features.training.override_expiry import expire_overrides

T = TypeVar("T")

log = logging.getLogger(__name__)

# The number of runs in one transaction, and its seconds, since an expensive policy takes longer. They bound the time
# that reports wait.
CHUNK: Final = 20
CHUNK_S: Final = 0.05
# The fraction of the time that is left to other actions.
REST: Final = 0.5
# Attempts and pause for a run that another replica has locked, or for an unavailable database.
TRIES: Final = 10
PAUSE_S: Final = 0.2

_INTERNAL_ERROR = ("internal_error", "the service failed for this run; see its log")


@dataclass(frozen=True, slots=True, kw_only=True)
class BulkView:
    """A bulk command and its progress. results: one page of them, in order. more: whether there are further results."""

    bulk: BulkCommand
    progress: Progress
    results: Sequence[BulkResult]
    more: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class DryRun:
    """The effect of a bulk command without executing it. count: the selected runs. results: a page, without `seq`."""

    selector: Selector
    command: Command
    count: int
    results: Sequence[BulkResult]
    more: bool


async def create_bulk(writer: Writer, engine: Engine, selector: Selector, command: Command) -> tuple[BulkCommand, bool]:
    """Store the command. A known key is the same command.

    Returns: the stored command, and whether it was stored before. Raises InvalidCommand for a key that belongs to
    another command; TooManyRuns.
    """
    # The writer may run an action twice. Without a key, that could store two commands.
    name = command.key or uuid4().hex
    document, selected = command_to_json(replace(command, actor=None, reason=None)), selector.to_json()

    def find_known(connection: Connection) -> BulkCommand | None:
        found = bulk_commands.find_keyed_bulk(connection, name)
        if found is not None and (found.selector, found.command) != (selected, document):
            raise InvalidCommand(f"the key {name!r} belongs to another command; use another key", field="key")
        return found

    def select() -> tuple[BulkCommand | None, list[str]]:
        with reading(engine) as connection:
            found = find_known(connection)
        return found, [] if found else select_runs(engine, selector)

    def action(tx: WriteTransaction) -> tuple[BulkCommand, bool]:
        found = find_known(tx.connection)
        if found is not None:
            return found, True
        added = bulk_commands.add_bulk(
            tx.writing(),
            key=name,
            selector=selected,
            command=document,
            actor=command.actor,
            reason=command.reason,
            runs=chosen,
            at=tx.now,
        )
        return added, False

    # The selection may read many rows: it runs outside the writer.
    found, chosen = await asyncio.to_thread(select)
    return (found, True) if found else await writer.submit(action)


async def execute_bulk(writer: Writer, engine: Engine, bulk_id: int) -> None:
    """Execute the command for the runs without a result. Concurrent calls are safe.

    Raises DatabaseUnavailable or Overloaded if retries fail; then the remaining runs have no result.
    """
    bulk = await run_query(engine, partial(_get_bulk, bulk_id=bulk_id))
    if bulk.finished_at is not None:
        return
    done = await run_query(engine, partial(bulk_commands.list_places, bulk_id=bulk_id))
    remaining = [place for place in range(len(bulk.runs)) if place not in done]
    for begin in range(0, len(remaining), CHUNK):
        began = asyncio.get_running_loop().time()
        await _execute_places(writer, bulk, remaining[begin : begin + CHUNK])
        took_s = asyncio.get_running_loop().time() - began
        await asyncio.sleep(took_s * REST / (1 - REST))
    await _with_retries(writer, lambda tx: bulk_commands.mark_finished(tx.writing(), bulk_id, tx.now))


def dry_run(engine: Engine, selector: Selector, command: Command, *, after: int = -1, limit: int = 100) -> DryRun:
    """The effect that the command would have on each selected run now.

    after, limit: the page of the list, by 0-based place. Raises TooManyRuns.
    """
    chosen = select_runs(engine, selector)
    places = range(after + 1, min(after + 1 + limit, len(chosen)))
    return DryRun(
        selector=selector,
        command=command,
        count=len(chosen),
        results=[_dry_run_one(engine, place, chosen[place], command) for place in places],
        more=after + 1 + limit < len(chosen),
    )


def get_bulk(engine: Engine, bulk_id: int, *, after: int = -1, limit: int = 100, only_failed: bool = False) -> BulkView:
    """The command, and up to `limit` of its results after the place `after`. Raises CommandNotFound."""
    with reading(engine) as connection:
        bulk = _get_bulk(connection, bulk_id)
        found = bulk_commands.list_results(connection, bulk_id, after=after, limit=limit + 1, only_failed=only_failed)
        progress = bulk_commands.progress(connection, bulk_id)
    return BulkView(bulk=bulk, progress=progress, results=found[:limit], more=len(found) > limit)


async def _execute_places(writer: Writer, bulk: BulkCommand, places: Sequence[int]) -> None:
    """Execute the command for these runs in one transaction. If that fails, use one transaction for each run."""
    keys = [bulk.runs[place] for place in places]
    try:
        while places:
            done = await _with_retries(writer, partial(_execute_chunk, bulk=bulk, places=places), *keys)
            places, keys = places[done:], keys[done:]
    except ServiceError as error:
        # RunBusy concerns one run. Any other ServiceError concerns the service: stop here.
        if not isinstance(error, RunBusy):
            raise
        await _execute_separately(writer, bulk, places, error.code, error.message)
    except Exception:
        log.exception("the bulk command fails for one of the runs", extra={"bulk": bulk.id, "runs": keys})
        await _execute_separately(writer, bulk, places, *_INTERNAL_ERROR)


async def _execute_separately(writer: Writer, bulk: BulkCommand, places: Sequence[int], code: str, detail: str) -> None:
    if len(places) == 1:
        result = _failed(places[0], bulk.runs[places[0]], code, detail)
        await _with_retries(writer, lambda tx: _add_results(tx, bulk, [result]))
        return
    for place in places:
        await _execute_places(writer, bulk, [place])


async def _with_retries(writer: Writer, action: Callable[[WriteTransaction], T], *keys: str) -> T:
    for remaining in reversed(range(TRIES)):
        try:
            return await writer.submit(action, *keys)
        except RunBusy:
            if len(keys) > 1 or not remaining:
                raise
        except ServiceError as error:
            if error.retry_after_s is None or not remaining:
                raise
        await asyncio.sleep(PAUSE_S)
    raise AssertionError("the last attempt returns or raises")


def _execute_chunk(tx: WriteTransaction, *, bulk: BulkCommand, places: Sequence[int]) -> int:
    """Execute the command for these runs until `CHUNK_S` has passed. Returns how many of them have a result now."""
    existing = bulk_commands.list_places(tx.connection, bulk.id, min(places), max(places))
    command, results, done = _current(tx, bulk), [], 0
    ends_at = time.monotonic() + CHUNK_S
    for place in places:
        if place not in existing:
            results.append(_apply(tx, bulk, command, place))
        done += 1
        if time.monotonic() > ends_at:
            break
    _add_results(tx, bulk, results)
    return done


def _add_results(tx: WriteTransaction, bulk: BulkCommand, results: Sequence[BulkResult]) -> None:
    bulk_commands.add_results(tx.writing(), bulk.id, results)
    bulk_commands.mark_worked(tx.writing(), bulk.id, tx.now)


def _current(tx: WriteTransaction, bulk: BulkCommand) -> Command:
    """The command to execute. A limits command uses the experiment's current limits, so that an old one cannot win."""
    command = replace(command_from_json(bulk.command), actor=bulk.actor, reason=bulk.reason)
    if command.type != "limits":
        return command
    experiment = experiments.find_experiment(tx.connection, bulk.selector["experiment"])
    return replace(command, limits=Limits.from_json(experiment.limits if experiment else None))


def _apply(tx: WriteTransaction, bulk: BulkCommand, command: Command, place: int) -> BulkResult:
    key = bulk.runs[place]
    try:
        stored = expire_overrides(tx, tx.get(key))
        outcome = rules.command(stored.run, command, tx.log(key))
    except (RulesError, ServiceError) as error:
        return _failed(place, key, error.code, error.message)
    except Exception:
        # A bug that concerns one run must not stop the others.
        log.exception("the bulk command fails for the run", extra={"bulk": bulk.id, "run": key})
        return _failed(place, key, *_INTERNAL_ERROR)
    # Callers cannot send a key with '/'. This one links the run's event to the bulk command.
    event = replace(_event(outcome), key=f"bulk/{bulk.id}")
    tx.append(stored, replace(outcome, event=event))
    return _result(place, key, event)


def _dry_run_one(engine: Engine, place: int, key: str, command: Command) -> BulkResult:
    with reading(engine) as connection:
        try:
            stored = get_stored_run(connection, key)
            outcome = rules.command(stored.run, replace(command, key=None), EventLog(connection, stored))
        except (RulesError, ServiceError) as error:
            return _failed(place, key, error.code, error.message)
    return replace(_result(place, key, _event(outcome)), seq=None, status=stored.run.status)


def _event(outcome: Outcome) -> Event:
    assert outcome.event is not None, "a command without a key has a new event"
    return outcome.event


def _result(place: int, key: str, event: Event) -> BulkResult:
    return BulkResult(
        place=place,
        run=key,
        seq=event.seq,
        effective_from=event.effective_from,
        rate_before=event.notes.get("before"),
        rate_after=event.notes.get("after"),
    )


def _failed(place: int, key: str, code: str, detail: str) -> BulkResult:
    return BulkResult(place=place, run=key, code=code, detail=detail)


def _get_bulk(connection: Connection, bulk_id: int) -> BulkCommand:
    bulk = bulk_commands.find_bulk(connection, bulk_id)
    if bulk is None:
        raise CommandNotFound(f"there is no bulk command {bulk_id}", id=bulk_id)
    return bulk
