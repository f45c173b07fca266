"""The life of a command, read from the log: nothing is stored of it but what happened.

queued ──▶ delivered ──▶ applied
  │            └───────▶ rejected    the trainer, or a bound, made another rate of it
  ├──▶ cancelled                     by a cancel
  ├──▶ superseded                    by a later command that takes its place
  └──▶ expired                       the run ended, or its `until` came, before anybody was told

Delivered is what an answer has carried to a trainer, be that life of the trainer gone back over later.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from remotelr.rules.run.command import Command, command_from_payload, is_command
from remotelr.rules.run.events import Event
from remotelr.rules.run.model import Run

CommandState = Literal["queued", "delivered", "applied", "rejected", "expired", "superseded", "cancelled"]

# What holds as soon as it is noted, and is told to nobody.
_AT_ONCE = ("note", "cancel")

# What takes the place of a command that nobody was told of yet.
_REPLACED_BY: dict[str, tuple[str, ...]] = {
    "set_learning_rate": ("set_learning_rate", "release"),
    "scale": ("set_learning_rate", "release"),
    "pause": ("resume_schedule", "release"),
    "resume_schedule": ("pause", "release"),
    "release": ("set_learning_rate", "scale", "pause", "stop"),
    "stop": ("release",),
    "replace_policy": ("replace_policy",),
    "limits": ("limits",),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandStatus:
    """How far a command has come.

    seq: number of the event that brought it there; None while it is queued.
    at_epoch: the epoch it was delivered for. rate: the rate of that epoch; once a report says it, the one really used.
    reason: why it was rejected, superseded or expired, in words; else None.
    """

    state: CommandState
    seq: int | None = None
    at_epoch: int | None = None
    rate: float | None = None
    reason: str | None = None


def command_status(event: Event, later: Iterable[Event], run: Run) -> CommandStatus:
    """How far the command behind `event` has come.

    later: events after it, oldest first. Enough are: the commands, the first decision for an epoch from
        `event.effective_from` on, the reports of that epoch, and the newest end of the run.
    run: its head.
    """
    order, later = command_from_payload(event), list(later)
    if order.type in _AT_ONCE:
        return CommandStatus(state="applied", seq=event.seq)
    told = next((each for each in later if _is_known_to_trainer(each, event.effective_from)), None)
    before = later if told is None else [each for each in later if each.seq < told.seq]
    ended = _ended_early(event, order, before)
    if ended is not None:
        return ended
    if told is None:
        end = next((each for each in reversed(later) if each.kind == "finished"), None)
        if end is None or run.status == "running":
            return CommandStatus(state="queued")
        return CommandStatus(state="expired", seq=end.seq, reason=f"the run is {run.status}")
    return _delivered(order, told, later)


def command_history(event: Event, later: Iterable[Event], run: Run) -> list[CommandStatus]:
    """How the command behind `event` came to stand as it does, oldest step first; the arguments as of `life_of`.

    What it was at a moment is what the log said then.
    """
    steps, known = list[CommandStatus](), list(later)
    life = command_status(event, known, run)
    while life.seq is not None:
        steps.append(life)
        seq = life.seq
        if seq == event.seq:
            break
        known = [each for each in known if each.seq < seq]
        life = command_status(event, known, run)
    return [CommandStatus(state="queued"), *reversed(steps)]


def _is_known_to_trainer(event: Event, effective_from: int) -> bool:
    return event.decision is not None and event.decision.epoch >= effective_from


def _ended_early(event: Event, order: Command, before: list[Event]) -> CommandStatus | None:
    """What became of a command before anybody was told of it."""
    later = [(each, command_from_payload(each)) for each in before if is_command(each)]
    cancelled = {other.seq for _, other in later if other.type == "cancel"}
    for each, other in later:
        if other.type == "cancel" and other.seq == event.seq:
            return CommandStatus(state="cancelled", seq=each.seq, reason=other.reason)
        if each.seq in cancelled:
            continue
        if other.only is not None:
            if order.until is not None:
                return CommandStatus(state="expired", seq=each.seq, reason="its time was over before a trainer asked")
        elif other.type in _REPLACED_BY.get(order.type, ()) and _replaces(other, order):
            return CommandStatus(state="superseded", seq=each.seq, reason=f"{other.type} came after it")
    return None


def _replaces(other: Command, order: Command) -> bool:
    """A one-shot leaves what it interrupts in its place, and what is not of the rate leaves a release."""
    if other.type == "set_learning_rate" and other.mode == "one_shot":
        return order.type == "set_learning_rate" and order.mode == "one_shot"
    if order.type == "set_learning_rate" and order.mode == "one_shot":
        return other.type == "release"
    return True


def _delivered(order: Command, told: Event, later: list[Event]) -> CommandStatus:
    decision = told.decision
    assert decision is not None
    told_of: dict[str, Any] = {"at_epoch": decision.epoch, "rate": decision.learning_rate}
    if order.type == "stop":
        return _stopped(told, decision.epoch, later) or CommandStatus(state="delivered", seq=told.seq, **told_of)
    if order.until is not None and order.until.epoch is not None and decision.epoch >= order.until.epoch:
        return CommandStatus(
            state="expired", seq=told.seq, reason=f"epoch {order.until.epoch} came before a trainer asked"
        )
    if order.type in ("set_learning_rate", "scale") and decision.reason == "bounds":
        reason = f"a bound made {decision.learning_rate!r} of it"
        return CommandStatus(state="rejected", seq=told.seq, reason=reason, **told_of)
    used = [
        each
        for each in later
        if each.kind == "report" and each.epoch == decision.epoch and "learning_rate" in each.payload
    ]
    if not used:
        return CommandStatus(state="delivered", seq=told.seq, **told_of)
    # Where the epoch was trained twice, the life that counts says it.
    report = min(used, key=lambda each: (each.superseded_by is not None, each.seq))
    rate = report.payload["learning_rate"]
    if "drift" in report.notes:
        reason = f"the trainer used {rate!r}"
        return CommandStatus(state="rejected", seq=report.seq, at_epoch=decision.epoch, rate=rate, reason=reason)
    return CommandStatus(state="applied", seq=report.seq, at_epoch=decision.epoch, rate=rate)


def _stopped(told: Event, epoch: int, later: list[Event]) -> CommandStatus | None:
    """What became of a stop that a trainer was told of: it ended, or trained `epoch` all the same; else None."""
    for each in later:
        if each.seq <= told.seq:
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
