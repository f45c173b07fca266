"""Commands: what operators order of a run, and what becomes of it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from uuid import uuid4

from sqlalchemy import Connection, Engine

from remotelr import rules
from remotelr.rules import Command, Event, command_from_payload, command_history, is_command
from remotelr.rules.commands.status import CommandState
from remotelr_service.db.engine import reading
from remotelr_service.db.queries import command_events, runs
from remotelr_service.db.queries.runs import StoredRun, get_stored_run
from remotelr_service.db.writer.transaction import WriteTransaction
from remotelr_service.db.writer.writer import Writer
from remotelr_service.errors import CommandNotFound
from remotelr_service.features.training.override_expiry import expire_overrides

_Dated = tuple[Event, datetime]


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandStep:
    """One step in the life of a command.

    seq: number of the event that brought it. epoch, rate: of `delivered` the epoch it was told for and its rate;
    of `applied` and `rejected` the one really used, where the trainer says it.
    actor: who ordered what brought it; None where nobody did. reason: theirs, or the rules'.
    """

    state: CommandState
    at: datetime
    seq: int
    epoch: int | None = None
    rate: float | None = None
    actor: str | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandView:
    """A command, and what has become of it. effective_from: the first epoch whose rate it bears on.

    rate: the rate the trainer really set; None until it reports it.
    history: its steps, oldest first; the last one is `state`.
    """

    run: str
    seq: int
    effective_from: int
    key: str | None
    command: Command
    created_at: datetime
    state: CommandState
    at_epoch: int | None
    rate: float | None
    reason: str | None
    history: Sequence[CommandStep]


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandPage:
    """Some commands of a run, oldest first. after: what to ask for the next page with; None on the last."""

    commands: Sequence[CommandView]
    after: int | None


def signed(
    command: Command, *, key: str | None, actor: str | None, reason: str | None, expected_seq: int | None = None
) -> Command:
    """The command with who orders it and why, under which name, and what they have seen of the run."""
    return replace(command, key=key, actor=actor, reason=reason, expected_seq=expected_seq)


async def command(writer: Writer, key: str, command: Command) -> int:
    """The number of the command in the run's log. One whose key is known was noted already, and counts once.

    Raises RunNotFound, and what `remotelr.rules.command` does.
    """
    # The writer may run an action twice: without a key of its own, a factor could then count twice.
    named = command if command.key is not None else replace(command, key=uuid4().hex)
    assert named.key is not None
    name = named.key

    def action(tx: WriteTransaction) -> int:
        stored, log = expire_overrides(tx, tx.get(key)), tx.log(key)
        outcome = rules.command(stored.run, named, log)
        tx.append(stored, outcome)
        event = outcome.event or log.keyed("command", name) or log.keyed("policy", name)
        assert event is not None, "a command that brings no event was noted before"
        return event.seq

    return await writer.submit(action, key)


def get_command(engine: Engine, key: str, seq: int) -> CommandView:
    """The command of that number, with its history. Raises RunNotFound, CommandNotFound."""
    with reading(engine) as connection:
        stored = get_stored_run(connection, key)
        found = runs.list_dated_events(connection, stored, after=seq - 1, limit=1)
        if not found or found[0][0].seq != seq or not is_command(found[0][0]):
            raise CommandNotFound(f"event {seq} of the run {key!r} is no command", run=key, seq=seq)
        return _views(connection, stored, found)[0]


def list_commands(engine: Engine, key: str, *, after: int = 0, limit: int = 100) -> CommandPage:
    """Up to `limit` commands of the run from the first with a number above `after` on, each with its history.

    Raises RunNotFound.
    """
    with reading(engine) as connection:
        stored = get_stored_run(connection, key)
        found = command_events.list_ordered(connection, stored, after=after, limit=limit + 1)
        shown = [each for each in found[:limit] if is_command(each[0])]
        views = _views(connection, stored, shown)
    return CommandPage(commands=views, after=found[limit - 1][0].seq if len(found) > limit else None)


def _views(connection: Connection, stored: StoredRun, commands: Sequence[_Dated]) -> list[CommandView]:
    if not commands:
        return []
    ordered = command_events.list_ordered(connection, stored, after=commands[0][0].seq)
    ended = command_events.find_end(connection, stored, after=commands[0][0].seq)
    return [_view(connection, stored, each, ordered, ended) for each in commands]


def _view(
    connection: Connection, stored: StoredRun, dated: _Dated, ordered: Sequence[_Dated], ended: _Dated | None
) -> CommandView:
    event, at = dated
    told = command_events.list_told(connection, stored, event)
    ending = [] if ended is None else [ended]
    later = {each.seq: (each, when) for each, when in (*ordered, *told, *ending) if each.seq > event.seq}
    steps = list(_steps(stored, dated, [later[seq] for seq in sorted(later)]))
    newest = steps[-1]
    return CommandView(
        run=stored.run.key,
        seq=event.seq,
        effective_from=event.effective_from,
        key=event.key,
        command=command_from_payload(event),
        created_at=at,
        state=newest.state,
        at_epoch=newest.epoch,
        rate=newest.rate if newest.state in ("applied", "rejected") else None,
        reason=None if len(steps) == 1 else newest.reason,
        history=steps,
    )


def _steps(stored: StoredRun, dated: _Dated, later: Sequence[_Dated]) -> Iterable[CommandStep]:
    """How the command came to stand as it does, oldest step first, each with the event that brought it."""
    event, at = dated
    order = command_from_payload(event)
    yield CommandStep(state="queued", at=at, seq=event.seq, actor=order.actor, reason=order.reason)
    known = {each.seq: (each, when) for each, when in (dated, *later)}
    for step in command_history(event, [each for each, _ in later], stored.run)[1:]:
        assert step.seq is not None, "what is behind queued was brought by an event"
        brought, when = known[step.seq]
        by = command_from_payload(brought) if is_command(brought) and brought is not event else None
        yield CommandStep(
            state=step.state,
            at=when,
            seq=brought.seq,
            epoch=step.at_epoch,
            rate=step.rate,
            actor=None if by is None else by.actor,
            reason=step.reason if by is None or by.reason is None else by.reason,
        )
