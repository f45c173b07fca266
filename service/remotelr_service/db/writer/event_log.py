"""The log of one run in the database, for the rules."""

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

from sqlalchemy import Connection

from remotelr.rules import Event
from remotelr.rules.run.events import OF_A_POINT, SNAPSHOTS, Kind
from remotelr_service.db.queries.events import count_events, find_event, find_reported, list_events
from remotelr_service.db.queries.runs import StoredRun
from remotelr_service.db.rows import Row, event_from_row
from remotelr_service.db.tables import events
from remotelr_service.db.writer.prefetch import Point, list_reported

_EFFECTIVE = events.c.superseded_by.is_(None)
_REPORT = events.c.kind == "report"
_DECIDED = (events.c.kind.in_(sorted(OF_A_POINT)), events.c.learning_rate.is_not(None))


class EventLog:
    """The events of one run in one transaction; the same answers as `remotelr.rules.MemoryLog`.

    flush: inserts the events that the transaction has appended.
    prefetch: the reports of the transaction, if known. The first lookup of an unknown report reads all of them.

    A thousand ranks may report one point in one transaction. Lookups that every report needs are therefore read
    together, answered from memory, and do not flush.
    """

    def __init__(
        self,
        connection: Connection,
        stored: StoredRun,
        flush: Callable[[], None] = lambda: None,
        prefetch: Collection[Point] = (),
    ) -> None:
        self._connection = connection
        self._stored = stored
        self._flush = flush
        self._prefetch = prefetch
        self._appended: dict[tuple[int | None, int | None], Event] = {}
        # Rows by point and by epoch, None if nothing is stored; and the events parsed from them.
        self._reported: dict[Point, Row | None] = {}
        self._decided: dict[int, Row | None] = {}
        self._events: dict[int, Event] = {}
        self._counts: dict[int, int] = {}
        self._decisions: dict[int, Event] = {}
        self._keyed: dict[tuple[str, str], Event | None] = {}

    def fill(self, points: Iterable[Point], found: Iterable[Row]) -> None:
        """Add the rows that `list_reported` has found for these reports."""
        for epoch, rank in points:
            self._reported.setdefault((epoch, rank), None)
            self._decided.setdefault(epoch, None)
        for row in found:
            if row["kind"] == "report":
                self._reported[row["epoch"], row["rank"]] = row
            if row["learning_rate"] is not None:
                self._decided[row["epoch"]] = row

    def fill_count(self, epoch: int, count: int) -> None:
        """Add the number of ranks that have reported this point."""
        self._counts[epoch] = count

    def add(self, event: Event) -> None:
        """Add an event that the transaction has just appended."""
        if event.kind == "attempt":
            # It is inserted with all events before it; the next lookups see what it superseded.
            for known in (self._appended, self._reported, self._decided, self._counts, self._decisions, self._keyed):
                known.clear()
        if event.key is not None:
            self._keyed[event.kind, event.key] = event
        if event.kind == "report":
            self._appended[event.epoch, event.rank] = event
            if event.epoch in self._counts:
                self._counts[event.epoch] += 1
        if event.kind in OF_A_POINT and event.decision is not None and event.epoch is not None:
            self._decisions[event.epoch] = event

    def report(self, epoch: int, rank: int) -> Event | None:
        appended = self._appended.get((epoch, rank))
        if appended is not None:
            return appended
        if (epoch, rank) not in self._reported:
            points = {(epoch, rank), *(point for point in self._prefetch if point not in self._reported)}
            self.fill(points, list_reported(self._connection, {self._stored.id: points}))
        return self._event(self._reported[epoch, rank])

    def reports(self, epoch: int) -> Sequence[Event]:
        self._flush()
        found = list_events(self._connection, self._stored, _REPORT, events.c.epoch == epoch, _EFFECTIVE)
        return sorted(found, key=lambda event: event.rank or 0)

    def count(self, epoch: int) -> int:
        if epoch not in self._counts:
            self._flush()
            self._counts[epoch] = count_events(
                self._connection, self._stored, _REPORT, events.c.epoch == epoch, _EFFECTIVE
            )
        return self._counts[epoch]

    def next_reported(self, epoch: int) -> int | None:
        self._flush()
        found = find_reported(self._connection, self._stored, epoch)
        return None if found is None else found[0]

    def decided(self, epoch: int) -> Event | None:
        if epoch in self._decisions:
            return self._decisions[epoch]
        if epoch in self._decided:
            return self._event(self._decided[epoch])
        return self._find(*_DECIDED, events.c.epoch == epoch, _EFFECTIVE)

    def snapshot(self, epoch: int) -> Event:
        self._flush()
        found = self._find(
            events.c.kind.in_(sorted(SNAPSHOTS)),
            events.c.state.is_not(None),
            events.c.effective_from <= epoch,
            _EFFECTIVE,
            newest=True,
        )
        assert found is not None, "every run begins with a snapshot in force from epoch 0"
        return found

    def has_reports(self) -> bool:
        return bool(self._decisions) or any(self._decided.values()) or self._find(*_DECIDED) is not None

    def keyed(self, kind: Kind, key: str) -> Event | None:
        # All ranks of a run begin the same attempt.
        if (kind, key) not in self._keyed:
            self._flush()
            self._keyed[kind, key] = self._find(events.c.kind == kind, events.c.key == key)
        return self._keyed[kind, key]

    def since(self, kind: Kind, seq: int) -> Sequence[Event]:
        self._flush()
        return list_events(self._connection, self._stored, events.c.kind == kind, after=seq)

    def policy(self, seq: int) -> Event:
        self._flush()
        found = self._find(events.c.kind.in_(["created", "policy"]), events.c.seq <= seq, newest=True)
        assert found is not None, "every run begins with the event that set its policy"
        return found

    def in_force(self, epoch: int) -> Event | None:
        """The event with the decision in force at `epoch`."""
        self._flush()
        # An attempt that began before this epoch has superseded the earlier decisions for it.
        return self._find(
            events.c.learning_rate.is_not(None), events.c.effective_from <= epoch, _EFFECTIVE, newest=True
        )

    def effective(self, limit: int) -> Sequence[Event]:
        """The oldest `limit` effective events of every kind."""
        self._flush()
        return list_events(self._connection, self._stored, _EFFECTIVE, limit=limit)

    def _event(self, row: Row | None) -> Event | None:
        if row is None:
            return None
        if row["seq"] not in self._events:
            self._events[row["seq"]] = event_from_row(self._stored.run.key, row)
        return self._events[row["seq"]]

    def _find(self, *where: Any, newest: bool = False) -> Event | None:
        return find_event(self._connection, self._stored, *where, newest=newest)
