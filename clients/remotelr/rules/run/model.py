"""A run, its spec, and the inputs and outcomes of its transitions.

    lifecycle.create ──▶ running ──report.report──▶ running ──lifecycle.finish──▶ completed | failed | stopped
                          ▲  └─ execute.command, lifecycle.put_policy ─┘                      │
                          ▲  └─ points.decide_timed_out ───────────────┘                      │
                          └───────────────── attempt.begin_attempt ───────────────────────────┘

A transition takes the run, an input and the log, and returns an `Outcome`. It is pure; if it raises, the run is
unchanged.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from remotelr.rules.errors import InvalidPolicy
from remotelr.rules.policy.codec import policy_from_json, policy_to_json
from remotelr.rules.policy.limits import Limits
from remotelr.rules.policy.policy import Policy
from remotelr.rules.run.decision import Decision, Waiting
from remotelr.rules.run.events import Event
from remotelr.rules.run.state import RunState
from remotelr.rules.schedules.base import Binding
from remotelr.rules.values.metrics import metrics_from_json
from remotelr.rules.values.records import record

# Stored with each run. A change of any decided number needs a new version.
RULES_VERSION = 1

FinalStatus = Literal["completed", "failed", "stopped"]
Status = Literal["running", "completed", "failed", "stopped"]
OnConflict = Literal["error", "keep", "replace", "restart"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSpec:
    """The parameters of a run.

    policy: as written; open rates are not filled in.
    initial_learning_rate: the trainer's rate, > 0; needed if the policy has none.
    steps_per_epoch, total_epochs: lengths; a policy that counts steps, or has `total`, may need them.
    limits: of the experiment.
    requested: policy and total_epochs as the owner gave them, if an operator has changed them since. A restarted
        trainer requests these.
    """

    policy: Policy
    initial_learning_rate: float | None = None
    world_size: int = 1
    steps_per_epoch: int | None = None
    total_epochs: int | None = None
    limits: Limits | None = None
    requested: Mapping[str, Any] | None = None

    def bound(self) -> Policy:
        """The policy with the run's rate and length filled in. Raises InvalidPolicy if one is missing."""
        return self.policy.bind(
            Binding(
                self.initial_learning_rate,
                self._total(),
                1 if self.policy.unit == "epoch" else self.steps_per_epoch,
            )
        )

    def first_learning_rate(self) -> float:
        """The first rate of the schedule. Raises InvalidPolicy if neither the policy nor the run has one."""
        named = self.policy.initial_learning_rate
        rate = self.initial_learning_rate if named is None else named
        if rate is None:
            raise InvalidPolicy("the policy has no initial_learning_rate; set it in the policy or with the run")
        return rate

    def to_json(self) -> dict[str, Any]:
        rare: dict[str, Any] = {} if self.limits is None else {"limits": self.limits.to_json()}
        if self.requested is not None:
            rare["requested"] = self.requested
        return {
            "policy": policy_to_json(self.policy),
            "initial_learning_rate": self.initial_learning_rate,
            "world_size": self.world_size,
            "steps_per_epoch": self.steps_per_epoch,
            "total_epochs": self.total_epochs,
            **rare,
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> "RunSpec":
        """The inverse of `to_json`. Raises InvalidPolicy."""
        limits = Limits.from_json(document.get("limits"))
        return cls(**{**document, "policy": policy_from_json(document["policy"]), "limits": limits})

    def _total(self) -> int | None:
        if self.policy.unit == "epoch" or self.total_epochs is None:
            return self.total_epochs
        return None if self.steps_per_epoch is None else self.total_epochs * self.steps_per_epoch


@record
class Run:
    """A run after its newest event.

    policy: `spec.policy`, bound. policy_version: 1, plus 1 for each replacement.
    attempt: number of the attempt in force; 0 before the first one.
    epoch: the next epoch to report; `learning_rate` is its rate, `step` the optimizer steps before it.
    decided_seq: number of the event with the newest decision.
    """

    key: str
    spec: RunSpec
    policy: Policy
    policy_version: int = 1
    rules_version: int = RULES_VERSION
    seq: int
    attempt: int = 0
    epoch: int = 0
    step: int | None = None
    learning_rate: float
    state: RunState
    decided_seq: int
    status: Status = "running"

    @property
    def timeout_s(self) -> float | None:
        """Seconds from the first report of a point to its decision without the missing ranks.

        None: there is no timeout, or only one rank.
        """
        aggregate = self.policy.aggregate
        return None if aggregate is None or self.spec.world_size == 1 else aggregate.timeout_s


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptRequest:
    """A trainer group begins at `epoch`.

    key: identifies the attempt, so that a retry is the same one: a scheduler's restart id, or random.
    gap: accept that epochs before `epoch` are not reported.
    last_seq: number of the trainer's newest decision.
    """

    key: str
    epoch: int
    step: int | None = None
    world_size: int | None = None
    gap: bool = False
    last_seq: int | None = None


@record
class Report:
    """The metrics of `epoch` from one rank of one attempt.

    attempt: None means the one in force, for trainers that begin no attempts.
    weight: number of samples behind the metrics, > 0; only the ratio between ranks matters.
    step: optimizer steps made by the end of the epoch. learning_rate: the rate that the trainer used in it.
    last_seq: number of the trainer's newest decision.
    local: a local replica decided the rate of the epoch.
    """

    epoch: int
    metrics: Mapping[str, float]
    attempt: int | None = None
    rank: int = 0
    weight: float = 1.0
    step: int | None = None
    learning_rate: float | None = None
    last_seq: int | None = None
    local: bool = False


@record
class Outcome:
    """The result of a transition. event: the event to append to the log; None if nothing is to be stored."""

    run: Run
    event: Event | None
    answer: Decision | Waiting | None = None


def spec_from_payload(event: Event) -> RunSpec:
    """The spec that an event of kind `created` or `policy` set."""
    return RunSpec.from_json({name: value for name, value in event.payload.items() if name not in ("mode", "command")})


def report_from_event(event: Event) -> Report:
    """The report that an event of kind `report` stores."""
    assert event.epoch is not None and event.rank is not None
    members = {**event.payload, "metrics": metrics_from_json(event.payload["metrics"])}
    return Report(epoch=event.epoch, rank=event.rank, **members)
