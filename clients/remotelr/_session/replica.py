"""A run as the rules make it here, in the trainer: what the service decides, decided a second time.

While the service answers, its decisions are followed and a difference shows that somebody has changed
the run. While it does not, these are the decisions there are. The same code from the same state: the
curve does not depend on the network.
"""

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

# How far a training can go back without the service; one event takes about a kilobyte.
_MAX_EVENTS = 2_000

# Two rates closer than this are the same rate, computed on two machines.
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
        """With every rate and length filled in."""
        return self.run.policy

    def decide(self, asked: Request) -> Decision:
        """What the rules say to an attempt or a report. Raises RulesError; then nothing has changed."""
        return self.report(asked) if isinstance(asked, Report) else self.begin(asked)

    def begin(self, request: AttemptRequest) -> Decision:
        """The decision for the first epoch of an attempt, as it was when that epoch came for the first time.

        `request.step` counts where the run itself does not know it.
        """
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

    def sync_to(self, decision: Decision, asked: Request | None = None) -> None:
        """Stand where the service stands since it took `decision`.

        requested: what it answered with it, where that is known.
        """
        if asked is not None and self.log.events[-1].seq == self.decision.seq > 1 and self.decision.local:
            # Our own answer to the same question makes way.
            self.log.events.pop()
        begun = isinstance(asked, AttemptRequest)
        event = Event(
            seq=decision.seq,
            kind="attempt" if begun else "report",
            attempt=decision.attempt,
            epoch=decision.epoch if begun else decision.epoch - 1,
            rank=None if begun else 0,
            key=asked.key if isinstance(asked, AttemptRequest) else None,
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

    def apply_now(self, order: Command) -> bool:
        """Carry out in this epoch what for everybody else holds from the next one on, which comes out alike.

        Whether that changes anything in it. What the rules refuse does not, nor do a pause and its end, which need
        to know where in the schedule they are.
        """
        run, told = self.run, self.decision
        try:
            noted = command(run, replace(order, key=None, expected_seq=None), self.log).run
        except RulesError:
            return False
        overrides: list[Override] = []
        for each in noted.state.overrides:
            new = each not in run.state.overrides and each.epoch == told.epoch + 1
            overrides.extend(_one_epoch_earlier(each) if new else (each,))
        applied = replace(noted.state, overrides=tuple(sorted(overrides, key=lambda each: each.epoch)))
        state = apply_due_overrides(run.policy, applied, told.epoch, self._position)
        rate = rate_at(run.policy, state, told.epoch, self._position)
        self.run = replace(run, state=state, learning_rate=rate.learning_rate)
        self.decision = replace(
            told,
            learning_rate=rate.learning_rate,
            reason=told.reason if rate.learning_rate == told.learning_rate else rate.reason,
            action=_action(told, run.state, state),
            state=state.to_json(),
        )
        return (told.learning_rate, told.action) != (rate.learning_rate, self.decision.action)

    def learning_rate_at(self, step: int) -> float:
        """The rate at `step` optimizer steps after the beginning of the epoch decided last."""
        if self.policy.unit == "epoch":
            return self.decision.learning_rate
        position = float((self.decision.step or 0) + step)
        return rate_at(self.policy, self.run.state, self.decision.epoch, position).learning_rate

    def momentum_at(self, step: int) -> float | None:
        """The momentum that goes with that rate, where the policy has one."""
        position = self._position + (step if self.policy.unit == "step" else 0)
        return self.policy.momentum(self.run.state.schedule, position)

    @property
    def agrees(self) -> bool:
        """The rules give here the rate that was decided, so what they give for its steps can be used."""
        decided = self.decision.learning_rate
        try:
            ours = rate_at(self.policy, self.run.state, self.decision.epoch, self._position).learning_rate
        except (ArithmeticError, LookupError, TypeError, ValueError, AttributeError):
            # A state of another policy's shape.
            return False
        return abs(ours - decided) <= _RATE_TOLERANCE * decided

    @property
    def _position(self) -> float:
        """Where the epoch decided last begins, in the policy's unit."""
        return float(self.decision.epoch if self.policy.unit == "epoch" else self.decision.step or 0)

    def take(self, outcome: Outcome) -> Decision | Waiting | None:
        answer = super().take(outcome)
        if isinstance(answer, Decision):
            answer = self.decision = replace(answer, local=True)
        return answer

    def append(self, event: Event) -> None:
        super().append(event)
        if len(self.log.events) > 2 * _MAX_EVENTS:
            # The first event stays: it says what to begin from when nothing else reaches so far back.
            self.log.events = [self.log.events[0], *self.log.events[-_MAX_EVENTS:]]


def _one_epoch_earlier(order: Override) -> Sequence[Override]:
    """The order as it is carried out an epoch earlier, and comes out alike in its own."""
    if order.clock is not None:
        return (order,)
    if order.base is not None:
        # What the schedule goes on from is held until it does.
        return Override(epoch=order.epoch - 1, one_shot=order.base), Override(epoch=order.epoch, ends="one_shot"), order
    return (replace(order, epoch=order.epoch - 1),)


def _action(told: Decision, before: RunState, after: RunState) -> Action:
    """What the trainer is to do when a command has come within the epoch: a stop stands until it is taken back."""
    if after.stop or after.stopped_by is not None:
        return "stop"
    taken_back = before.stop or before.stopped_by is not None
    return "continue" if taken_back else told.action


def same(one: Decision, other: Decision) -> bool:
    """The two say the same of the same epoch, and remember the same; who said it, and when, apart."""
    return _said(one) == _said(other)


def _said(decision: Decision) -> Sequence[object]:
    return decision.epoch, decision.step, decision.learning_rate, decision.action, decision.state
