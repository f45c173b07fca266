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
_BATCH = 200

# The service holds less than we do.
_LOST = ("server_behind", "unknown_attempt", "run_not_found")

# What came too late for the attempt it belongs to.
_OVER = ("stale_attempt", "run_finished")

# Nobody will ever take such a report, and those behind it may be fine.
_POISON = ("report_conflict", "out_of_order", "invalid_report", "invalid_request", "body_too_large")


class Delivery:
    """Tells the service of the run `key` what the journal holds.

    members: of the run, as `Client.run` takes them.
    warn: is told (cause, message) of what was left out.
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
        # What the run was before we asked for another policy, where somebody shall be told.
        self.before: RunSpec | None = None
        self._client = client
        self._key = key
        self._members = dict(members)
        self._journal = journal
        self._budget = budget
        self._warn = warn
        self._gap = False
        self._most = _BATCH
        # The newest decision held here: a service that does not know it has lost something.
        self._last_seq = journal.last_seq

    def describe(self, members: Mapping[str, Any]) -> None:
        """Say more of the run before it is created."""
        self._members |= members

    def find(self) -> Run:
        """The run, created where there is none. Raises ServiceRefused and ServiceUnreachable."""
        if self.run is None:
            if self._members.get("on_conflict") in ("replace", "restart") and self.before is None:
                self.before = self._spec_before()
            self.run = self._client.run(self._key, timeout_s=self._budget.left_s(), **self._members)
            self.run.attempt = self._journal.attempt
        return self.run

    def _spec_before(self) -> RunSpec | None:
        try:
            return RunSpec.from_json(self._client.get_run(self._key, timeout_s=self._budget.left_s()).view.spec)
        except (ServiceRefused, RulesError):
            return None

    @property
    def spec(self) -> RunSpec:
        """What the service says the run is. Raises InvalidPolicy for a policy newer than this package."""
        view = self.find().view
        return RunSpec.from_json(view.spec)

    def refresh(self) -> Run:
        """The run, read anew. Raises ServiceRefused and ServiceUnreachable."""
        run = self.find()
        run.refresh(timeout_s=self._budget.left_s())
        return run

    def is_there(self) -> bool:
        """Whether the service answers at all: one short try."""
        return self._client.answers(self._key, timeout_s=self._budget.left_s())

    def deliver(self) -> Decision | None:
        """Everything unheard, in order; the newest decision, where one was asked for.

        Raises StaleAttempt when a newer attempt has taken over, ServiceRefused and ServiceUnreachable.
        """
        for remedy in (self._tell_again, self._leave_out):
            try:
                return self._deliver()
            except ServiceRefused as refusal:
                if refusal.code not in _LOST:
                    raise
                remedy(refusal)
        return self._deliver()

    def close(self) -> None:
        """Let go of the connection."""
        self._client.close()

    def _tell_again(self, refusal: ServiceRefused) -> None:
        """The service has lost what we know: it hears that again from where it stands."""
        if refusal.code == "run_not_found":
            self.run = None
        run = self.find()
        self.refresh()
        run.attempt = run.view.attempt
        self._last_seq = None
        self._journal.again_from(run.view.attempt, run.view.epoch)

    def _leave_out(self, refusal: ServiceRefused) -> None:
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
        while unheard := self._journal.unheard:
            try:
                decision = self._tell_first(unheard) or decision
            except ServiceRefused as refusal:
                # Of an earlier life of the job: since then another one has begun or ended it, and now this one begins.
                over = next((place for place, asked in enumerate(unheard) if place and _begins(asked)), None)
                if over is None or refusal.code not in _OVER:
                    raise
                for asked in unheard[:over]:
                    self._reject(asked, refusal)
        return decision

    def _tell_first(self, unheard: Sequence[Outgoing]) -> Decision | None:
        """Tell what can be told with one request."""
        first = unheard[0]
        if isinstance(first, AttemptRequest):
            return self._begin(first)
        if isinstance(first, End):
            self._end(first)
            return None
        reports = [each for each in takewhile(_is_report, unheard) if isinstance(each, Report)]
        if any(_begins(each) for each in unheard):
            # Another attempt has begun since: nobody waits for the other ranks of this one.
            return self._report_all(reports[: self._most])
        # The newest is left for a call of its own, which waits for the other ranks.
        return self._report(first) if len(reports) == 1 else self._report_all(reports[:-1][: self._most])

    def _end(self, end: End) -> None:
        try:
            self.find().finish(end.status, last_seq=self._last_seq, timeout_s=self._budget.left_s())
        except ServiceRefused as refusal:
            if refusal.code == "run_finished":
                # Otherwise, by somebody else: nobody will ever take it.
                self._reject(end, refusal)
            raise
        self._heard(1)

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
        self._heard(1)
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
            if refusal.code in _POISON:
                self._reject(report, refusal)
            raise
        self._heard(1)
        self._last_seq = decision.seq
        return decision

    def _report_all(self, reports: Sequence[Report]) -> Decision | None:
        """Several at once. The first that is refused is laid aside, if that is all that is wrong with it."""
        run = self.find()
        told = [replace(report, attempt=run.attempt, last_seq=self._last_seq) for report in reports]
        try:
            answers = run.report_batch(told, timeout_s=self._budget.left_s())
        except ServiceRefused as refusal:
            if refusal.code not in _POISON:
                raise
            return self._halved(reports, refusal)
        except ServiceUnreachable:
            # Perhaps too much for what is left of the budget, and it would be too much again.
            self._most = max(self._most // 4, 1)
            raise
        self._most = min(self._most * 2, _BATCH)
        answered = [answer for answer in answers if not isinstance(answer, ServiceRefused)]
        self._heard(len(answered))
        if len(answered) < len(answers):
            self._lay_aside(reports[len(answered)], answers[-1])
        decision = next((answer for answer in reversed(answered) if isinstance(answer, Decision)), None)
        self._last_seq = self._last_seq if decision is None else decision.seq
        return decision

    def _halved(self, reports: Sequence[Report], refusal: ServiceRefused) -> Decision | None:
        """A batch that was refused as a whole does not say which report is wrong: ask for less, then for one."""
        if len(reports) > 1:
            return self._report_all(reports[: len(reports) // 2])
        self._lay_aside(reports[0], refusal)
        return None

    def _lay_aside(self, report: Report, refusal: object) -> None:
        assert isinstance(refusal, ServiceRefused)
        if refusal.code not in _POISON:
            raise refusal
        self._reject(report, refusal)
        self._warn(refusal.code, f"the report of epoch {report.epoch} is left out: {refusal}")

    def _reject(self, asked: Outgoing, refusal: ServiceRefused) -> None:
        self._journal.reject(asked, str(refusal))
        self._heard(0)

    def _heard(self, count: int) -> None:
        self._journal.heard(count)
        # Somebody is there: what is still to be told may take its time.
        self._budget.extend()


def _begins(asked: Outgoing) -> bool:
    return isinstance(asked, AttemptRequest)


def _is_report(asked: Outgoing) -> bool:
    return isinstance(asked, Report)
