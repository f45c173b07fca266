"""The client's copy of a run, which decides by the same rules as the service.

While the service answers, the replica is synced to its decisions; a difference shows that an operator has changed the
run. While it does not answer, the replica decides. Code and state are the same, so the curve is too.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace

from remotelr.rules import (
    AttemptRequest,
    Command,
    Decision,
    Event,
    InvalidReport,
    Outcome,
    Policy,
    Report,
    RulesError,
    RunSpec,
    RunState,
    Waiting,
    command,
    rate_at,
)
from remotelr.rules.local_run import LocalRun
from remotelr.rules.run.decision import Action
from remotelr.rules.run.model import OnConflict
from remotelr.rules.run.state import Override, apply_due_overrides

Request = AttemptRequest | Report

_COMPARED = ("epoch", "step", "learning_rate", "action", "state")

# Events in memory, which bound a rewind without the service; one event takes about a kilobyte.
_MAX_EVENTS = 2_000

# Relative difference of the same rate computed on two machines.
_RATE_TOLERANCE = 1e-9


class LocalReplica(LocalRun):
    """The client's copy of the run `key`, which has one rank: the process of the session.
    decision: the newest, of the service or (`local`) of this replica.
    Raises InvalidPolicy if the spec lacks a value that the policy needs.
    """

    def __init__(self, key: str, spec: RunSpec) -> None:
        super().__init__(key, replace(spec, world_size=1))

    @property
    def spec(self) -> RunSpec:
        return self.run.spec

    @property
    def policy(self) -> Policy:
        """The policy with its rates and lengths."""
        return self.run.policy

    def decide(self, request: Request) -> Decision:
        """The decision about an attempt or a report. Raises RulesError; then the replica is unchanged."""
        return self.report(request) if isinstance(request, Report) else self.begin(request)

    def begin(self, request: AttemptRequest) -> Decision:
        """The decision for the first epoch of an attempt. `request.step` is used only if the run has no count."""
        known_here = replace(request, step=None, world_size=None, last_seq=None, gap=True)
        try:
            return super().begin(known_here)
        except InvalidReport:
            return super().begin(replace(known_here, step=request.step))

    def report(self, report: Report) -> Decision:
        """The decision for the epoch after the reported one."""
        answer = super().report(replace(report, attempt=None, rank=0, last_seq=None))
        assert isinstance(answer, Decision), "a run with one rank waits for no other rank"
        return answer

    def put(self, spec: RunSpec, on_conflict: OnConflict = "error") -> None:
        """Request the run again, as `rules.put_policy` does. Raises PolicyConflict, InvalidCommand."""
        super().put(replace(spec, world_size=1), on_conflict)

    def sync_to(self, decision: Decision, request: Request | None = None) -> None:
        """Take over the service's `decision` and state. request: the one that it answers, if that is known."""
        if request is not None and self.log.events[-1].seq == self.decision.seq > 1 and self.decision.local:
            # The local decision about the same request is replaced.
            self.log.events.pop()
        begun = isinstance(request, AttemptRequest)
        event = Event(
            seq=decision.seq,
            kind="attempt" if begun else "report",
            attempt=decision.attempt,
            epoch=decision.epoch if begun else decision.epoch - 1,
            rank=None if begun else 0,
            key=request.key if isinstance(request, AttemptRequest) else None,
            effective_from=decision.epoch,
            payload={},
            state=decision.state,
            decision=decision,
        )
        self.append(event)
        self.decision = decision
        self.run = replace(
            self.run,
            seq=decision.seq,
            attempt=decision.attempt,
            epoch=decision.epoch,
            step=decision.step,
            learning_rate=decision.learning_rate,
            state=RunState.from_json(decision.state),
            decided_seq=decision.seq,
            status="running",
        )

    def apply_now(self, live: Command) -> bool:
        """Apply a command in the present epoch; the service applies it from the next epoch on, to the same effect.
        Returns True if rate or action change. A command that the rules reject changes nothing; nor do pause and
        resume_schedule, which depend on the schedule's position.
        """
        run, decision = self.run, self.decision
        try:
            commanded = command(run, replace(live, key=None, expected_seq=None), self.log).run
        except RulesError:
            return False
        overrides: list[Override] = []
        for each in commanded.state.overrides:
            new = each not in run.state.overrides and each.epoch == decision.epoch + 1
            overrides.extend(_one_epoch_earlier(each) if new else (each,))
        earlier = replace(commanded.state, overrides=tuple(sorted(overrides, key=lambda each: each.epoch)))
        state = apply_due_overrides(run.policy, earlier, decision.epoch, self._position)
        rate = rate_at(run.policy, state, decision.epoch, self._position)
        self.run = replace(run, state=state, learning_rate=rate.learning_rate)
        self.decision = replace(
            decision,
            learning_rate=rate.learning_rate,
            reason=decision.reason if rate.learning_rate == decision.learning_rate else rate.reason,
            action=_action(decision, run.state, state),
            state=state.to_json(),
        )
        return (decision.learning_rate, decision.action) != (rate.learning_rate, self.decision.action)

    def learning_rate_at(self, step: int) -> float:
        """The rate at `step` optimizer steps after the beginning of the decision's epoch."""
        if self.policy.unit == "epoch":
            return self.decision.learning_rate
        position = float((self.decision.step or 0) + step)
        return rate_at(self.policy, self.run.state, self.decision.epoch, position).learning_rate

    def momentum_at(self, step: int) -> float | None:
        """The momentum at the same step; None if the policy has none."""
        position = self._position + (step if self.policy.unit == "step" else 0)
        return self.policy.momentum(self.run.state.schedule, position)

    @property
    def agrees(self) -> bool:
        """Whether the replica computes the decided rate; then its rates of single steps can be used."""
        decided = self.decision.learning_rate
        try:
            rate = rate_at(self.policy, self.run.state, self.decision.epoch, self._position).learning_rate
        except (ArithmeticError, LookupError, TypeError, ValueError, AttributeError):
            # The state belongs to another policy.
            return False
        return abs(rate - decided) <= _RATE_TOLERANCE * decided

    @property
    def _position(self) -> float:
        """The beginning of the decision's epoch, in the policy's unit."""
        return float(self.decision.epoch if self.policy.unit == "epoch" else self.decision.step or 0)

    def take(self, outcome: Outcome) -> Decision | Waiting | None:
        answer = super().take(outcome)
        if isinstance(answer, Decision):
            answer = self.decision = replace(answer, local=True)
        return answer

    def append(self, event: Event) -> None:
        super().append(event)
        if len(self.log.events) > 2 * _MAX_EVENTS:
            # The first event stays: it has the initial state, for a rewind to before the other events.
            self.log.events = [self.log.events[0], *self.log.events[-_MAX_EVENTS:]]


class DecidedRates(ABC):
    """The rates of the newest decision, in a session and on a rank that follows one.

    decision: the newest in force. per_step: the rate changes within its epoch. lost: a newer attempt has taken over.
    """

    def __init__(self) -> None:
        self.decision: Decision | None = None
        self.per_step = False
        self._replica: LocalReplica | None = None

    @property
    @abstractmethod
    def lost(self) -> bool: ...

    @property
    def spec(self) -> RunSpec | None:
        """The run's spec; None if its policy is of a newer release."""
        return None if self._replica is None else self._replica.spec

    def monitors(self) -> tuple[str, ...]:
        """The metrics that the policy monitors."""
        return () if self._replica is None else self._replica.policy.monitors()

    def learning_rate(self, epoch: int, step: int) -> float | None:
        """The rate at `step` optimizer steps after the beginning of `epoch`; None if `epoch` has no decision."""
        decision = self._decision_for(epoch)
        if decision is None:
            return None
        return self._replica.learning_rate_at(step) if self.per_step and self._replica else decision.learning_rate

    def momentum(self, epoch: int, step: int) -> float | None:
        """The momentum of the same step; None if the policy has none or `epoch` has no decision."""
        decision = self._decision_for(epoch)
        if decision is None:
            return None
        return self._replica.momentum_at(step) if self.per_step and self._replica else decision.momentum

    def rollback_to(self, epoch: int) -> int | None:
        """The epoch whose checkpoint the trainer loads before `epoch`; None if it loads none."""
        decision = self._decision_for(epoch)
        return None if decision is None or decision.action != "rollback" else decision.rollback_to

    def _decision_for(self, epoch: int) -> Decision | None:
        decision = self.decision
        return None if self.lost or decision is None or decision.epoch != epoch else decision


def _one_epoch_earlier(override: Override) -> Sequence[Override]:
    """Overrides that begin one epoch earlier and have the same effect from `override.epoch` on."""
    if override.clock is not None:
        return (override,)
    if override.base is not None:
        # The new base is held as a one-shot until the schedule continues from it.
        one_shot = Override(epoch=override.epoch - 1, one_shot=override.base)
        return one_shot, Override(epoch=override.epoch, ends="one_shot"), override
    return (replace(override, epoch=override.epoch - 1),)


def _action(decision: Decision, before: RunState, after: RunState) -> Action:
    """The action after a live command: a stop holds until it is released."""
    if after.stop or after.stopped_by is not None:
        return "stop"
    released = before.stop or before.stopped_by is not None
    return "continue" if released else decision.action


def same(one: Decision, other: Decision) -> bool:
    """Whether two decisions have the same epoch, rate, action and state."""
    return all(getattr(one, name) == getattr(other, name) for name in _COMPARED)
