"""What a run has gone through: the rates it really ran with, and what it reported, without what was rewound."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection

from remotelr.rules import Decision, Event
from remotelr.rules.run.events import OF_A_POINT
from remotelr.rules.run.model import Report, report_from_event
from remotelr_service.db.queries.runs import StoredRun
from remotelr_service.db.writer.event_log import EventLog
from remotelr_service.errors import LogTooLong

# A longer record is not gone through in one request.
MAX_EVENTS = 20_000


@dataclass(frozen=True, slots=True)
class Epoch:
    """One epoch that was reported and decided. step: optimizer steps made by its end, where somebody said."""

    epoch: int
    reports: Mapping[int, Report]

    @property
    def step(self) -> int | None:
        return next((self.reports[rank].step for rank in sorted(self.reports) if self.reports[rank].step), None)


def effective_events(connection: Connection, stored: StoredRun) -> list[Event]:
    """The events of the run that count, oldest first. Raises LogTooLong."""
    found = EventLog(connection, stored).effective(MAX_EVENTS + 1)
    if len(found) > MAX_EVENTS:
        raise LogTooLong(f"the run {stored.run.key!r} has more than {MAX_EVENTS:,} events: too many to go through")
    return list(found)


def decisions_in_force(events: Iterable[Event]) -> list[Decision]:
    """The decisions the run went by, in order of their epochs: one for each epoch that got one."""
    kept: list[Decision] = []
    for event in events:
        if event.decision is None:
            continue
        # A later life begins where it begins, whatever was decided for then and beyond.
        while kept and kept[-1].epoch >= event.decision.epoch:
            kept.pop()
        kept.append(event.decision)
    return kept


def reported_epochs(events: Sequence[Event]) -> list[Epoch]:
    """The epochs that were decided, in their order, each with what its ranks reported."""
    decided = {event.epoch for event in events if event.kind in OF_A_POINT and event.decision is not None}
    found: dict[int, dict[int, Report]] = {}
    for event in events:
        if event.kind == "report" and event.epoch in decided and not event.notes.get("late"):
            found.setdefault(event.epoch or 0, {})[event.rank or 0] = report_from_event(event)
    return [Epoch(epoch, found[epoch]) for epoch in sorted(found)]
