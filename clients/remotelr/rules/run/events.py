"""Events and the log of one run.

The service implements `Log` with its database. `MemoryLog` serves replay, local replicas and tests.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import field
from typing import Any, Literal, Protocol

from remotelr.rules.run.decision import Decision
from remotelr.rules.values.records import record, replace

Kind = Literal["created", "attempt", "report", "timeout", "command", "policy", "finished"]

# The kinds that belong to a point and may decide it.
OF_A_POINT: frozenset[Kind] = frozenset({"report", "timeout"})

# The kinds whose state is the one before the epoch `effective_from`.
SNAPSHOTS: frozenset[Kind] = frozenset({"created", "attempt", "report", "timeout", "policy"})


@record
class Event:
    """One row of a run's log.

    seq: 1, 2, 3… without gaps.
    attempt: the attempt in force; of kind `attempt` the new one.
    epoch: of a report or a timeout the epoch that ended; of an attempt its first epoch; else None.
    rank: of a report, else None.
    key: the caller's name of an attempt or a command; a retry has the same key.
    effective_from: the first epoch whose rate this event affects.
    payload: the input, JSON (non-finite metrics as "nan", "inf", "-inf").
    notes: `gap`, `late`; `drift`: the decided rate if the trainer used another one; `live`: the same if a command for
        the next epoch explains it; of a timeout the `ranks` that reported.
    state: the run's state after it; None if it did not change.
    decision: the decision that it caused, if any.
    superseded_by: the later attempt that rewound past it.
    """

    seq: int
    kind: Kind
    attempt: int
    epoch: int | None = None
    rank: int | None = None
    key: str | None = None
    effective_from: int
    payload: Mapping[str, Any]
    notes: Mapping[str, Any] = field(default_factory=dict)
    state: Mapping[str, Any] | None = None
    decision: Decision | None = None
    superseded_by: int | None = None


def supersedes(attempt: Event, earlier: Event) -> bool:
    """Whether the attempt rewinds past the event `earlier`."""
    assert attempt.epoch is not None
    if earlier.epoch is None:
        return False
    if earlier.kind in OF_A_POINT:
        return earlier.epoch >= attempt.epoch
    return earlier.kind == "attempt" and earlier.epoch > attempt.epoch


class Log(Protocol):
    """The queries of the rules. All but `keyed` and `since` see effective events only."""

    def report(self, epoch: int, rank: int) -> Event | None:
        """The report of `rank` for `epoch`."""

    def reports(self, epoch: int) -> Sequence[Event]:
        """The reports of all ranks for `epoch`, in order of rank."""

    def count(self, epoch: int) -> int:
        """The number of ranks that reported `epoch`."""

    def next_reported(self, epoch: int) -> int | None:
        """The first epoch from `epoch` on that any rank reported."""

    def decided(self, epoch: int) -> Event | None:
        """The report or timeout that decided the point `epoch`."""

    def snapshot(self, epoch: int) -> Event:
        """The newest event whose state is the one before `epoch` was reported."""

    def has_reports(self) -> bool:
        """Whether any point is decided, superseded or not."""

    def keyed(self, kind: Kind, key: str) -> Event | None:
        """The attempt or command with that key, superseded or not."""

    def since(self, kind: Kind, seq: int) -> Sequence[Event]:
        """The events of a kind after `seq`, oldest first."""

    def policy(self, seq: int) -> Event:
        """The event that set the policy in force at `seq`: kind `policy` or `created`."""


class MemoryLog:
    """A log in memory; `append` marks what a new attempt supersedes."""

    def __init__(self, events: Iterable[Event] = ()) -> None:
        self.events: list[Event] = []
        for event in events:
            self.append(event)

    def append(self, event: Event) -> None:
        if event.kind == "attempt":
            self.events = [
                replace(earlier, superseded_by=event.attempt)
                if earlier.superseded_by is None and supersedes(event, earlier)
                else earlier
                for earlier in self.events
            ]
        self.events.append(event)

    @property
    def _effective(self) -> list[Event]:
        return [event for event in self.events if event.superseded_by is None]

    def report(self, epoch: int, rank: int) -> Event | None:
        return next((event for event in self.reports(epoch) if event.rank == rank), None)

    def reports(self, epoch: int) -> Sequence[Event]:
        found = [event for event in self._effective if event.kind == "report" and event.epoch == epoch]
        return sorted(found, key=lambda event: event.rank or 0)

    def count(self, epoch: int) -> int:
        return len(self.reports(epoch))

    def next_reported(self, epoch: int) -> int | None:
        reported = (event.epoch for event in self._effective if event.kind == "report" and event.epoch is not None)
        return min((each for each in reported if each >= epoch), default=None)

    def decided(self, epoch: int) -> Event | None:
        of_the_point = (event for event in self._effective if event.kind in OF_A_POINT and event.epoch == epoch)
        return next((event for event in of_the_point if event.decision is not None), None)

    def snapshot(self, epoch: int) -> Event:
        return next(
            event
            for event in reversed(self._effective)
            if event.kind in SNAPSHOTS and event.state is not None and event.effective_from <= epoch
        )

    def has_reports(self) -> bool:
        return any(event.kind in OF_A_POINT and event.decision is not None for event in self.events)

    def keyed(self, kind: Kind, key: str) -> Event | None:
        return next((event for event in self.events if event.kind == kind and event.key == key), None)

    def since(self, kind: Kind, seq: int) -> Sequence[Event]:
        return [event for event in self.events if event.kind == kind and event.seq > seq]

    def policy(self, seq: int) -> Event:
        return next(
            event for event in reversed(self.events) if event.kind in ("policy", "created") and event.seq <= seq
        )
