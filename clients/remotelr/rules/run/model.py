"""A run, and what may be asked of it. The functions that answer stand beside this file:

    lifecycle.create ──▶ running ──reports.report──▶ running ──lifecycle.finish──▶ completed | failed | stopped
                          ▲  └─ commands.command, lifecycle.put_policy ─┘                      │
                          ▲  └─ closing.expire ─────────────────────────┘                      │
                          └────────────────── attempts.begin_attempt ──────────────────────────┘

Each takes the run, what is asked, and its log, and gives an `Outcome`. What is not allowed raises and
leaves the old run valid, for it was never touched. Nothing here sends, stores or waits.
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

# A run keeps the version of the rules that decided it; a change of any decided number is a new one.
RULES_VERSION = 1

FinalStatus = Literal["completed", "failed", "stopped"]
Status = Literal["running", "completed", "failed", "stopped"]
OnConflict = Literal["error", "keep", "replace", "restart"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSpec:
    """What the owner of a run says of it.

    policy: as written, rates it leaves open not yet filled in.
    initial_learning_rate: the trainer's own rate, > 0; needed where the policy names none.
    steps_per_epoch, total_epochs: lengths, where known; a per-step policy or `total` may need them.
    limits: what its experiment allows at most; not the trainer's to say.
    asked: policy and total_epochs as the owner gave them, where an operator has changed them since: a trainer that
        starts again asks for these, and means this run.
    """

    policy: Policy
    initial_learning_rate: float | None = None
    world_size: int = 1
    steps_per_epoch: int | None = None
    total_epochs: int | None = None
    limits: Limits | None = None
    requested: Mapping[str, Any] | None = None

    def bound(self) -> Policy:
        """The policy with the run's rate and length filled in. Raises InvalidPolicy where one is missing."""
        return self.policy.bind(
            Binding(
                self.initial_learning_rate,
                self._total(),
                1 if self.policy.unit == "epoch" else self.steps_per_epoch,
            )
        )

    def first_learning_rate(self) -> float:
        """The rate the schedule starts from. Raises InvalidPolicy when neither policy nor run names one."""
        named = self.policy.initial_learning_rate
        rate = self.initial_learning_rate if named is None else named
        if rate is None:
            raise InvalidPolicy("the policy names no initial_learning_rate: give one in it or with the run")
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
    """The head of a run: where it stands after its newest event.

    policy: `spec.policy`, bound. policy_version: 1, and one more with each policy that replaced it.
    attempt: the life of the trainer group now in charge; 0 until one announces itself.
    epoch: the next epoch to be reported; `learning_rate` is its rate and `step` the optimizer steps before it.
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
        """How many seconds after its first report a point is decided without the ranks that are missing.

        None: they are waited for, however long; or there are none.
        """
        aggregate = self.policy.aggregate
        return None if aggregate is None or self.spec.world_size == 1 else aggregate.timeout_s


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptRequest:
    """A trainer group begins, or begins again, at `epoch`.

    key: the same key is the same attempt: a scheduler's restart id, or random.
    gap: accept that epochs before `epoch` were never reported.
    last_seq: the newest decision the trainer holds.
    """

    key: str
    epoch: int
    step: int | None = None
    world_size: int | None = None
    gap: bool = False
    last_seq: int | None = None


@record
class Report:
    """`epoch` ended with these metrics, says one rank of one attempt.

    attempt: None means the one in force, for trainers that do not announce themselves.
    weight: how many samples stand behind the metrics, > 0; only their ratio between ranks matters.
    step: optimizer steps made by the end of the epoch. learning_rate: the rate really used in it.
    last_seq: the newest decision the trainer holds.
    local: the rate of the epoch was the trainer's own decision, because the service could not be reached.
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
    """What came of it. event: what to append to the log; None when there is nothing new to store."""

    run: Run
    event: Event | None
    answer: Decision | Waiting | None = None


def spec_from_payload(event: Event) -> RunSpec:
    """The spec that an event of kind `created` or `policy` set."""
    return RunSpec.from_json({name: value for name, value in event.payload.items() if name not in ("mode", "command")})


def report_from_event(event: Event) -> Report:
    """What a rank said that an event of kind `report` keeps."""
    assert event.epoch is not None and event.rank is not None
    members = {**event.payload, "metrics": metrics_from_json(event.payload["metrics"])}
    return Report(epoch=event.epoch, rank=event.rank, **members)
