"""Delivers the journal's pending entries to the service, in order, and returns its decisions.

Besides the newest entry, the journal may hold entries from an outage, from an earlier process of the job, or entries
that the service has lost (a restored backup). They are delivered first.
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

# Reports in one request: the responses stay far below the transport's limit.
_MAX_BATCH = 200

# Codes of a service that has lost entries it had acknowledged.
_SERVICE_LOST_DATA = ("server_behind", "unknown_attempt", "run_not_found")

# Codes for entries of an attempt that has ended.
_ATTEMPT_ENDED = ("stale_attempt", "run_finished")

# Codes for a report that the service will never accept, while later reports may be valid.
_NEVER_ACCEPTED = ("report_conflict", "out_of_order", "invalid_report", "invalid_request", "body_too_large")


class Delivery:
    """Delivers the journal of the run `key`.
    members: of the run, as `Client.run` takes them.
    warn: called with (cause, message) for each entry left out.
    run: None until `find`. previous_spec: the run before `on_conflict` replaced its policy, if there was one.
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
        self.previous_spec: RunSpec | None = None
        self._client = client
        self._key = key
        self._members = dict(members)
        self._journal = journal
        self._budget = budget
        self._warn = warn
        self._gap = False
        self._batch_size = _MAX_BATCH
        # The newest decision in the journal: a service without it has lost data and says so.
        self._last_seq = journal.last_seq

    def add_members(self, members: Mapping[str, Any]) -> None:
        """Add members of the run before it is created."""
        self._members |= members

    def find(self) -> Run:
        """The run, created if it does not exist. Raises ServiceRefused and ServiceUnreachable."""
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
        """The run, read again. Raises ServiceRefused and ServiceUnreachable."""
        run = self.find()
        run.refresh(timeout_s=self._budget.left_s())
        return run

    def is_answering(self) -> bool:
        """Whether the service answers one short request."""
        return self._client.answers(self._key, timeout_s=self._budget.left_s())

    def deliver(self) -> Decision | None:
        """Send every pending entry, in order; returns the newest decision, None if only an end was pending.
        Raises StaleAttempt if a newer attempt has taken over, ServiceRefused and ServiceUnreachable.
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
        self._client.close()

    def _requeue_lost(self, refusal: ServiceRefused) -> None:
        if refusal.code == "run_not_found":
            self.run = None
        run = self.find()
        self.refresh()
        run.attempt = run.view.attempt
        self._last_seq = None
        self._journal.requeue_from(run.view.attempt, run.view.epoch)

    def _accept_gap(self, refusal: ServiceRefused) -> None:
        """Begin the attempt without the epochs before it: the journal does not have them either."""
        self._gap = True
        self._warn(
            "gap",
            f"neither the service nor this trainer has reports of the epochs just before; run {self._key!r} continues "
            f"from the service's last state: {refusal.detail}",
        )

    def _deliver(self) -> Decision | None:
        self.find()
        decision: Decision | None = None
        while pending := self._journal.pending:
            try:
                decision = self._send_first(pending) or decision
            except ServiceRefused as refusal:
                # Entries of an earlier process: another attempt has ended their attempt, and this process begins one.
                begun = next((index for index, entry in enumerate(pending) if index and _begins(entry)), None)
                if begun is None or refusal.code not in _ATTEMPT_ENDED:
                    raise
                for entry in pending[:begun]:
                    self._reject(entry, refusal)
        return decision

    def _send_first(self, pending: Sequence[Outgoing]) -> Decision | None:
        """Send as many of the first entries as fit into one request."""
        first = pending[0]
        if isinstance(first, AttemptRequest):
            return self._begin(first)
        if isinstance(first, End):
            self._end(first)
            return None
        reports = [each for each in takewhile(_is_report, pending) if isinstance(each, Report)]
        if any(_begins(each) for each in pending):
            # A later attempt exists: the other ranks of this one will not report.
            return self._send_batch(reports[: self._batch_size])
        # The newest report gets a request of its own, which waits for the other ranks.
        return self._report(first) if len(reports) == 1 else self._send_batch(reports[:-1][: self._batch_size])

    def _end(self, end: End) -> None:
        try:
            self.find().finish(end.status, last_seq=self._last_seq, timeout_s=self._budget.left_s())
        except ServiceRefused as refusal:
            if refusal.code == "run_finished":
                # It ended with another status, and the service will never accept this one.
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
            # The service does not know the number of steps: send the trainer's count.
            decision = run.begin(request.epoch, request.key, request.step, timeout_s=self._budget.left_s(), **members)
        self._gap = False
        self._acknowledge(1, decision)
        return decision

    def _report(self, report: Report) -> Decision:
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
            if refusal.code in _NEVER_ACCEPTED:
                self._reject(report, refusal)
            raise
        self._acknowledge(1, decision)
        return decision

    def _send_batch(self, reports: Sequence[Report]) -> Decision | None:
        """Send several reports in one request. The first refused report is rejected if it can never be accepted."""
        run = self.find()
        batch = [replace(report, attempt=run.attempt, last_seq=self._last_seq) for report in reports]
        try:
            answers = run.report_batch(batch, timeout_s=self._budget.left_s())
        except ServiceRefused as refusal:
            if refusal.code not in _NEVER_ACCEPTED:
                raise
            return self._send_half(reports, refusal)
        except ServiceUnreachable:
            # The batch may be too large for the rest of the budget.
            self._batch_size = max(self._batch_size // 4, 1)
            raise
        self._batch_size = min(self._batch_size * 2, _MAX_BATCH)
        accepted = [each for each in answers if not isinstance(each, ServiceRefused)]
        refused = next((each for each in answers if isinstance(each, ServiceRefused)), None)
        self._acknowledge(len(accepted))
        if refused is not None:
            self._reject_report(reports[len(accepted)], refused)
        decision = next((answer for answer in reversed(accepted) if isinstance(answer, Decision)), None)
        self._last_seq = self._last_seq if decision is None else decision.seq
        return decision

    def _send_half(self, reports: Sequence[Report], refusal: ServiceRefused) -> Decision | None:
        """Find the invalid report: the refusal of a whole batch does not name it."""
        if len(reports) > 1:
            return self._send_batch(reports[: len(reports) // 2])
        self._reject_report(reports[0], refusal)
        return None

    def _reject_report(self, report: Report, refusal: ServiceRefused) -> None:
        if refusal.code not in _NEVER_ACCEPTED:
            raise refusal
        self._reject(report, refusal)
        self._warn(refusal.code, f"the report of epoch {report.epoch} is left out: {refusal}")

    def _reject(self, entry: Outgoing, refusal: ServiceRefused) -> None:
        self._journal.reject(entry, str(refusal))
        self._acknowledge(0)

    def _acknowledge(self, count: int, decision: Decision | None = None) -> None:
        self._journal.acknowledge_first(count)
        # The service answers: the entries that are left may use the whole budget.
        self._budget.extend()
        if decision is not None:
            self._last_seq = decision.seq


def _begins(entry: Outgoing) -> bool:
    return isinstance(entry, AttemptRequest)


def _is_report(entry: Outgoing) -> bool:
    return isinstance(entry, Report)
