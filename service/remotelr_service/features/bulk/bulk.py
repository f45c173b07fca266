"""Commands to many runs: one parent, and a child for each run, which fails alone if it fails.

    order_bulk    the runs are chosen and noted with the command, in one row: from here on it will be done
    carry_out     run after run, some of them in one transaction: the run's event, and the row that says what came of it
    finished      all have such a row

Who dies on the way leaves rows for exactly what was done. Whoever goes on, another process or the same order sent
again, does the rest: a run that has its row is not touched again. Between two transactions others have their turn.
"""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final
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
from remotelr_service.db.engine import reading
from remotelr_service.db.queries import bulk_commands, experiments
from remotelr_service.db.queries.bulk_commands import BulkCommand, BulkResult, Progress
from remotelr_service.db.queries.runs import get_stored_run
from remotelr_service.db.writer.event_log import EventLog
from remotelr_service.db.writer.transaction import WriteTransaction
from remotelr_service.db.writer.writer import Writer
from remotelr_service.errors import CommandNotFound, RunBusy, ServiceError
from remotelr_service.features.bulk.selector import Selector, select_runs
from remotelr_service.features.training.override_expiry import expire_overrides

__all__ = [
    "BulkResult",
    "BulkView",
    "DryRun",
    "create_bulk",
    "dry_run",
    "execute_bulk",
    "get_bulk",
]

log = logging.getLogger(__name__)

# How many runs share a transaction: the longer it is, the longer a report waits that comes meanwhile.
CHUNK: Final = 20
# What part of the time is left to others.
REST: Final = 0.5
# How often a chunk is tried that meets a run another replica holds, or a database that is away; the pause between.
TRIES: Final = 10
PAUSE_S: Final = 0.2

_OUR_MISTAKE = ("internal_error", "the service failed with this run; its log tells more")


@dataclass(frozen=True, slots=True, kw_only=True)
class BulkView:
    """A command to many runs, and how far it is. results: some of them, in order; `more`: there are others behind."""

    bulk: BulkCommand
    progress: Progress
    results: Sequence[BulkResult]
    more: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class DryRun:
    """What a command would do. count: for how many runs. results: some of them, as they would be; no `seq`."""

    selector: Selector
    command: Command
    count: int
    results: Sequence[BulkResult]
    more: bool


async def create_bulk(writer: Writer, engine: Engine, selector: Selector, command: Command) -> tuple[BulkCommand, bool]:
    """The command as it was noted, and whether it was noted before: the same key is the same command.

    It is not carried out yet. Raises InvalidCommand for the key of another command, TooManyRuns.
    """
    # The writer may run an action twice: without a key of its own, this could then be two commands.
    name = command.key or uuid4().hex
    document, selected = command_to_json(replace(command, actor=None, reason=None)), selector.to_json()

    def known(connection: Connection) -> BulkCommand | None:
        found = bulk_commands.find_keyed_bulk(connection, name)
        if found is not None and (found.selector, found.command) != (selected, document):
            raise InvalidCommand(f"the key {name!r} belongs to another command", field="key")
        return found

    def look() -> tuple[BulkCommand | None, list[str]]:
        with reading(engine) as connection:
            found = known(connection)
        return found, [] if found else select_runs(engine, selector)

    def action(tx: WriteTransaction) -> tuple[BulkCommand, bool]:
        found = known(tx.connection)
        if found is not None:
            return found, True
        noted = bulk_commands.add_bulk(
            tx.writing(),
            key=name,
            selector=selected,
            command=document,
            actor=command.actor,
            reason=command.reason,
            runs=chosen,
            at=tx.now,
        )
        return noted, False

    # What is looked through can be much: not in the writer, for which everybody waits.
    found, chosen = await asyncio.to_thread(look)
    return (found, True) if found else await writer.submit(action)


async def execute_bulk(writer: Writer, engine: Engine, bulk_id: int) -> None:
    """Do what is left to do of the command; nothing when it is finished. Any number may do this at once.

    Raises DatabaseUnavailable or Overloaded when that lasts; then the rest is left to be done.
    """
    bulk = await asyncio.to_thread(_find, engine, bulk_id)
    if bulk.finished_at is not None:
        return
    done = await asyncio.to_thread(_list_done, engine, bulk_id)
    left = [place for place in range(len(bulk.runs)) if place not in done]
    for begin in range(0, len(left), CHUNK):
        began = asyncio.get_running_loop().time()
        await _carry_out_some(writer, bulk, left[begin : begin + CHUNK])
        took_s = asyncio.get_running_loop().time() - began
        await asyncio.sleep(took_s * REST / (1 - REST))
    await _with_retries(writer, lambda tx: bulk_commands.mark_finished(tx.writing(), bulk_id, tx.now))


def dry_run(engine: Engine, selector: Selector, command: Command, *, after: int = -1, limit: int = 100) -> DryRun:
    """What the command would do to each selected run, if it were ordered now; nothing changes.

    after, limit: which part of the list, by place in it. Raises TooManyRuns.
    """
    chosen = select_runs(engine, selector)
    places = range(after + 1, min(after + 1 + limit, len(chosen)))
    return DryRun(
        selector=selector,
        command=command,
        count=len(chosen),
        results=[_rehearsed(engine, place, chosen[place], command) for place in places],
        more=after + 1 + limit < len(chosen),
    )


def get_bulk(engine: Engine, bulk_id: int, *, after: int = -1, limit: int = 100, only_failed: bool = False) -> BulkView:
    """The command, and up to `limit` of its results from the first one behind place `after` on.

    Raises CommandNotFound.
    """
    with reading(engine) as connection:
        bulk = bulk_commands.find_bulk(connection, bulk_id)
        if bulk is None:
            raise _unknown(bulk_id)
        found = bulk_commands.list_results(connection, bulk_id, after=after, limit=limit + 1, only_failed=only_failed)
        progress = bulk_commands.progress(connection, bulk_id)
    return BulkView(bulk=bulk, progress=progress, results=found[:limit], more=len(found) > limit)


async def _carry_out_some(writer: Writer, bulk: BulkCommand, places: Sequence[int]) -> None:
    """Do these together. Where one of them spoils it for the others, each is done by itself."""
    keys = [bulk.runs[place] for place in places]
    try:
        await _with_retries(writer, lambda tx: _carry_out(tx, bulk, places), *keys)
    except ServiceError as error:
        # Another replica holds a run. What else may be wrong is wrong with the service: the rest is left to be done.
        if not isinstance(error, RunBusy):
            raise
        await _carry_out_apart(writer, bulk, places, error.code, error.message)
    except Exception:
        log.exception("the command %d fails for %s", bulk.id, keys[0] if len(keys) == 1 else "one of many")
        await _carry_out_apart(writer, bulk, places, *_OUR_MISTAKE)


async def _carry_out_apart(writer: Writer, bulk: BulkCommand, places: Sequence[int], code: str, detail: str) -> None:
    if len(places) == 1:
        result = _refused(places[0], bulk.runs[places[0]], code, detail)
        await _with_retries(writer, lambda tx: _note(tx, bulk, [result]))
        return
    for place in places:
        await _carry_out_some(writer, bulk, [place])


async def _with_retries(writer: Writer, action: Any, *keys: str) -> None:
    for left in reversed(range(TRIES)):
        try:
            await writer.submit(action, *keys)
            return  # noqa: TRY300  # an `else` would stand behind two cases of failure
        except RunBusy:
            if len(keys) > 1 or not left:
                raise
        except ServiceError as error:
            if error.retry_after_s is None or not left:
                raise
        await asyncio.sleep(PAUSE_S)


def _carry_out(tx: WriteTransaction, bulk: BulkCommand, places: Sequence[int]) -> None:
    there = bulk_commands.list_places(tx.connection, bulk.id, min(places), max(places))
    order = _current(tx, bulk)
    _note(tx, bulk, [_obeyed(tx, bulk, order, place) for place in places if place not in there])


def _note(tx: WriteTransaction, bulk: BulkCommand, results: Sequence[BulkResult]) -> None:
    bulk_commands.add_results(tx.writing(), bulk.id, results)
    bulk_commands.mark_worked(tx.writing(), bulk.id, tx.now)


def _current(tx: WriteTransaction, bulk: BulkCommand) -> Command:
    """What to order now. Limits may have been set anew since this was noted: the older command must not win."""
    order = replace(command_from_json(bulk.command), actor=bulk.actor, reason=bulk.reason)
    if order.type != "limits":
        return order
    experiment = experiments.find_experiment(tx.connection, bulk.selector["experiment"])
    return replace(order, limits=Limits.from_json(experiment.limits if experiment else None))


def _obeyed(tx: WriteTransaction, bulk: BulkCommand, order: Command, place: int) -> BulkResult:
    key = bulk.runs[place]
    try:
        stored = expire_overrides(tx, tx.get(key))
        outcome = rules.command(stored.run, order, tx.log(key))
    except (RulesError, ServiceError) as refusal:
        return _refused(place, key, refusal.code, refusal.message)
    except Exception:
        # A mistake of ours, with one run: the others shall have their command all the same.
        log.exception("the command %d fails for the run %r", bulk.id, key)
        return _refused(place, key, *_OUR_MISTAKE)
    # A name nobody can give who orders: it leads from the run's log to the command.
    event = replace(_event(outcome), key=f"bulk/{bulk.id}")
    tx.append(stored, replace(outcome, event=event))
    return _told(place, key, event)


def _rehearsed(engine: Engine, place: int, key: str, command: Command) -> BulkResult:
    with reading(engine) as connection:
        try:
            stored = get_stored_run(connection, key)
            outcome = rules.command(stored.run, replace(command, key=None), EventLog(connection, stored))
        except (RulesError, ServiceError) as refusal:
            return _refused(place, key, refusal.code, refusal.message)
    return replace(_told(place, key, _event(outcome)), seq=None)


def _event(outcome: Outcome) -> Event:
    assert outcome.event is not None, "a command without a key is always a new one"
    return outcome.event


def _told(place: int, key: str, event: Event) -> BulkResult:
    return BulkResult(
        place=place,
        run=key,
        seq=event.seq,
        effective_from=event.effective_from,
        rate_before=event.notes.get("before"),
        rate_after=event.notes.get("after"),
    )


def _refused(place: int, key: str, code: str, detail: str) -> BulkResult:
    return BulkResult(place=place, run=key, code=code, detail=detail)


def _find(engine: Engine, bulk_id: int) -> BulkCommand:
    with reading(engine) as connection:
        bulk = bulk_commands.find_bulk(connection, bulk_id)
    if bulk is None:
        raise _unknown(bulk_id)
    return bulk


def _list_done(engine: Engine, bulk_id: int) -> set[int]:
    with reading(engine) as connection:
        return bulk_commands.list_places(connection, bulk_id)


def _unknown(bulk_id: int) -> CommandNotFound:
    return CommandNotFound(f"there is no command {bulk_id} to many runs", id=bulk_id)
