"""What one transaction of the writer has before it: locked runs, and events not yet stored."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from functools import cached_property

from sqlalchemy import Connection

from remotelr.rules import Decision, Event, Outcome, Run, next_expiry
from remotelr.rules.transitions.report import log_lookups
from remotelr.rules.values.records import replace
from remotelr_service.db.queries import runs, stalls
from remotelr_service.db.queries.runs import Locked, StoredRun
from remotelr_service.db.rows import Row
from remotelr_service.db.tables import events
from remotelr_service.db.writer.event_log import EventLog
from remotelr_service.db.writer.prefetch import Point, list_counts, list_reported
from remotelr_service.errors import RunNotFound

# What tells that a trainer lives, or is not expected to.
_SHOWS_ACTIVITY = frozenset({"report", "attempt", "finished"})


class WriteTransaction:
    """The runs of a group of actions, within the transaction that stores them all.

    An action finds its run, lets the rules decide, and writes what came of it: first decides, then
    writes. What it writes, the actions behind it in the same group see. An action that fails after
    it wrote costs the group its transaction, so `writes` counts.
    """

    def __init__(self, connection: Connection, locked: Locked) -> None:
        self.writes = 0
        self._connection = connection
        self._locked = locked
        self._runs = locked.stored_runs
        self._logs: dict[str, EventLog] = {}
        self._prefetch: defaultdict[str, list[Point]] = defaultdict(list)
        self._in_force: dict[tuple[int, int], Decision] = {}
        self._changed: dict[str, None] = {}
        self._new: list[tuple[int, Event]] = []

    @cached_property
    def now(self) -> datetime:
        """When the transaction began, by the database's clock: replicas share no other."""
        return self._locked.now or runs.database_time(self._connection)

    @property
    def connection(self) -> Connection:
        """The group's transaction, to read in what is no run."""
        return self._connection

    def writing(self) -> Connection:
        """The group's transaction, to write in what is no run; from now on a refusal spoils it."""
        self.writes += 1
        return self._connection

    def find(self, key: str) -> StoredRun | None:
        """The run `key` as the actions before have left it. The writer must have been given the key."""
        return self._runs.get(key)

    def get(self, key: str) -> StoredRun:
        """The run `key`, as the actions before in the group left it. Raises RunNotFound."""
        stored = self.find(key)
        if stored is None:
            raise RunNotFound(key)
        return stored

    def register(self, key: str, prefetch: Iterable[Point]) -> None:
        """Take note of reports that actions of the group may ask the log of this run for."""
        self._prefetch[key].extend(prefetch)

    def prefetch(self) -> None:
        """Ask all logs at once what they may be asked, as their runs stand before the first action."""
        reports: dict[int, set[Point]] = {}
        counts: dict[int, set[int]] = {}
        logs: dict[int, EventLog] = {}
        for key, prefetch in self._prefetch.items():
            stored = self._runs.get(key)
            if stored is None:
                continue
            points, counted = log_lookups(stored.run, prefetch)
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
        """The history of the run `key`, with what this group has appended to it."""
        if key not in self._logs:
            self._logs[key] = EventLog(self._connection, self._runs[key], self.flush, self._prefetch.get(key, ()))
        return self._logs[key]

    def decision(self, stored: StoredRun) -> Decision:
        """The decision of the run that is in force. All ranks of a run ask for it when they begin: it is read once."""
        seq = stored.run.decided_seq
        if (stored.id, seq) not in self._in_force:
            self.flush()
            event = runs.find_event(self._connection, stored, events.c.seq == seq)
            assert event is not None and event.decision is not None, f"event {seq} of {stored.run.key} decides nothing"
            self._in_force[stored.id, seq] = event.decision
        return self._in_force[stored.id, seq]

    def append(self, stored: StoredRun, outcome: Outcome) -> StoredRun:
        """Store what came of an action; nothing when it brought no event."""
        if outcome.event is None:
            return stored
        after = self._replace_run(stored, outcome.run)
        self._new.append((stored.id, outcome.event))
        if outcome.event.kind == "attempt":
            self.flush()
            runs.supersede(self._connection, stored.id, outcome.event)
        self.log(stored.run.key).add(outcome.event)
        if outcome.run.spec is not stored.run.spec:
            runs.save_spec(self._connection, after)
        if stored.stalled_at is not None and outcome.event.kind in _SHOWS_ACTIVITY:
            stalls.end_stall(self._connection, stored)
            after = self._runs[stored.run.key] = replace(after, stalled_at=None)
        return self._with_deadline(self._with_override_expiry(after), outcome.event)

    def stall(self, stored: StoredRun, reported_at: datetime, typical_epoch_s: float, at: datetime) -> None:
        """Note that the run's trainer is silent: last heard of at `heard_at`, though epochs take `typical_epoch_s`."""
        self.writes += 1
        self.flush()
        stalls.add_stall(self._connection, stored, reported_at, typical_epoch_s, at)
        self._runs[stored.run.key] = replace(stored, stalled_at=at)
        self._changed[stored.run.key] = None

    def is_due(self, stored: StoredRun) -> bool:
        """Whether the point that waits for its ranks has waited long enough."""
        return stored.deadline_at is not None and stored.deadline_at <= self.now

    def has_expired_override(self, stored: StoredRun) -> bool:
        """Whether a rate was to be held until a time that has come."""
        return stored.override_expires_at is not None and stored.override_expires_at <= self.now

    def clear_deadline(self, stored: StoredRun) -> None:
        """Let the point that waits for its ranks wait until another report comes."""
        self._replace_run(replace(stored, deadline_at=None), stored.run)

    def create(self, outcome: Outcome, *, experiment: str | None, tags: Mapping[str, str]) -> StoredRun:
        """Store a new run with its first event."""
        assert outcome.event is not None
        self.writes += 1
        stored = runs.add_run(self._connection, outcome.run, experiment=experiment, tags=tags, at=self.now)
        self._runs[stored.run.key] = stored
        self._new.append((stored.id, outcome.event))
        return stored

    def tag(self, stored: StoredRun, tags: Mapping[str, str]) -> StoredRun:
        self.writes += 1
        after = replace(stored, tags=dict(tags), updated_at=self.now)
        self._runs[stored.run.key] = after
        runs.save_tags(self._connection, after)
        return after

    def delete(self, stored: StoredRun) -> None:
        """Take the run and its events away."""
        self.writes += 1
        self.flush()
        key = stored.run.key
        runs.delete_run(self._connection, stored)
        del self._runs[key]
        self._locked.rows.pop(key, None)
        self._logs.pop(key, None)
        self._changed.pop(key, None)

    def flush(self) -> None:
        """Write the events appended so far."""
        new, self._new = self._new, []
        if new:
            runs.add_events(self._connection, new, self.now)

    def save(self) -> frozenset[str]:
        """Write all that is left to write; gives the keys of the runs that moved."""
        self.flush()
        runs.save_runs(self._connection, [self._runs[key] for key in self._changed], self._locked.rows)
        return frozenset(self._changed)

    def _with_deadline(self, stored: StoredRun, event: Event) -> StoredRun:
        """The head with the time at which its waiting point is due: so long after the first report of it."""
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
            waiting = runs.find_reported(self._connection, stored, stored.run.epoch)
            deadline_at = None if waiting is None else waiting[1] + timedelta(seconds=timeout_s)
        after = self._runs[stored.run.key] = replace(stored, deadline_at=deadline_at)
        return after

    def _with_override_expiry(self, stored: StoredRun) -> StoredRun:
        """The head with the time at which a held rate is let go."""
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
    """Whether the point had been decided."""
    return report.epoch is not None and report.epoch < stored.run.epoch
