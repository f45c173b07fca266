"""Stores commands to runs and reads their status."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from uuid import uuid4

from sqlalchemy import Connection, Engine

from remotelr import rules
from remotelr.rules import Command, Event, is_command
from remotelr.rules.commands.status import CommandRecord, command_record
from remotelr_service.db.engine import reading
from remotelr_service.db.queries import command_events
from remotelr_service.db.queries.events import list_dated_events
from remotelr_service.db.queries.runs import StoredRun, get_stored_run
from remotelr_service.db.writer.transaction import WriteTransaction
from remotelr_service.db.writer.writer import Writer
from remotelr_service.errors import CommandNotFound
from remotelr_service.features.training.override_expiry import expire_overrides

_Dated = tuple[Event, datetime]


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandPage:
    """Commands of a run, oldest first. after: where the next page continues; None on the last page."""

    commands: Sequence[CommandRecord[datetime]]
    after: int | None


def signed(
    command: Command, *, key: str | None, actor: str | None, reason: str | None, expected_seq: int | None = None
) -> Command:
    """The command with its key, actor, reason and expected `seq`."""
    return replace(command, key=key, actor=actor, reason=reason, expected_seq=expected_seq)


async def command(writer: Writer, key: str, command: Command) -> int:
    """Store the command. A command with a known key is not stored again.

    Returns: the command's `seq` in the run's log. Raises RunNotFound, and the errors of `remotelr.rules.command`.
    """
    # The writer may run an action twice. Without a key, a factor could be applied twice.
    named = command if command.key is not None else replace(command, key=uuid4().hex)
    assert named.key is not None
    name = named.key

    def action(tx: WriteTransaction) -> int:
        stored, log = expire_overrides(tx, tx.get(key)), tx.log(key)
        outcome = rules.command(stored.run, named, log)
        tx.append(stored, outcome)
        event = outcome.event or log.keyed("command", name) or log.keyed("policy", name)
        assert event is not None, "a command without a new event has a stored one"
        return event.seq

    return await writer.submit(action, key, policy=command.policy)


def get_command(engine: Engine, key: str, seq: int) -> CommandRecord[datetime]:
    """The command with this `seq` and its history. Raises RunNotFound, CommandNotFound."""
    with reading(engine) as connection:
        stored = get_stored_run(connection, key)
        found = list_dated_events(connection, stored, after=seq - 1, limit=1)
        if not found or found[0][0].seq != seq or not is_command(found[0][0]):
            raise CommandNotFound(f"event {seq} of the run {key!r} is not a command", run=key, seq=seq)
        return _records(connection, stored, found)[0]


def list_commands(engine: Engine, key: str, *, after: int = 0, limit: int = 100) -> CommandPage:
    """Up to `limit` commands of the run with a `seq` above `after`, each with its history. Raises RunNotFound."""
    with reading(engine) as connection:
        stored = get_stored_run(connection, key)
        found = command_events.list_commands(connection, stored, after=after, limit=limit + 1)
        shown = [each for each in found[:limit] if is_command(each[0])]
        records = _records(connection, stored, shown)
    return CommandPage(commands=records, after=found[limit - 1][0].seq if len(found) > limit else None)


def _records(connection: Connection, stored: StoredRun, commands: Sequence[_Dated]) -> list[CommandRecord[datetime]]:
    if not commands:
        return []
    later_commands = command_events.list_commands(connection, stored, after=commands[0][0].seq)
    finish = command_events.find_finish(connection, stored, after=commands[0][0].seq)
    return [_record(connection, stored, each, later_commands, finish) for each in commands]


def _record(
    connection: Connection, stored: StoredRun, dated: _Dated, later_commands: Sequence[_Dated], finish: _Dated | None
) -> CommandRecord[datetime]:
    event, _ = dated
    effects = command_events.list_effects(connection, stored, event)
    finishes = [] if finish is None else [finish]
    later = {each.seq: (each, when) for each, when in (*later_commands, *effects, *finishes) if each.seq > event.seq}
    return command_record(dated, [later[seq] for seq in sorted(later)], stored.run)
