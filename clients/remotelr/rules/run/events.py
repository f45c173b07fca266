"""The append-only log of one run: its events, and the few questions the rules ask of it.

The service answers them from its database, `MemoryLog` from a list: tests, replay and a trainer
that is on its own use the second, so one set of rules serves all.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import field
from typing import Any, Literal, Protocol

from remotelr.rules.run.decision import Decision
from remotelr.rules.values.records import record, replace

Kind = Literal["created", "attempt", "report", "timeout", "command", "policy", "finished"]

# The kinds that belong to a point, and may have decided it.
OF_A_POINT: frozenset[Kind] = frozenset({"report", "timeout"})

# The kinds after which the schedule's state stands as it was before the epoch they hold from.
SNAPSHOTS: frozenset[Kind] = frozenset({"created", "attempt", "report", "timeout", "policy"})


@record
class Event:
    """One thing that happened to a run, with what it led to.

    seq: 1, 2, 3… without holes.
    attempt: the attempt in force; for kind `attempt` the new one.
    epoch: report, closing: the epoch that ended; attempt: the epoch it starts at; else None.
    rank: of a report, else None.
    key: the caller's own name of an attempt or a command, which makes a repetition the same one.
    effective_from: the first epoch whose rate this event bears on.
    payload: the input as it came, JSON (non-finite metrics as "nan", "inf", "-inf").
    notes: what was noticed: `gap`, `late`; `drift`, the decided rate where another was used; `live`, the same
        where a command that holds from the next epoch made it; of a timeout the `ranks` that were there.
    state: the run's state after it; None where it left the state alone.
    decision: the decision it took, if it took one.
    superseded_by: the later attempt that rewound past it; such an event counts no more.
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
    """Whether the start of `attempt` takes `earlier` out of the effective history."""
    assert attempt.epoch is not None
    if earlier.epoch is None:
        return False
    if earlier.kind in OF_A_POINT:
        return earlier.epoch >= attempt.epoch
    return earlier.kind == "attempt" and earlier.epoch > attempt.epoch


class Log(Protocol):
    """What the rules ask of a run's history. All but `keyed` and `since` see effective events only."""

    def report(self, epoch: int, rank: int) -> Event | None:
        """What `rank` reported for `epoch`."""

    def reports(self, epoch: int) -> Sequence[Event]:
        """What all ranks reported for `epoch`, in order of rank."""

    def count(self, epoch: int) -> int:
        """How many ranks reported `epoch`."""

    def next_reported(self, epoch: int) -> int | None:
        """The first epoch from `epoch` on that any rank reported."""

    def decided(self, epoch: int) -> Event | None:
        """The report, or the closing, that decided the point `epoch`."""

    def snapshot(self, epoch: int) -> Event:
        """The newest event whose state is as it was before `epoch` was reported."""

    def has_reports(self) -> bool:
        """Whether any point was ever decided."""

    def keyed(self, kind: Kind, key: str) -> Event | None:
        """The attempt or command of that name, superseded or not."""

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
