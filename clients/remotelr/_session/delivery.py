"""The service as one life of a trainer deals with it: it hears the journal, in order and once, and answers.

What a journal holds beyond the newest entry was written while the service was away, or by an earlier
life of the job, or has been lost by the service since (a restored backup). It goes first.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import takewhile
from typing import Any

from remotelr._session.budget import Budget
from remotelr._session.journal import End, Journal, Outgoing
from remotelr.client import Client
from remotelr.errors import ServiceRefused, ServiceUnreachable
from remotelr.rules import AttemptRequest, Decision, Report, RulesError, RunSpec
from remotelr.run import Run

# Reports sent together: their answers stay far below what a transport takes.
_MAX_BATCH = 200

# The service holds less than we do.
_SERVICE_LOST_DATA = ("server_behind", "unknown_attempt", "run_not_found")

# What came too late for the attempt it belongs to.
_ATTEMPT_ENDED = ("stale_attempt", "run_finished")

# Nobody will ever take such a report, and those behind it may be fine.
_UNACCEPTABLE = ("report_conflict", "out_of_order", "invalid_report", "invalid_request", "body_too_large")


class Delivery:
    """Tells the service of the run `key` what the journal holds.

    members: of the run, as `Client.run` takes them.
    warn: is sent (cause, message) of what was left out.
    """

    def __init__(
        self,
        client: Client,
        key: str,
        members: Mapping[str, Any],
        *,
        journal: Journal,
        budget: Budget,
        warn: Callable[[str, str], None],
    ) -> None:
        self.url = client.url
        self.run: Run | None = None
        # What the run was before we entry for another policy, where somebody shall be sent.
        self.previous_spec: RunSpec | None = None
        self._client = client
        self._key = key
        self._members = dict(members)
        self._journal = journal
        self._budget = budget
        self._warn = warn
        self._gap = False
        self._batch_size = _MAX_BATCH
        # The newest decision held here: a service that does not know it has lost something.
        self._last_seq = journal.last_seq

    def add_members(self, members: Mapping[str, Any]) -> None:
        """Say more of the run before it is created."""
        self._members |= members

    def find(self) -> Run:
        """The run, created where there is none. Raises ServiceRefused and ServiceUnreachable."""
        if self.run is None:
            if self._members.get("on_conflict") in ("replace", "restart") and self.previous_spec is None:
                self.previous_spec = self._current_spec()
            self.run = self._client.run(self._key, timeout_s=self._budget.left_s(), **self._members)
            self.run.attempt = self._journal.attempt
        return self.run

    def _current_spec(self) -> RunSpec | None:
        try:
            return RunSpec.from_json(self._client.get_run(self._key, timeout_s=self._budget.left_s()).view.spec)
        except (ServiceRefused, RulesError):
            return None

    def refresh(self) -> Run:
        """The run, read anew. Raises ServiceRefused and ServiceUnreachable."""
        run = self.find()
        run.refresh(timeout_s=self._budget.left_s())
        return run

    def is_answering(self) -> bool:
        """Whether the service answers at all: one short try."""
        return self._client.answers(self._key, timeout_s=self._budget.left_s())

    def deliver(self) -> Decision | None:
        """Everything pending, in order; the newest decision, where one was entry for.

        Raises StaleAttempt when a newer attempt has taken over, ServiceRefused and ServiceUnreachable.
        """
        for remedy in (self._requeue_lost, self._accept_gap):
            try:
                return self._deliver()
            except ServiceRefused as refusal:
                if refusal.code not in _SERVICE_LOST_DATA:
                    raise
                remedy(refusal)
        return self._deliver()

    def close(self) -> None:
        """Let go of the connection."""
        self._client.close()

    def _requeue_lost(self, refusal: ServiceRefused) -> None:
        """The service has lost what we know: it hears that again from where it stands."""
        if refusal.code == "run_not_found":
            self.run = None
        run = self.find()
        self.refresh()
        run.attempt = run.view.attempt
        self._last_seq = None
        self._journal.requeue_from(run.view.attempt, run.view.epoch)

    def _accept_gap(self, refusal: ServiceRefused) -> None:
        """We do not know either what it has lost."""
        self._gap = True
        self._warn(
            "gap",
            f"the service holds no reports of the epochs just before, nor are they here; run {self._key!r} goes on "
            f"from what it last knew: {refusal.detail}",
        )

    def _deliver(self) -> Decision | None:
        self.find()
        decision: Decision | None = None
        while pending := self._journal.pending:
            try:
                decision = self._send_first(pending) or decision
            except ServiceRefused as refusal:
                # Of an earlier life of the job: since then another one has begun or ended it, and now this one begins.
                over = next((place for place, entry in enumerate(pending) if place and _begins(entry)), None)
                if over is None or refusal.code not in _ATTEMPT_ENDED:
                    raise
                for entry in pending[:over]:
                    self._reject(entry, refusal)
        return decision

    def _send_first(self, pending: Sequence[Outgoing]) -> Decision | None:
        """Tell what can be sent with one request."""
        first = pending[0]
        if isinstance(first, AttemptRequest):
            return self._begin(first)
        if isinstance(first, End):
            self._end(first)
            return None
        reports = [each for each in takewhile(_is_report, pending) if isinstance(each, Report)]
        if any(_begins(each) for each in pending):
            # Another attempt has begun since: nobody waits for the other ranks of this one.
            return self._send_batch(reports[: self._batch_size])
        # The newest is left for a call of its own, which waits for the other ranks.
        return self._report(first) if len(reports) == 1 else self._send_batch(reports[:-1][: self._batch_size])

    def _end(self, end: End) -> None:
        try:
            self.find().finish(end.status, last_seq=self._last_seq, timeout_s=self._budget.left_s())
        except ServiceRefused as refusal:
            if refusal.code == "run_finished":
                # Otherwise, by somebody else: nobody will ever take it.
                self._reject(end, refusal)
            raise
        self._acknowledge(1)

    def _begin(self, request: AttemptRequest) -> Decision:
        run = self.find()
        members: dict[str, Any] = {
            "world_size": request.world_size,
            "gap": request.gap or self._gap,
            "last_seq": self._last_seq,
        }
        try:
            decision = run.begin(request.epoch, request.key, timeout_s=self._budget.left_s(), **members)
        except ServiceRefused as refusal:
            if refusal.code != "invalid_report":
                raise
            # The service does not know how many steps were made; our own count is as good as any.
            decision = run.begin(request.epoch, request.key, request.step, timeout_s=self._budget.left_s(), **members)
        self._gap = False
        self._acknowledge(1)
        self._last_seq = decision.seq
        return decision

    def _report(self, report: Report) -> Decision:
        """The hot call."""
        left_s = self._budget.left_s()
        try:
            decision = self.find().report(
                report.epoch,
                report.metrics,
                rank=report.rank or None,
                step=report.step,
                learning_rate=report.learning_rate,
                local=report.local,
                wait_s=left_s,
                timeout_s=left_s,
            )
        except ServiceRefused as refusal:
            if refusal.code in _UNACCEPTABLE:
                self._reject(report, refusal)
            raise
        self._acknowledge(1)
        self._last_seq = decision.seq
        return decision

    def _send_batch(self, reports: Sequence[Report]) -> Decision | None:
        """Several at once. The first that is refused is laid aside, if that is all that is wrong with it."""
        run = self.find()
        sent = [replace(report, attempt=run.attempt, last_seq=self._last_seq) for report in reports]
        try:
            answers = run.report_batch(sent, timeout_s=self._budget.left_s())
        except ServiceRefused as refusal:
            if refusal.code not in _UNACCEPTABLE:
                raise
            return self._halved(reports, refusal)
        except ServiceUnreachable:
            # Perhaps too much for what is left of the budget, and it would be too much again.
            self._batch_size = max(self._batch_size // 4, 1)
            raise
        self._batch_size = min(self._batch_size * 2, _MAX_BATCH)
        answered = [answer for answer in answers if not isinstance(answer, ServiceRefused)]
        self._acknowledge(len(answered))
        if len(answered) < len(answers):
            self._reject_report(reports[len(answered)], answers[-1])
        decision = next((answer for answer in reversed(answered) if isinstance(answer, Decision)), None)
        self._last_seq = self._last_seq if decision is None else decision.seq
        return decision

    def _halved(self, reports: Sequence[Report], refusal: ServiceRefused) -> Decision | None:
        """A batch that was refused as a whole does not say which report is wrong: ask for less, then for one."""
        if len(reports) > 1:
            return self._send_batch(reports[: len(reports) // 2])
        self._reject_report(reports[0], refusal)
        return None

    def _reject_report(self, report: Report, refusal: object) -> None:
        assert isinstance(refusal, ServiceRefused)
        if refusal.code not in _UNACCEPTABLE:
            raise refusal
        self._reject(report, refusal)
        self._warn(refusal.code, f"the report of epoch {report.epoch} is left out: {refusal}")

    def _reject(self, entry: Outgoing, refusal: ServiceRefused) -> None:
        self._journal.reject(entry, str(refusal))
        self._acknowledge(0)

    def _acknowledge(self, count: int) -> None:
        self._journal.acknowledge_first(count)
        # Somebody is there: what is still to be sent may take its time.
        self._budget.extend()


def _begins(entry: Outgoing) -> bool:
    return isinstance(entry, AttemptRequest)


def _is_report(entry: Outgoing) -> bool:
    return isinstance(entry, Report)
