"""Bodies of attempts, reports and decisions."""

from typing import Any, Literal

from pydantic import BaseModel, Field

from remotelr.rules import AttemptRequest, Report
from remotelr_service.http.bodies import RequestBody, ResponseBody, measured_metrics
from remotelr_service.http.fields import (
    MAX_INTEGER,
    MAX_WORLD_SIZE,
    Epoch,
    Key,
    Metrics,
    Sequence,
    Steps,
    Wait,
    WithSteps,
    WorldSize,
)


class AttemptStart(RequestBody):
    """A trainer group begins, or begins again."""

    key: Key = Field(description="The same key is the same attempt: a scheduler's restart id, or random.")
    epoch: Epoch
    step: Steps | None = None
    world_size: WorldSize | None = Field(None, description="Ranks of the run from now on. Absent: as many as before.")
    gap: bool = Field(False, description="Accept that epochs before `epoch` were never reported.")
    last_seq: Sequence | None = Field(None, description="`seq` of the newest decision this trainer holds.")

    def request(self) -> AttemptRequest:
        return AttemptRequest(**self.model_dump())


class ReportRequest(RequestBody):
    """`epoch` ended with these metrics."""

    epoch: Epoch
    metrics: Metrics
    attempt: int | None = Field(
        None, ge=0, le=MAX_INTEGER, description="Whose report it is; absent is the attempt in force."
    )
    rank: int = Field(0, ge=0, lt=MAX_WORLD_SIZE)
    weight: float = Field(1.0, gt=0, le=1e15, description="How many samples stand behind the metrics.")
    step: Steps | None = Field(None, description="Optimizer steps made by the end of the epoch.")
    learning_rate: float | None = Field(None, ge=0, description="The rate really used; a difference is logged.")
    last_seq: Sequence | None = Field(None, description="`seq` of the newest decision this trainer holds.")
    local: bool = Field(
        False, description="The trainer decided the epoch's rate itself, by the same rules: the service was away."
    )

    def report(self) -> Report:
        return Report(
            epoch=self.epoch,
            metrics=measured_metrics(self.metrics),
            attempt=self.attempt,
            rank=self.rank,
            weight=self.weight,
            step=self.step,
            learning_rate=self.learning_rate,
            last_seq=self.last_seq,
            local=self.local,
        )


class ReportQuery(BaseModel):
    """The query parameters of a report."""

    wait: Wait = 0.0
    steps: WithSteps = False


class BatchRequest(RequestBody):
    """Reports that could not be sent before, oldest first."""

    reports: list[ReportRequest] = Field(min_length=1, max_length=1000)


class PlateauAnswer(ResponseBody):
    """The plateau in force: the best value, reports without improvement since, and the cooldown left."""

    best: float | None
    wait: int
    cooldown: int


class DecisionAnswer(ResponseBody):
    """The rate of one epoch of one run, taken once and never changed."""

    run: str
    attempt: int
    seq: int = Field(description="Number of the event in the run's log that took it.")
    epoch: int = Field(description="The epoch the rate is for, 0-based.")
    step: int | None = Field(description="Optimizer steps made before that epoch.")
    learning_rate: float = Field(
        ge=0, description="The rate of the epoch; of its first step when the policy counts steps."
    )
    momentum: float | None = Field(description="What goes with the rate under one_cycle and cyclic.")
    reason: Literal["start", "schedule", "plateau", "command", "bounds", "guard"]
    changed: bool = Field(description="The rate differs from that of the epoch before.")
    action: Literal["continue", "stop", "rollback"] = Field(
        description="`stop` asks the trainer to end; `rollback` to load the checkpoint made at the end of epoch "
        "`rollback_to`, and to train `epoch` from there."
    )
    rollback_to: int | None = Field(description="The epoch whose checkpoint to load; null but with `rollback`.")
    plateau: PlateauAnswer | None
    state: dict[str, Any] = Field(description="What the rules need to go on from here without the service.")
    drift: float | None = Field(
        description="The rate the epoch before was to run with, where the trainer says it used another one."
    )
    replayed: bool = Field(description="This answer was already given once.")


class ExplainedDecisionAnswer(DecisionAnswer):
    """A decision with the sentence that says why."""

    why: dict[str, Any] | None = Field(description="What made it; null of releases before it was kept.")
    sentence: str


class SteppedDecisionAnswer(DecisionAnswer):
    """A decision with the rate of every step of its epoch."""

    learning_rates: list[float]


class WaitingAnswer(ResponseBody):
    """The report is kept, and other ranks are awaited. Sending the same report again asks again."""

    status: Literal["waiting"]
    run: str
    attempt: int
    epoch: int = Field(description="The reported epoch.")
    have: int
    need: int


class AttemptAnswer(ResponseBody):
    """The number of the attempt, and the decision for its first epoch."""

    attempt: int
    decision: DecisionAnswer | SteppedDecisionAnswer


class RefusedAnswer(ResponseBody):
    """A report of a batch that was refused; those behind it were not tried."""

    status: Literal["refused"]
    code: str
    detail: str
    problem: dict[str, Any] = Field(description="The further members of the problem.")


class BatchAnswer(ResponseBody):
    """One answer for each report, in order, up to the first that was refused."""

    answers: list[DecisionAnswer | WaitingAnswer | RefusedAnswer]
