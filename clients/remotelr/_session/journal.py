"""What this trainer asked of its run, and what was decided, in order: in memory, and in a file where there is one.

    {"run": spec}  {"attempt": …}  {"report": …} {"report": …}  {"decision": …}  {"report": …}  {"end": …}
                                                                     ▲ the service has heard all before it

Written before it is sent, so that neither a dead service nor a killed trainer loses a report. The file
alone is enough to decide the next epoch, and to tell the service what it does not know.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, get_args

from remotelr._http import responses
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
from remotelr.run import FinalStatus


@dataclass(frozen=True, slots=True)
class End:
    """The run has ended: completed, failed or stopped."""

    status: FinalStatus


# What the service is told.
Outgoing = Request | End

Entry = Outgoing | Decision

# What is kept in memory, to tell a service again that has lost it, or never heard it.
MAX_ENTRIES = 20_000

# What is kept of what was heard when the file is full: enough, then a little, then the least.
_ENTRIES_WHEN_FULL = (500, 50, 1)


class Journal:
    """The entries of one run, oldest first.

    spool: where they are written too; None for nowhere. What it holds is read.
    lasting: that file stays when the run has ended.

    spec: what is known of the run; None until somebody says. entries: of this life and of those before it.
    full: the file took no more, and holds where the run stands, but not the reports not yet heard.
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

    @property
    def pending(self) -> list[Outgoing]:
        """What the service has not answered yet, oldest first."""
        return _outgoing(self.entries[self._acknowledged :])

    @property
    def path(self) -> Path | None:
        """The file, where there is one."""
        return None if self._spool is None else self._spool.path

    @property
    def attempt(self) -> int | None:
        """The number of the attempt in force where `unheard` begins; None where the service never gave one."""
        return None if (newest := self._newest) is None else newest.attempt

    @property
    def last_seq(self) -> int | None:
        """The number of the newest decision of the service; None where it never gave one."""
        return None if (newest := self._newest) is None else newest.seq

    @property
    def _newest(self) -> Decision | None:
        heard = reversed(self.entries[: self._acknowledged])
        return next((entry for entry in heard if isinstance(entry, Decision)), None)

    def set_spec(self, spec: RunSpec) -> None:
        """Note what the run is; entries under another description count no more, except what was not heard."""
        if spec == self.spec:
            return
        self.spec = spec
        self._rewrite()

    def append(self, asked: Outgoing) -> None:
        """Note what is about to be asked."""
        self.entries.append(asked)
        self._write(asked)
        self._trim()

    def flush(self) -> None:
        """Nobody answers: what was noted may be all there is for a long time."""
        if self._spool is not None:
            self._spool.sync()

    def acknowledge(self, decision: Decision) -> None:
        """Note the service's answer to everything unheard."""
        self.entries.append(decision)
        self._acknowledged = len(self.entries)
        self.full = False
        self._write(decision)
        self._trim()

    def acknowledge_first(self, count: int) -> None:
        """The service has answered that many of the unheard; the file will say so when it has answered all."""
        for place, entry in enumerate(self.entries[self._acknowledged :], self._acknowledged):
            if count == 0:
                return
            self._acknowledged = place + 1
            count -= not isinstance(entry, Decision)

    def reject(self, asked: Outgoing, reason: str) -> None:
        """Lay aside what nobody will ever take: it is in the entries no more."""
        self.entries = [entry for entry in self.entries if entry is not asked]
        if self._spool is not None:
            self._spool.reject(_record(asked), reason)

    def save(self, decision: Decision) -> None:
        """Where the file is full: keep at least where the run stands now, by a decision of our own."""
        if self.full and self._spool is not None and self.spec is not None:
            self._spool.replace([_record(self.spec), _record(decision)])

    def requeue_from(self, attempt: int, epoch: int) -> None:
        """The service stands at `epoch` of `attempt`: it hears again what came after that, as far as we remember.

        Attempts it does not know are begun again, each with its reports: it goes back where they went back.
        """
        numbers = self._attempts()
        lost = next((place for place, number in numbers.items() if number is None or number > attempt), None)
        known = next((place for place, number in numbers.items() if number == attempt), None)
        again = [] if lost is None else _outgoing(self.entries[lost:])
        kept = self.entries[:lost]
        if known is not None:
            of_it = self.entries[known:lost]
            again = [*(each for each in _outgoing(of_it) if not _is_known(each, epoch)), *again]
            kept = [*self.entries[:known], *(each for each in of_it if _is_known(each, epoch))]
        # Decisions that the service has lost are not kept: what is told again is decided again.
        self.entries = [*kept, *again]
        self._acknowledged = len(kept)

    def _attempts(self) -> dict[int, int | None]:
        """Where each attempt begins in `entries`, oldest first, and the number it got, where that is known."""
        numbers: dict[int, int | None] = {}
        number: int | None = None
        for place in range(len(self.entries) - 1, -1, -1):
            entry = self.entries[place]
            if isinstance(entry, Decision) and not entry.local:
                number = entry.attempt
            elif isinstance(entry, AttemptRequest):
                numbers[place] = number
                # The one before it, if nobody else has begun any.
                number = None if number is None else number - 1
        return dict(reversed(numbers.items()))

    def fold(self, shadow: LocalReplica) -> None:
        """Lead `shadow` to where these entries lead. Raises RulesError where they lead nowhere."""
        asked: Request | None = None
        for entry in self.entries:
            if isinstance(entry, Decision):
                shadow.sync_to(entry, asked)
                asked = None
            elif not isinstance(entry, End):
                shadow.decide(entry)
                asked = entry

    def close(self, *, done: bool = False) -> None:
        """Let go of the file. done: the run has ended, and the file with it, unless it is a lasting one."""
        if self._spool is None:
            return
        if done and self._lasting and isinstance(self.entries[-1], End):
            # Heard, which the file would only say with another decision.
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
        """The file without what has been heard long ago."""
        if self._spool is None or self.spec is None:
            return
        for kept in _ENTRIES_WHEN_FULL:
            entries = self.entries[max(self._acknowledged - kept, 0) :]
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
            # Never heard: the service will be told of a gap.
            begun = next((entry for entry in reversed(gone) if isinstance(entry, AttemptRequest)), None)
            first = next((entry.epoch for entry in self.entries if isinstance(entry, AttemptRequest | Report)), None)
            if begun is not None and first is not None:
                self.entries.insert(0, replace(begun, epoch=first, gap=True))
        self._acknowledged = max(self._acknowledged - dropped, 0)

    def _load_all(self, records: Sequence[Record]) -> None:
        """What the file says; nothing of what does not make sense, nor of what comes after it."""
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


def _is_known(entry: Entry, epoch: int) -> bool:
    """Whether a service that stands at `epoch` of the attempt it belongs to knows of it."""
    match entry:
        case Report():
            return entry.epoch < epoch
        case Decision():
            return entry.epoch <= epoch
        case _:
            return not isinstance(entry, End)


def _outgoing(entries: Sequence[Entry]) -> list[Outgoing]:
    return [entry for entry in entries if not isinstance(entry, Decision)]


def _record(thing: Entry | RunSpec) -> Record:
    match thing:
        case RunSpec():
            return {"run": thing.to_json()}
        case AttemptRequest():
            return {"attempt": _without_none(asdict(thing))}
        case Report():
            return {"report": _without_none({**asdict(thing), "metrics": metrics_to_json(thing.metrics)})}
        case End():
            return {"end": {"status": thing.status}}
        case Decision():
            return {"decision": _without_none({**decision_to_json(thing), "why": thing.why, "local": thing.local})}


def _without_none(members: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in members.items() if value is not None}


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
