"""Replay: folds a stored log again and compares every event."""

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
    """A stored event differs from the event that the rules produce from the same input."""


def replay(key: str, events: Iterable[Event]) -> Run:
    """Fold `events`, oldest first, into the run `key`.

    Raises ReplayMismatch at the first event that differs from the stored one.
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
    """The folded event without members that the release which stored it did not have."""
    if folded.decision is not None and stored.decision is not None and stored.decision.why is None:
        folded = replace(folded, decision=replace(folded.decision, why=None))
    return replace(folded, notes={}) if folded.kind == "command" and not stored.notes else folded


def reapply(key: str, run: Run | None, event: Event, log: Log) -> Outcome:
    """The outcome of the input of `event`."""
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
            mode = event.payload["mode"]
            return put_policy(run, spec_from_payload(event), "keep" if mode == "length" else mode)
        case "finished":
            return finish(run, event.payload["status"])
