"""The rules of RemoteLR: how a learning rate evolves. Pure, standard library only.

A trainer needs them as much as the service: with the service away the same code goes on alone.
The way in: `policy_from_json` reads a policy; `create`, `begin_attempt`, `report`, `expire`,
`command`, `put_policy` and `finish` are all that can happen to a run; `replay` folds its history again.
"""

from remotelr.rules.attempts import begin_attempt
from remotelr.rules.closing import expire
from remotelr.rules.codec import node_from_json, node_to_json, policy_from_json, policy_to_json
from remotelr.rules.commands import command
from remotelr.rules.compose import Chained, Sequential
from remotelr.rules.cosines import Cosine, CosineRestarts, Tanh
from remotelr.rules.cycles import Cyclic, OneCycle
from remotelr.rules.decays import Exponential, InverseTime, MultiStep, Polynomial, Step
from remotelr.rules.decision import Decision, Waiting
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
from remotelr.rules.explain import sentence
from remotelr.rules.expression import Expression
from remotelr.rules.extended import Extended
from remotelr.rules.greedy import Greedy
from remotelr.rules.guard import Guard
from remotelr.rules.json_schema import json_schema
from remotelr.rules.life import Life, life_of, life_steps
from remotelr.rules.lifecycle import create, finish, put_policy
from remotelr.rules.lines import Constant, Linear, LRRangeTest
from remotelr.rules.log import Event, Log, MemoryLog
from remotelr.rules.metrics import metrics_from_json, metrics_to_json
from remotelr.rules.modifiers import Modified, Warmup
from remotelr.rules.noise import Noise
from remotelr.rules.orders import (
    Command,
    Until,
    command_from_json,
    command_from_payload,
    command_to_json,
    is_command,
)
from remotelr.rules.pieces import PiecewiseConstant, PiecewiseInterpolate
from remotelr.rules.plans import InverseSqrt, Noam, WarmupStableDecay
from remotelr.rules.plateau import ReduceOnPlateau
from remotelr.rules.policy import Policy
from remotelr.rules.rails import Rails
from remotelr.rules.ranks import Aggregate
from remotelr.rules.replay import ReplayMismatch, replay
from remotelr.rules.reports import report
from remotelr.rules.run import (
    RULES_VERSION,
    AttemptRequest,
    Outcome,
    Report,
    Run,
    RunSpec,
    spec_from_payload,
)
from remotelr.rules.schedule import Binding, Point, Schedule, State
from remotelr.rules.state import Order, Rate, RunState, rate_at
from remotelr.rules.stopping import Budget, EarlyStopping, Stop, Target
from remotelr.rules.until import next_until, until_due

__all__ = [
    "RULES_VERSION",
    "Aggregate",
    "AttemptConflict",
    "AttemptRequest",
    "Binding",
    "Budget",
    "Chained",
    "Command",
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
    "Life",
    "Linear",
    "Log",
    "MemoryLog",
    "Modified",
    "MultiStep",
    "Noam",
    "Noise",
    "OneCycle",
    "Order",
    "OutOfOrder",
    "Outcome",
    "PiecewiseConstant",
    "PiecewiseInterpolate",
    "Point",
    "Policy",
    "PolicyConflict",
    "Polynomial",
    "Rails",
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
    "begin_attempt",
    "command",
    "command_from_json",
    "command_from_payload",
    "command_to_json",
    "create",
    "expire",
    "finish",
    "is_command",
    "json_schema",
    "life_of",
    "life_steps",
    "metrics_from_json",
    "metrics_to_json",
    "next_until",
    "node_from_json",
    "node_to_json",
    "policy_from_json",
    "policy_to_json",
    "put_policy",
    "rate_at",
    "replay",
    "report",
    "sentence",
    "spec_from_payload",
    "until_due",
]
