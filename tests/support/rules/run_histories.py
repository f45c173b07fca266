"""A run and its log kept together, so that a test reads like what happened to it."""

from dataclasses import replace
from typing import Any

from remotelr.rules import (
    AttemptRequest,
    Command,
    Decision,
    MemoryLog,
    Outcome,
    Report,
    Run,
    RunSpec,
    Waiting,
    begin_attempt,
    command,
    create,
    decide_timed_out,
    finish,
    policy_from_json,
    put_policy,
    replay,
    report,
)

PLATEAU = {"type": "reduce_on_plateau", "factor": 0.5, "patience": 2, "min_delta": 0.0, "flavor": "keras_legacy"}
COSINE = {"type": "cosine", "initial_learning_rate": 1.0, "decay_steps": 10}
STEPS = {"schedule": {**COSINE, "decay_steps": 100}, "unit": "step"}


def spec(policy: dict[str, Any], initial_learning_rate: float | None = 1.0, **rest: Any) -> RunSpec:
    return RunSpec(policy=policy_from_json(policy), initial_learning_rate=initial_learning_rate, **rest)


class Story:
    """Everything that is done to one run; the log and the head follow."""

    def __init__(self, policy: dict[str, Any] | None = None, **rest: Any) -> None:
        self.log = MemoryLog()
        outcome = create("story", spec(policy or PLATEAU, **rest))
        self.first = self._take(outcome)

    def _take(self, outcome: Outcome) -> Decision | Waiting | None:
        self.run: Run = outcome.run
        if outcome.event is not None:
            self.log.append(outcome.event)
        return outcome.answer

    def report(self, epoch: int, value: float | None = None, **rest: Any) -> Any:
        metrics = rest.pop("metrics", {} if value is None else {"val_loss": value})
        return self._take(report(self.run, Report(epoch=epoch, metrics=metrics, **rest), self.log))

    def train(self, losses: list[float], first: int = 0, **rest: Any) -> list[float]:
        """The rates answered to one report an epoch."""
        return [self.report(epoch, loss, **rest).learning_rate for epoch, loss in enumerate(losses, first)]

    def expire(self) -> Any:
        """What is decided when the time of the waiting point is over."""
        return self._take(decide_timed_out(self.run, self.log))

    def attempt(self, epoch: int, key: str | None = None, **rest: Any) -> Any:
        request = AttemptRequest(key=key or f"attempt {self.run.attempt + 1}", epoch=epoch, **rest)
        return self._take(begin_attempt(self.run, request, self.log))

    def command(self, type: Any, value: float | None = None, **rest: Any) -> None:
        self._take(command(self.run, Command(type=type, value=value, **rest), self.log))

    def order(self, order: Command) -> None:
        """A command made elsewhere."""
        self._take(command(self.run, order, self.log))

    def put(self, policy: dict[str, Any], on_conflict: Any = "error", **rest: Any) -> None:
        self._take(put_policy(self.run, spec(policy, **rest), on_conflict))

    def state_length(self, total: int, on_conflict: Any = "error") -> None:
        """A trainer asks for its run with the same policy and another length."""
        asked = self.run.spec.requested
        known = self.run.spec.policy if asked is None else policy_from_json(asked["policy"])
        wanted = replace(self.run.spec, policy=known, total_epochs=total, requested=None)
        self._take(put_policy(self.run, wanted, on_conflict))

    def finish(self, status: Any) -> None:
        self._take(finish(self.run, status))

    def replayed(self) -> Run:
        return replay("story", self.log.events)


def next_rates(story: Story, count: int) -> list[float]:
    """The rates of the next epochs."""
    return story.train([1.0] * count, first=story.run.epoch)


def began(policy: dict[str, Any] = COSINE, epochs: int = 3, **rest: Any) -> Story:
    """A run whose epoch `epochs` has its rate: a command bears on the one after it."""
    story = Story(policy, **rest)
    story.attempt(0)
    story.train([1.0] * epochs)
    return story


FLAT = [1.0] * 12
# The rates of epochs 0 to 12 under COSINE, and of PLATEAU where nothing gets better.
CURVE = [Story(COSINE).first.learning_rate, *Story(COSINE).train(FLAT)]
FALLING = [1.0, *Story().train(FLAT)]
