"""Folding a stored history again, to prove that it is what the rules make of its inputs."""

from collections.abc import Iterable
from dataclasses import replace

from remotelr.rules.commands.execute import command
from remotelr.rules.run.command import command_from_payload, is_command
from remotelr.rules.run.events import Event, Log, MemoryLog
from remotelr.rules.run.model import (
    AttemptRequest,
    Outcome,
    Run,
    report_from_event,
    spec_from_payload,
)
from remotelr.rules.transitions.attempt import begin_attempt
from remotelr.rules.transitions.lifecycle import create, finish, put_policy
from remotelr.rules.transitions.points import decide_partial
from remotelr.rules.transitions.report import report


class ReplayMismatch(AssertionError):
    """A stored event is not what the rules decide from the same inputs."""


def replay(key: str, events: Iterable[Event]) -> Run:
    """The run `key` as folding `events`, oldest first and from the first on, makes it.

    Raises ReplayMismatch at the first event that comes out otherwise than it is stored.
    """
    log = MemoryLog()
    run: Run | None = None
    for stored in events:
        outcome = reapply(key, run, stored, log)
        expected = replace(stored, superseded_by=None)
        if outcome.event is None or _as_stored(outcome.event, expected) != expected:
            raise ReplayMismatch(f"{key}: stored {expected}, folded {outcome.event}")
        log.append(expected)
        run = outcome.run
    if run is None:
        raise ReplayMismatch(f"{key}: no events")
    return run


def _as_stored(folded: Event, stored: Event) -> Event:
    """The folded event without what the release that stored it did not keep: its why, and what a command does."""
    if folded.decision is not None and stored.decision is not None and stored.decision.why is None:
        folded = replace(folded, decision=replace(folded.decision, why=None))
    return replace(folded, notes={}) if folded.kind == "command" and not stored.notes else folded


def reapply(key: str, run: Run | None, event: Event, log: Log) -> Outcome:
    """What comes of the input behind `event`, taken once more."""
    if run is None or event.kind == "created":
        return create(key, spec_from_payload(event))
    match event.kind:
        case "attempt":
            assert event.key is not None and event.epoch is not None
            return begin_attempt(run, AttemptRequest(key=event.key, epoch=event.epoch, **event.payload), log)
        case "report":
            return report(run, report_from_event(event), log)
        case "timeout":
            assert event.epoch is not None
            return decide_partial(run, event.epoch, log, event.payload["cause"])
        case "command":
            return command(run, command_from_payload(event), log)
        case "policy":
            if is_command(event):
                return command(run, command_from_payload(event), log)
            return put_policy(run, spec_from_payload(event), event.payload["mode"])
        case "finished":
            return finish(run, event.payload["status"])
