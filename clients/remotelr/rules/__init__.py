"""The rules of RemoteLR: how a learning rate evolves. Pure, standard library only.

A trainer needs them as much as the service: with the service away the same code goes on alone.
The way in: `policy_from_json` reads a policy; `create`, `begin_attempt`, `report`, `expire`,
`command`, `put_policy` and `finish` are all that can happen to a run; `replay` folds its history again.
"""

from remotelr.rules.commands.execute import command
from remotelr.rules.commands.expiry import expired_override, next_expiry
from remotelr.rules.commands.status import CommandStatus, command_history, command_status
from remotelr.rules.composition.combinators import Chained, Sequential
from remotelr.rules.composition.extended import Extended
from remotelr.rules.composition.modifiers import Warmup, WithModifiers
from remotelr.rules.composition.noise import Noise
from remotelr.rules.errors import (
    AttemptConflict,
    InvalidCommand,
    InvalidPolicy,
    InvalidReport,
    OutOfOrder,
    PolicyConflict,
    ReportConflict,
    RulesError,
    RunFinished,
    SeqConflict,
    ServerBehind,
    StaleAttempt,
    UnknownAttempt,
)
from remotelr.rules.plateau.greedy import Greedy
from remotelr.rules.plateau.reduce_on_plateau import ReduceOnPlateau
from remotelr.rules.policy.aggregate import Aggregate
from remotelr.rules.policy.codec import node_from_json, node_to_json, policy_from_json, policy_to_json
from remotelr.rules.policy.guard import Guard
from remotelr.rules.policy.json_schema import json_schema
from remotelr.rules.policy.limits import Limits
from remotelr.rules.policy.policy import Policy
from remotelr.rules.policy.stop_rules import Budget, EarlyStopping, Stop, Target
from remotelr.rules.preview import Preview, preview
from remotelr.rules.replay import ReplayMismatch, replay
from remotelr.rules.run.command import (
    Command,
    Until,
    command_from_json,
    command_from_payload,
    command_to_json,
    is_command,
)
from remotelr.rules.run.decision import Decision, Waiting
from remotelr.rules.run.events import Event, Log, MemoryLog
from remotelr.rules.run.lengths import describe_length_mismatch
from remotelr.rules.run.model import (
    RULES_VERSION,
    AttemptRequest,
    Outcome,
    Report,
    Run,
    RunSpec,
    spec_from_payload,
)
from remotelr.rules.run.state import Override, Rate, RunState, rate_at
from remotelr.rules.schedules.base import Binding, Point, Schedule, State
from remotelr.rules.schedules.cosine import Cosine, CosineRestarts, Tanh
from remotelr.rules.schedules.cyclic import Cyclic, OneCycle
from remotelr.rules.schedules.decay import Exponential, InverseTime, MultiStep, Polynomial, Step
from remotelr.rules.schedules.expression import Expression
from remotelr.rules.schedules.linear import Constant, Linear, LRRangeTest
from remotelr.rules.schedules.piecewise import PiecewiseConstant, PiecewiseInterpolate
from remotelr.rules.schedules.warmup_decay import InverseSqrt, Noam, WarmupStableDecay
from remotelr.rules.sentences.command_text import command_text
from remotelr.rules.sentences.sentence import describe
from remotelr.rules.transitions.attempt import begin_attempt
from remotelr.rules.transitions.lifecycle import create, finish, put_policy
from remotelr.rules.transitions.points import decide_timed_out
from remotelr.rules.transitions.report import report
from remotelr.rules.values.metrics import metrics_from_json, metrics_to_json

__all__ = [
    "RULES_VERSION",
    "Aggregate",
    "AttemptConflict",
    "AttemptRequest",
    "Binding",
    "Budget",
    "Chained",
    "Command",
    "CommandStatus",
    "Constant",
    "Cosine",
    "CosineRestarts",
    "Cyclic",
    "Decision",
    "EarlyStopping",
    "Event",
    "Exponential",
    "Expression",
    "Extended",
    "Greedy",
    "Guard",
    "InvalidCommand",
    "InvalidPolicy",
    "InvalidReport",
    "InverseSqrt",
    "InverseTime",
    "LRRangeTest",
    "Limits",
    "Linear",
    "Log",
    "MemoryLog",
    "MultiStep",
    "Noam",
    "Noise",
    "OneCycle",
    "OutOfOrder",
    "Outcome",
    "Override",
    "PiecewiseConstant",
    "PiecewiseInterpolate",
    "Point",
    "Policy",
    "PolicyConflict",
    "Polynomial",
    "Preview",
    "Rate",
    "ReduceOnPlateau",
    "ReplayMismatch",
    "Report",
    "ReportConflict",
    "RulesError",
    "Run",
    "RunFinished",
    "RunSpec",
    "RunState",
    "Schedule",
    "SeqConflict",
    "Sequential",
    "ServerBehind",
    "StaleAttempt",
    "State",
    "Step",
    "Stop",
    "Tanh",
    "Target",
    "UnknownAttempt",
    "Until",
    "Waiting",
    "Warmup",
    "WarmupStableDecay",
    "WithModifiers",
    "begin_attempt",
    "command",
    "command_from_json",
    "command_from_payload",
    "command_history",
    "command_status",
    "command_text",
    "command_to_json",
    "create",
    "decide_timed_out",
    "describe",
    "describe_length_mismatch",
    "expired_override",
    "finish",
    "is_command",
    "json_schema",
    "metrics_from_json",
    "metrics_to_json",
    "next_expiry",
    "node_from_json",
    "node_to_json",
    "policy_from_json",
    "policy_to_json",
    "preview",
    "put_policy",
    "rate_at",
    "replay",
    "report",
    "spec_from_payload",
]
