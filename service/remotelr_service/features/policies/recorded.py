"""A run's effective events, decisions and reported epochs."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection

from remotelr.rules import Decision, Event
from remotelr.rules.run.events import OF_A_POINT
from remotelr.rules.run.model import Report, report_from_event
from remotelr_service.db.queries.runs import StoredRun
from remotelr_service.db.writer.event_log import EventLog
from remotelr_service.errors import LogTooLong

# The maximum number of events that one request evaluates.
MAX_EVENTS = 20_000


@dataclass(frozen=True, slots=True)
class Epoch:
    """A reported and decided epoch. step: optimizer steps at its end, if reported."""

    epoch: int
    reports: Mapping[int, Report]

    @property
    def step(self) -> int | None:
        return next((self.reports[rank].step for rank in sorted(self.reports) if self.reports[rank].step), None)


def effective_events(connection: Connection, stored: StoredRun) -> list[Event]:
    """The effective events of the run, oldest first. Raises LogTooLong."""
    found = EventLog(connection, stored).effective(MAX_EVENTS + 1)
    if len(found) > MAX_EVENTS:
        raise LogTooLong(f"the run {stored.run.key!r} has more than {MAX_EVENTS:,} events, the maximum for one request")
    return list(found)


def decisions_in_force(events: Iterable[Event]) -> list[Decision]:
    """The decisions in force, in order of their epochs, at most one for each epoch."""
    decisions: list[Decision] = []
    for event in events:
        if event.decision is None:
            continue
        # An attempt replaces the decisions for its first epoch and later ones.
        while decisions and decisions[-1].epoch >= event.decision.epoch:
            decisions.pop()
        decisions.append(event.decision)
    return decisions


def reported_epochs(events: Sequence[Event]) -> list[Epoch]:
    """The decided epochs in order, each with the reports of its ranks."""
    decided = {event.epoch for event in events if event.kind in OF_A_POINT and event.decision is not None}
    found: dict[int, dict[int, Report]] = {}
    for event in events:
        if event.kind == "report" and event.epoch in decided and not event.notes.get("late"):
            found.setdefault(event.epoch or 0, {})[event.rank or 0] = report_from_event(event)
    return [Epoch(epoch, found[epoch]) for epoch in sorted(found)]
