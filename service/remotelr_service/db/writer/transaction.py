"""A transaction of the writer: locked runs, and events that are not yet inserted."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from functools import cached_property

from sqlalchemy import Connection

from remotelr.rules import Decision, Event, Outcome, Run, next_expiry
from remotelr.rules.transitions.report import log_lookups
from remotelr.rules.values.records import replace
from remotelr_service.db.queries import runs, stalls
from remotelr_service.db.queries.events import add_events, find_event, find_reported, supersede
from remotelr_service.db.queries.runs import Locked, StoredRun
from remotelr_service.db.rows import Row
from remotelr_service.db.tables import events
from remotelr_service.db.writer.event_log import EventLog
from remotelr_service.db.writer.prefetch import Point, list_counts, list_reported
from remotelr_service.db.writer.run_cache import RunCache
from remotelr_service.errors import RunNotFound

# Events that end a stall: from the trainer, or the end of the run.
_SHOWS_ACTIVITY = frozenset({"report", "attempt", "finished"})


class WriteTransaction:
    """The runs of a group of actions, in the transaction that stores all of them.

    An action first lets the rules decide, then writes; later actions of the group see what it wrote. If an action
    fails after it wrote, the transaction must be rolled back: the writer compares `writes`.

    cache: loads the locked rows, and is given the saved ones.
    """

    def __init__(self, connection: Connection, locked: Locked, cache: RunCache) -> None:
        self.writes = 0
        self._connection = connection
        self._locked = locked
        self._cache = cache
        self._runs = {key: cache.load(key, row) for key, row in locked.rows.items()}
        self._logs: dict[str, EventLog] = {}
        self._points: defaultdict[str, list[Point]] = defaultdict(list)
        self._decisions: dict[tuple[int, int], Decision] = {}
        self._changed: dict[str, None] = {}
        self._new: list[tuple[int, Event]] = []

    @cached_property
    def now(self) -> datetime:
        """The database's time at the begin of the transaction: replicas share no other clock."""
        return self._locked.now or runs.database_time(self._connection)

    @property
    def connection(self) -> Connection:
        """The connection, to read other tables than runs and events."""
        return self._connection

    def writing(self) -> Connection:
        """The connection, to write other tables; an error of the action now rolls the transaction back."""
        self.writes += 1
        return self._connection

    def find(self, key: str) -> StoredRun | None:
        """The run `key` after the earlier actions. The key must have been given to `Writer.submit`."""
        return self._runs.get(key)

    def get(self, key: str) -> StoredRun:
        """The run `key` after the earlier actions. Raises RunNotFound."""
        stored = self.find(key)
        if stored is None:
            raise RunNotFound(key)
        return stored

    def register(self, key: str, points: Iterable[Point]) -> None:
        """Add reports of the run that `prefetch` reads if the log may need them."""
        self._points[key].extend(points)

    def prefetch(self) -> None:
        """Read, for all logs at once, the registered reports that the log lookups of the rules may need."""
        reports: dict[int, set[Point]] = {}
        counts: dict[int, set[int]] = {}
        logs: dict[int, EventLog] = {}
        for key, registered in self._points.items():
            stored = self._runs.get(key)
            if stored is None:
                continue
            points, counted = log_lookups(stored.run, registered)
            if points:
                logs[stored.id], reports[stored.id], counts[stored.id] = self.log(key), points, counted
        if not logs:
            return
        found: defaultdict[int, list[Row]] = defaultdict(list)
        for row in list_reported(self._connection, reports):
            found[row["run_id"]].append(row)
        for run_id, points in reports.items():
            logs[run_id].fill(points, found[run_id])
        if any(counts.values()):
            for run_id, epoch, count in list_counts(self._connection, counts):
                logs[run_id].fill_count(epoch, count)

    def log(self, key: str) -> EventLog:
        """The log of the run `key`, with the events that this transaction has appended."""
        if key not in self._logs:
            self._logs[key] = EventLog(self._connection, self._runs[key], self.flush, self._points.get(key, ()))
        return self._logs[key]

    def decision(self, stored: StoredRun) -> Decision:
        """The decision in force. It is read once: all ranks of a run request it when they begin."""
        seq = stored.run.decided_seq
        if (stored.id, seq) not in self._decisions:
            self.flush()
            event = find_event(self._connection, stored, events.c.seq == seq)
            assert event is not None and event.decision is not None, f"event {seq} of {stored.run.key} has no decision"
            self._decisions[stored.id, seq] = event.decision
        return self._decisions[stored.id, seq]

    def append(self, stored: StoredRun, outcome: Outcome) -> StoredRun:
        """Append the event of an outcome, if it has one. Returns the changed run."""
        if outcome.event is None:
            return stored
        after = self._replace_run(stored, outcome.run)
        self._new.append((stored.id, outcome.event))
        if outcome.event.kind == "attempt":
            self.flush()
            supersede(self._connection, stored.id, outcome.event)
        self.log(stored.run.key).add(outcome.event)
        if outcome.run.spec is not stored.run.spec:
            runs.save_spec(self._connection, after)
        if stored.stalled_at is not None and outcome.event.kind in _SHOWS_ACTIVITY:
            stalls.end_stall(self._connection, stored)
            after = self._runs[stored.run.key] = replace(after, stalled_at=None)
        return self._with_deadline(self._with_override_expiry(after), outcome.event)

    def stall(self, stored: StoredRun, reported_at: datetime, typical_epoch_s: float, at: datetime) -> None:
        """Store that the trainer has not reported since `reported_at`, although an epoch takes `typical_epoch_s`."""
        self.writes += 1
        self.flush()
        stalls.add_stall(self._connection, stored, reported_at, typical_epoch_s, at)
        self._runs[stored.run.key] = replace(stored, stalled_at=at)
        self._changed[stored.run.key] = None

    def is_due(self, stored: StoredRun) -> bool:
        """Whether the waiting point has reached its deadline."""
        return stored.deadline_at is not None and stored.deadline_at <= self.now

    def has_expired_override(self, stored: StoredRun) -> bool:
        """Whether a timed override has expired."""
        return stored.override_expires_at is not None and stored.override_expires_at <= self.now

    def clear_deadline(self, stored: StoredRun) -> None:
        """Let the waiting point wait until the next report."""
        self._replace_run(replace(stored, deadline_at=None), stored.run)

    def create(self, outcome: Outcome, *, experiment: str | None, tags: Mapping[str, str]) -> StoredRun:
        """Insert a run with its first event."""
        assert outcome.event is not None
        self.writes += 1
        stored = runs.add_run(self._connection, outcome.run, experiment=experiment, tags=tags, at=self.now)
        self._runs[stored.run.key] = stored
        self._new.append((stored.id, outcome.event))
        return stored

    def tag(self, stored: StoredRun, tags: Mapping[str, str]) -> StoredRun:
        """Replace the tags of the run."""
        self.writes += 1
        after = replace(stored, tags=dict(tags), updated_at=self.now)
        self._runs[stored.run.key] = after
        runs.save_tags(self._connection, after)
        return after

    def delete(self, stored: StoredRun) -> None:
        """Delete the run and its events."""
        self.writes += 1
        self.flush()
        key = stored.run.key
        runs.delete_run(self._connection, stored)
        del self._runs[key]
        self._locked.rows.pop(key, None)
        self._logs.pop(key, None)
        self._changed.pop(key, None)

    def flush(self) -> None:
        """Insert the events appended so far."""
        new, self._new = self._new, []
        if new:
            add_events(self._connection, new, self.now)

    def save(self) -> frozenset[str]:
        """Write everything that is still to be written. Returns the keys of the changed runs."""
        self.flush()
        saved = runs.save_runs(self._connection, [self._runs[key] for key in self._changed], self._locked.rows)
        for key, row in saved.items():
            self._cache.put(key, row, self._runs[key])
        return frozenset(self._changed)

    def _with_deadline(self, stored: StoredRun, event: Event) -> StoredRun:
        """The run with the deadline of its waiting point: `timeout_s` after its first report."""
        timeout_s = stored.run.timeout_s
        if timeout_s is None and stored.deadline_at is None:
            return stored
        if (
            event.kind == "report"
            and event.decision is None
            and (stored.deadline_at is not None or _is_late(stored, event))
        ):
            return stored
        deadline_at = None
        if timeout_s is not None and stored.run.status == "running":
            self.flush()
            waiting = find_reported(self._connection, stored, stored.run.epoch)
            deadline_at = None if waiting is None else waiting[1] + timedelta(seconds=timeout_s)
        after = self._runs[stored.run.key] = replace(stored, deadline_at=deadline_at)
        return after

    def _with_override_expiry(self, stored: StoredRun) -> StoredRun:
        override_expires_at = next_expiry(stored.run) if stored.run.status == "running" else None
        if override_expires_at == stored.override_expires_at:
            return stored
        after = self._runs[stored.run.key] = replace(stored, override_expires_at=override_expires_at)
        runs.save_override_expiry(self._connection, after)
        return after

    def _replace_run(self, stored: StoredRun, run: Run) -> StoredRun:
        self.writes += 1
        after = replace(stored, run=run, updated_at=self.now)
        self._runs[run.key] = after
        self._changed[run.key] = None
        return after


def _is_late(stored: StoredRun, report: Event) -> bool:
    """Whether the report is of a decided point."""
    return report.epoch is not None and report.epoch < stored.run.epoch
