"""A run with its log in memory: each transition is applied and its event appended."""

from remotelr.rules.commands import execute
from remotelr.rules.run.command import Command
from remotelr.rules.run.decision import Decision, Waiting
from remotelr.rules.run.events import Event, MemoryLog
from remotelr.rules.run.model import AttemptRequest, FinalStatus, OnConflict, Outcome, Report, Run, RunSpec
from remotelr.rules.transitions import attempt, lifecycle
from remotelr.rules.transitions import report as reports


class LocalRun:
    """The run `key` and its log. Every method raises what its transition raises; then the run is unchanged.

    run: the run after its newest event. decision: the decision in force.

    Raises InvalidPolicy if the spec lacks a value that the policy needs.
    """

    def __init__(self, key: str, spec: RunSpec) -> None:
        self.log = MemoryLog()
        self.run: Run
        self.decision: Decision
        self.take(lifecycle.create(key, spec))

    def put(self, spec: RunSpec, on_conflict: OnConflict = "error") -> None:
        """Request the run again with this spec."""
        self.take(lifecycle.put_policy(self.run, spec, on_conflict))

    def begin(self, request: AttemptRequest) -> Decision:
        """Begin an attempt; returns the decision for its first epoch."""
        answer = self.take(attempt.begin_attempt(self.run, request, self.log))
        assert isinstance(answer, Decision)
        return answer

    def report(self, report: Report) -> Decision | Waiting:
        """Report an epoch; returns the decision for the next epoch, or that other ranks are missing."""
        answer = self.take(reports.report(self.run, report, self.log))
        assert answer is not None
        return answer

    def command(self, command: Command) -> Event | None:
        """Execute a command; returns its event, or None if its key is known."""
        outcome = execute.command(self.run, command, self.log)
        self.take(outcome)
        return outcome.event

    def finish(self, status: FinalStatus, last_seq: int | None = None) -> None:
        """End the run."""
        self.take(lifecycle.finish(self.run, status, last_seq))

    def take(self, outcome: Outcome) -> Decision | Waiting | None:
        """Replace the run by that of `outcome` and append its event; returns the answer."""
        self.run = outcome.run
        if outcome.event is not None:
            self.append(outcome.event)
            if outcome.event.decision is not None:
                self.decision = outcome.event.decision
        return outcome.answer

    def append(self, event: Event) -> None:
        """Append an event to the log."""
        self.log.append(event)
