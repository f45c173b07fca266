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
    """Begins an attempt."""

    key: Key = Field(description="The same key is the same attempt. Use a scheduler's restart id or a random key.")
    epoch: Epoch
    step: Steps | None = None
    world_size: WorldSize | None = Field(None, description="Number of ranks from now on. Absent: unchanged.")
    gap: bool = Field(False, description="Accept that epochs before `epoch` were not reported.")
    last_seq: Sequence | None = Field(None, description="`seq` of the newest decision this trainer holds.")

    def request(self) -> AttemptRequest:
        return AttemptRequest(**self.model_dump())


class ReportRequest(RequestBody):
    """The metrics of one epoch from one rank."""

    epoch: Epoch
    metrics: Metrics
    attempt: int | None = Field(
        None, ge=0, le=MAX_INTEGER, description="The attempt that reports. Absent: the attempt in force."
    )
    rank: int = Field(0, ge=0, lt=MAX_WORLD_SIZE)
    weight: float = Field(1.0, gt=0, le=1e15, description="Number of samples behind the metrics.")
    step: Steps | None = Field(None, description="Optimizer steps made by the end of the epoch.")
    learning_rate: float | None = Field(
        None, ge=0, description="The rate that the trainer used. The log records a difference as `drift`."
    )
    last_seq: Sequence | None = Field(None, description="`seq` of the newest decision this trainer holds.")
    local: bool = Field(
        False, description="The trainer's local replica decided the rate, because the service was unreachable."
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
    """Reports that were not acknowledged before, oldest first."""

    reports: list[ReportRequest] = Field(min_length=1, max_length=1000)


class PlateauAnswer(ResponseBody):
    """The state of the plateau schedule: best value, reports without improvement, and remaining cooldown."""

    best: float | None
    wait: int
    cooldown: int


class DecisionAnswer(ResponseBody):
    """The decision for one epoch of one run. It never changes."""

    run: str
    attempt: int
    seq: int = Field(description="Number of the decision's event in the run's log.")
    epoch: int = Field(description="The epoch the rate is for, 0-based.")
    step: int | None = Field(description="Optimizer steps made before that epoch.")
    learning_rate: float = Field(
        ge=0, description="The rate of the epoch. Under a policy in steps: the rate of its first step."
    )
    momentum: float | None = Field(description="The momentum of `one_cycle` and `cyclic`; otherwise null.")
    reason: Literal["start", "schedule", "plateau", "command", "bounds", "guard"]
    changed: bool = Field(description="The rate differs from the rate of the previous epoch.")
    action: Literal["continue", "stop", "rollback"] = Field(
        description="`stop`: end the training. `rollback`: load the checkpoint from the end of epoch `rollback_to`, "
        "and train `epoch` from there."
    )
    rollback_to: int | None = Field(
        description="The epoch of the checkpoint to load. Null unless `action` is `rollback`."
    )
    plateau: PlateauAnswer | None
    state: dict[str, Any] = Field(description="The state from which the rules can continue without the service.")
    drift: float | None = Field(
        description="The decided rate of the previous epoch, if the trainer reported another rate."
    )
    replayed: bool = Field(description="The service has sent this answer before.")


class ExplainedDecisionAnswer(DecisionAnswer):
    """A decision with its explanation."""

    why: dict[str, Any] | None = Field(description="The causes of the decision. Null for decisions of early releases.")
    sentence: str


class SteppedDecisionAnswer(DecisionAnswer):
    """A decision with the rate of every step of its epoch."""

    learning_rates: list[float]


class WaitingAnswer(ResponseBody):
    """The report is stored; reports of other ranks are missing. Send the same report again to get the decision."""

    status: Literal["waiting"]
    run: str
    attempt: int
    epoch: int = Field(description="The reported epoch.")
    have: int
    need: int


class AttemptAnswer(ResponseBody):
    """The attempt's number, and the decision for its first epoch."""

    attempt: int
    decision: DecisionAnswer | SteppedDecisionAnswer


class RefusedAnswer(ResponseBody):
    """A rejected report of a batch. The reports after it were ignored."""

    status: Literal["refused"]
    code: str
    detail: str
    problem: dict[str, Any] = Field(description="The further members of the problem.")


class BatchAnswer(ResponseBody):
    """One answer for each report, in order, up to the first rejected report."""

    answers: list[DecisionAnswer | WaitingAnswer | RefusedAnswer]
