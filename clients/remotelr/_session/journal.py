"""The requests of a run and the decisions about it, in order: in memory and, if there is one, in a spool file.

    {"run": spec}  {"attempt": …}  {"report": …} {"report": …}  {"decision": …}  {"report": …}  {"end": …}
                                                                     ▲ the service has acknowledged all before it

An entry is written before it is sent, so neither an outage nor a killed trainer loses a report. The file is
sufficient to decide the next epoch, and to deliver what the service does not have.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, get_args

from remotelr._http import responses
from remotelr._http.requests import without_none
from remotelr._session.replica import LocalReplica, Request
from remotelr._session.spool import Record, Spool
from remotelr.rules import (
    AttemptRequest,
    Decision,
    Report,
    RulesError,
    RunSpec,
    metrics_from_json,
    metrics_to_json,
)
from remotelr.rules.run.decision import decision_to_json
from remotelr.rules.run.model import FinalStatus


@dataclass(frozen=True, slots=True)
class End:
    """The run has ended: completed, failed or stopped."""

    status: FinalStatus


# An entry that is sent to the service.
Outgoing = Request | End

Entry = Outgoing | Decision

# Entries in memory, for a service that has not received them or has lost them.
MAX_ENTRIES = 20_000

# Acknowledged entries that stay when a full file is rewritten; the next number is tried if that is still too long.
_ENTRIES_WHEN_FULL = (500, 50, 1)


class Journal:
    """The entries of one run, oldest first.
    spool: its records are read, and new entries are appended to it; None for memory only.
    lasting: the file stays when the run has ended.
    spec: of the run; None before it is known. entries: of this process and of earlier ones.
    full: the file is full; it has the newest decision, but not all pending reports.
    """

    def __init__(self, spool: Spool | None = None, *, lasting: bool = False) -> None:
        self.spec: RunSpec | None = None
        self.entries: list[Entry] = []
        self.full = False
        self._acknowledged = 0
        self._spool = spool
        self._lasting = lasting
        if spool is not None:
            self._load_all(spool.records)

    def resume_from(self, records: Sequence[Record]) -> None:
        """Begin with the `snapshot` of a checkpoint, if there are no entries of the run."""
        if self.spec is None:
            self._load_all(records)
            self._rewrite()

    @property
    def pending(self) -> list[Outgoing]:
        """The entries that the service has not acknowledged, oldest first."""
        return _outgoing(self.entries[self._acknowledged :])

    @property
    def path(self) -> Path | None:
        """The file; None for memory only."""
        return None if self._spool is None else self._spool.path

    @property
    def attempt(self) -> int | None:
        """The attempt in force before `pending`; None if the service has not numbered one."""
        return None if (newest := self._newest) is None else newest.attempt

    @property
    def last_seq(self) -> int | None:
        """The `seq` of the service's newest decision; None if there is none."""
        return None if (newest := self._newest) is None else newest.seq

    @property
    def _newest(self) -> Decision | None:
        acknowledged = reversed(self.entries[: self._acknowledged])
        return next((entry for entry in acknowledged if isinstance(entry, Decision)), None)

    def set_spec(self, spec: RunSpec) -> None:
        if spec == self.spec:
            return
        self.spec = spec
        self._rewrite()

    def append(self, entry: Outgoing) -> None:
        self.entries.append(entry)
        self._write(entry)
        self._trim()

    def flush(self) -> None:
        """Sync the file to the disk: without an answer it may be the only copy for a long time."""
        if self._spool is not None:
            self._spool.sync()

    def acknowledge(self, decision: Decision) -> None:
        """Append the service's decision, which acknowledges every pending entry."""
        self.entries.append(decision)
        self._acknowledged = len(self.entries)
        self.full = False
        self._write(decision)
        self._trim()

    def acknowledge_first(self, count: int) -> None:
        """Acknowledge the first `count` pending entries; the file records it with the next decision."""
        for index, entry in enumerate(self.entries[self._acknowledged :], self._acknowledged):
            if count == 0:
                return
            self._acknowledged = index + 1
            count -= not isinstance(entry, Decision)

    def reject(self, entry: Outgoing, reason: str) -> None:
        """Remove an entry that the service will never accept; its record goes to the file of rejected records."""
        self.entries = [each for each in self.entries if each is not entry]
        if self._spool is not None:
            self._spool.reject(_record(entry), reason)

    def save(self, decision: Decision) -> None:
        """If the file is full, replace its content by the spec and this local decision."""
        if self.full and self._spool is not None and self.spec is not None:
            self._spool.replace([_record(self.spec), _record(decision)])

    def requeue_from(self, attempt: int, epoch: int) -> None:
        """Make pending what a service at `epoch` of `attempt` does not have, as far as it is in memory.
        An attempt that the service does not know is pending with all of its reports.
        """
        numbers = self._attempts()
        lost = next((index for index, number in numbers.items() if number is None or number > attempt), None)
        known = next((index for index, number in numbers.items() if number == attempt), None)
        pending = [] if lost is None else _outgoing(self.entries[lost:])
        acknowledged = self.entries[:lost]
        if known is not None:
            of_attempt = self.entries[known:lost]
            pending = [*(each for each in _outgoing(of_attempt) if not _is_known(each, epoch)), *pending]
            acknowledged = [*self.entries[:known], *(each for each in of_attempt if _is_known(each, epoch))]
        # Without the decisions that the service has lost: it decides those epochs again.
        self.entries = [*acknowledged, *pending]
        self._acknowledged = len(acknowledged)

    def _attempts(self) -> dict[int, int | None]:
        """The index in `entries` at which each attempt begins, oldest first, and its number, if that is known."""
        numbers: dict[int, int | None] = {}
        number: int | None = None
        for index in range(len(self.entries) - 1, -1, -1):
            entry = self.entries[index]
            if isinstance(entry, Decision) and not entry.local:
                number = entry.attempt
            elif isinstance(entry, AttemptRequest):
                numbers[index] = number
                # The attempt before it, unless another process has begun one in between.
                number = None if number is None else number - 1
        return dict(reversed(numbers.items()))

    def fold(self, replica: LocalReplica) -> None:
        """Apply the entries to `replica`. Raises RulesError if they are not valid for it."""
        request: Request | None = None
        for entry in self.entries:
            if isinstance(entry, Decision):
                replica.sync_to(entry, request)
                request = None
            elif not isinstance(entry, End):
                replica.decide(entry)
                request = entry

    def close(self, *, done: bool = False) -> None:
        """Close the file. done: the run has ended; the file is removed, unless it is lasting or entries are pending."""
        if self._spool is None:
            return
        if done and self._lasting and isinstance(self.entries[-1], End):
            # An acknowledged end has no decision after it that would say so in the file.
            self.entries.pop()
            self._rewrite()
        if self._lasting or self.pending or not done:
            self._spool.close()
        else:
            self._spool.remove()

    def _write(self, entry: Entry) -> None:
        if self._spool is None or self.full:
            return
        if not self._spool.append(_record(entry)):
            self._rewrite()

    def _rewrite(self) -> None:
        """Write the file again without old acknowledged entries."""
        if self._spool is None or self.spec is None:
            return
        for count in _ENTRIES_WHEN_FULL:
            entries = self.entries[max(self._acknowledged - count, 0) :]
            if self._spool.replace([_record(self.spec), *map(_record, entries)]):
                self.full = False
                return
        self.full = True

    def _trim(self) -> None:
        if len(self.entries) <= MAX_ENTRIES:
            return
        dropped = MAX_ENTRIES // 2
        gone, self.entries = self.entries[:dropped], self.entries[dropped:]
        if self._acknowledged < dropped:
            # Pending entries are dropped: the attempt begins after them, with a gap.
            begun = next((entry for entry in reversed(gone) if isinstance(entry, AttemptRequest)), None)
            first = next((entry.epoch for entry in self.entries if isinstance(entry, AttemptRequest | Report)), None)
            if begun is not None and first is not None:
                self.entries.insert(0, replace(begun, epoch=first, gap=True))
        self._acknowledged = max(self._acknowledged - dropped, 0)

    def _load_all(self, records: Sequence[Record]) -> None:
        """Read the file up to the first invalid record."""
        try:
            for record in records:
                self._load(record)
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, RulesError, responses.Unreadable):
            self.full = False

    def _load(self, record: Record) -> None:
        ((kind, document),) = record.items()
        if kind == "run":
            self.spec = RunSpec.from_json(document)
            self.spec.bound()
            return
        entry = _READERS[kind](document)
        self.entries.append(entry)
        if isinstance(entry, Decision) and not entry.local:
            self._acknowledged = len(self.entries)


def snapshot(spec: RunSpec, decision: Decision) -> list[Record]:
    """The records that suffice to decide the epochs after `decision` without the service and without a file."""
    return [_record(spec), _record(replace(decision, local=True))]


def _is_known(entry: Entry, epoch: int) -> bool:
    """Whether a service at `epoch` of the entry's attempt has the entry."""
    match entry:
        case Report():
            return entry.epoch < epoch
        case Decision():
            return entry.epoch <= epoch
        case _:
            return not isinstance(entry, End)


def _outgoing(entries: Sequence[Entry]) -> list[Outgoing]:
    return [entry for entry in entries if not isinstance(entry, Decision)]


def _record(value: Entry | RunSpec) -> Record:
    match value:
        case RunSpec():
            return {"run": value.to_json()}
        case AttemptRequest():
            return {"attempt": without_none(asdict(value))}
        case Report():
            return {"report": without_none({**asdict(value), "metrics": metrics_to_json(value.metrics)})}
        case End():
            return {"end": {"status": value.status}}
        case Decision():
            return {"decision": without_none({**decision_to_json(value), "why": value.why, "local": value.local})}


def _attempt(document: Mapping[str, Any]) -> AttemptRequest:
    return AttemptRequest(
        key=str(document["key"]),
        epoch=int(document["epoch"]),
        step=_integer(document.get("step")),
        world_size=_integer(document.get("world_size")),
        gap=bool(document.get("gap")),
    )


def _report(document: Mapping[str, Any]) -> Report:
    rate = document.get("learning_rate")
    return Report(
        epoch=int(document["epoch"]),
        metrics=metrics_from_json(document["metrics"]),
        rank=int(document.get("rank", 0)),
        weight=float(document.get("weight", 1.0)),
        step=_integer(document.get("step")),
        learning_rate=None if rate is None else float(rate),
        local=bool(document.get("local")),
    )


def _end(document: Mapping[str, Any]) -> End:
    if document["status"] not in get_args(FinalStatus):
        raise ValueError(f"no run ends as {document['status']!r}")
    return End(document["status"])


def _decision(document: Mapping[str, Any]) -> Decision:
    return replace(responses.read_decision(document), local=bool(document.get("local")))


def _integer(value: Any) -> int | None:
    return None if value is None else int(value)


_READERS: Mapping[str, Callable[[Mapping[str, Any]], Entry]] = {
    "attempt": _attempt,
    "report": _report,
    "end": _end,
    "decision": _decision,
}
