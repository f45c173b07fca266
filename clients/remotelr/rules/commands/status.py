"""The status of a command, computed from the log; it is not stored.

queued ──▶ delivered ──▶ applied
  │            └───────▶ rejected    the trainer used another rate, or a bound changed it
  ├──▶ cancelled                     by a cancel
  ├──▶ superseded                    by a later command that replaces it
  └──▶ expired                       the run ended, or its `until` came, before it was delivered

delivered: a response that contained the command was sent, even if the attempt was later rewound.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

from remotelr.rules.commands.notices import Notice, notices
from remotelr.rules.run.command import Command, command_from_payload, is_command
from remotelr.rules.run.events import Event
from remotelr.rules.run.model import Run

T = TypeVar("T")

CommandState = Literal["queued", "delivered", "applied", "rejected", "expired", "superseded", "cancelled"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandStatus:
    """The state of a command.

    seq: number of the event that caused the state; None while it is queued.
    at_epoch: the epoch it was delivered for. rate: the rate of that epoch, or the used one once it is reported.
    reason: why it was rejected, superseded or expired; else None.
    """

    state: CommandState
    seq: int | None = None
    at_epoch: int | None = None
    rate: float | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandStep(Generic[T]):
    """A state that a command reached. T is the caller's type of a time.

    at: time of the event `seq`, which caused the state.
    epoch, rate: of `delivered` the epoch and its rate; of `applied` and `rejected` the used rate, if it is reported.
    actor: of the command that caused the state; None if another event did. reason: of that command, or of the rules.
    """

    state: CommandState
    at: T
    seq: int
    epoch: int | None = None
    rate: float | None = None
    actor: str | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandRecord(Generic[T]):
    """A command with its status. effective_from: the first epoch that it affects.

    before, after: the rate of that epoch without and with the command, as known when it was sent; None for a note.
    rate: the rate that the trainer used; None until it is reported.
    history: its steps, oldest first; the last one is `state`.
    notices: what its sender should know while it is queued.
    """

    run: str
    seq: int
    effective_from: int
    key: str | None
    command: Command
    created_at: T
    before: float | None
    after: float | None
    state: CommandState
    at_epoch: int | None
    rate: float | None
    reason: str | None
    history: Sequence[CommandStep[T]]
    notices: Sequence[Notice]


def command_status(event: Event, later: Iterable[Event], run: Run) -> CommandStatus:
    """The status of the command that `event` stores.

    later: events after it, oldest first. These suffice: all commands, the first decision for an epoch from
        `event.effective_from` on, the reports of that epoch, and the newest end of the run.
    """
    command, later = command_from_payload(event), list(later)
    if command.spec.immediate:
        return CommandStatus(state="applied", seq=event.seq)
    delivery = next((each for each in later if _is_known_to_trainer(each, event.effective_from)), None)
    before = later if delivery is None else [each for each in later if each.seq < delivery.seq]
    ended = _ended_early(event, command, before)
    if ended is not None:
        return ended
    if delivery is None:
        end = next((each for each in reversed(later) if each.kind == "finished"), None)
        if end is None or run.status == "running":
            return CommandStatus(state="queued")
        return CommandStatus(state="expired", seq=end.seq, reason=f"the run is {run.status}")
    return _delivered(command, delivery, later)


def command_history(event: Event, later: Iterable[Event], run: Run) -> list[CommandStatus]:
    """The states of the command, oldest first; the arguments are those of `command_status`.

    A state at a time is the status by the log at that time.
    """
    steps, known = list[CommandStatus](), list(later)
    status = command_status(event, known, run)
    while status.seq is not None:
        steps.append(status)
        seq = status.seq
        if seq == event.seq:
            break
        known = [each for each in known if each.seq < seq]
        status = command_status(event, known, run)
    return [CommandStatus(state="queued"), *reversed(steps)]


def command_record(dated: tuple[Event, T], later: Sequence[tuple[Event, T]], run: Run) -> CommandRecord[T]:
    """The command that the event `dated` stores, with its status and history; `later` as in `command_status`."""
    event, created_at = dated
    known = {each.seq: (each, at) for each, at in (dated, *later)}
    steps = [
        _step(status, event, *known[event.seq if status.seq is None else status.seq])
        for status in command_history(event, [each for each, _ in later], run)
    ]
    newest, command = steps[-1], command_from_payload(event)
    return CommandRecord(
        run=run.key,
        seq=event.seq,
        effective_from=event.effective_from,
        key=event.key,
        command=command,
        created_at=created_at,
        before=event.notes.get("before"),
        after=event.notes.get("after"),
        state=newest.state,
        at_epoch=newest.epoch,
        rate=newest.rate if newest.state in ("applied", "rejected") else None,
        reason=None if len(steps) == 1 else newest.reason,
        history=steps,
        notices=notices(run, command) if newest.state == "queued" else (),
    )


def _step(status: CommandStatus, event: Event, cause: Event, at: T) -> CommandStep[T]:
    by_command = is_command(cause) and (status.seq is None or cause is not event)
    command = command_from_payload(cause) if by_command else None
    return CommandStep(
        state=status.state,
        at=at,
        seq=cause.seq,
        epoch=status.at_epoch,
        rate=status.rate,
        actor=None if command is None else command.actor,
        reason=status.reason if command is None or command.reason is None else command.reason,
    )


def _is_known_to_trainer(event: Event, effective_from: int) -> bool:
    return event.decision is not None and event.decision.epoch >= effective_from


def _ended_early(event: Event, command: Command, before: list[Event]) -> CommandStatus | None:
    """The state of a command that ended before its delivery, else None."""
    later = [(each, command_from_payload(each)) for each in before if is_command(each)]
    cancelled = {other.seq for _, other in later if other.type == "cancel"}
    for each, other in later:
        if other.type == "cancel" and other.seq == event.seq:
            return CommandStatus(state="cancelled", seq=each.seq, reason=other.reason)
        if each.seq in cancelled:
            continue
        if other.only is not None:
            if command.until is not None:
                return CommandStatus(state="expired", seq=each.seq, reason="its until came before it was delivered")
        elif other.type in command.spec.replaced_by and _replaces(other, command):
            return CommandStatus(state="superseded", seq=each.seq, reason=f"a later {other.type} replaced it")
    return None


def _replaces(other: Command, command: Command) -> bool:
    """A one-shot and another override do not replace each other; a release replaces both."""
    if other.type == "set_learning_rate" and other.mode == "one_shot":
        return command.type == "set_learning_rate" and command.mode == "one_shot"
    if command.type == "set_learning_rate" and command.mode == "one_shot":
        return other.type == "release"
    return True


def _delivered(command: Command, delivery: Event, later: list[Event]) -> CommandStatus:
    decision = delivery.decision
    assert decision is not None
    rate_of_epoch: dict[str, Any] = {"at_epoch": decision.epoch, "rate": decision.learning_rate}
    if command.type == "stop":
        return _stopped(delivery, decision.epoch, later) or CommandStatus(
            state="delivered", seq=delivery.seq, **rate_of_epoch
        )
    if command.until is not None and command.until.epoch is not None and decision.epoch >= command.until.epoch:
        return CommandStatus(
            state="expired", seq=delivery.seq, reason=f"epoch {command.until.epoch} came before it was delivered"
        )
    if command.spec.rate_field is not None and decision.reason == "bounds":
        reason = f"a bound changed the rate to {decision.learning_rate!r}"
        return CommandStatus(state="rejected", seq=delivery.seq, reason=reason, **rate_of_epoch)
    used = [
        each
        for each in later
        if each.kind == "report" and each.epoch == decision.epoch and "learning_rate" in each.payload
    ]
    if not used:
        return CommandStatus(state="delivered", seq=delivery.seq, **rate_of_epoch)
    # If the epoch was trained twice, the report that is in force counts.
    report = min(used, key=lambda each: (each.superseded_by is not None, each.seq))
    rate = report.payload["learning_rate"]
    if "drift" in report.notes:
        reason = f"the trainer used {rate!r}"
        return CommandStatus(state="rejected", seq=report.seq, at_epoch=decision.epoch, rate=rate, reason=reason)
    return CommandStatus(state="applied", seq=report.seq, at_epoch=decision.epoch, rate=rate)


def _stopped(delivery: Event, epoch: int, later: list[Event]) -> CommandStatus | None:
    """The status of a delivered stop if the run ended or the trainer trained `epoch`, else None."""
    for each in later:
        if each.seq <= delivery.seq:
            continue
        if each.kind == "finished":
            return CommandStatus(state="applied", seq=each.seq, at_epoch=epoch)
        if is_command(each) and command_from_payload(each).type == "release":
            return None
        if each.kind == "report" and each.epoch == epoch:
            return CommandStatus(
                state="rejected", seq=each.seq, at_epoch=epoch, reason=f"the trainer went on with epoch {epoch}"
            )
    return None
