"""What really happened to a run, operators included, as a policy that does the same to another run."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Engine

from remotelr.rules import Decision, Event, Policy, RunState, rate_at, spec_from_payload
from remotelr_service.db.engine import reading
from remotelr_service.db.queries.runs import get_stored_run
from remotelr_service.db.writer.event_log import EventLog
from remotelr_service.features.policies.recorded import decisions_in_force, effective_events

# A list in a policy holds so many; what is longer is put together of several parts.
_PART = 1_000
# Beyond that a policy would be too large for a request to carry.
MAX_CHANGES = 10_000
# More steps than this are not evaluated one by one.
MAX_STEPS = 200_000

# A rate, and the position from which it holds.
Change = tuple[float, float]

_LIVE = "a command that a trainer heard in the middle of an epoch holds from the next epoch on here"
_MOMENTUM = "the momentum that went with the rates is not in it"
_BY_LINES = "the rates of single steps are too many: between the first steps of two epochs they lie on a line here"
_BY_EPOCHS = "it is not known which step each epoch began with: each epoch has the rate of its first step here"
_CUT = "the epochs are too many: between those that are left their rates lie on a line here"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayPolicy:
    """What happened to a run, as a policy. epochs: so many have a rate. notes: what could not be kept."""

    policy: Mapping[str, Any]
    epochs: int
    exact: bool
    notes: Sequence[str]


def replay_policy(engine: Engine, key: str) -> ReplayPolicy:
    """A policy of constant pieces by which a new run gets the rates this one got, epoch by epoch or step by step.

    It is of what counts: what an attempt rewound past is not in it. An epoch that nobody reported has the rate that
    was in force. Where the policy counts steps the new run needs the same steps per epoch. What could not be kept
    stands in `notes`; `exact` says whether every rate is the same double.

    Raises RunNotFound, LogTooLong.
    """
    with reading(engine) as connection:
        stored = get_stored_run(connection, key)
        events = effective_events(connection, stored)
        decisions = decisions_in_force(events)
        policies = _policies(EventLog(connection, stored), decisions)
    notes = [_LIVE] if any("live" in event.notes for event in events) else []
    by_epoch = [(float(decision.epoch), decision.learning_rate) for decision in decisions]
    if all(policy.unit == "epoch" for policy in policies):
        schedule, losses = _pieces(_changes(by_epoch), by_epoch, _CUT)
        unit = "epoch"
    elif any(decision.step is None for decision in decisions):
        schedule, losses = _pieces(_changes(by_epoch), by_epoch, _CUT)
        unit, losses = "epoch", [*losses, _BY_EPOCHS]
    else:
        by_first_step = [(float(decision.step or 0), decision.learning_rate) for decision in decisions]
        steps = _by_step(decisions, policies, stored.run.spec.steps_per_epoch)
        schedule, losses = _pieces(None if steps is None else _changes(steps), by_first_step, _BY_LINES)
        unit = "step"
    momentum = [_MOMENTUM] if any(decision.momentum is not None for decision in decisions) else []
    return ReplayPolicy(
        policy={"schedule": schedule, "unit": unit},
        epochs=stored.run.epoch + 1,
        exact=not losses and not notes,
        notes=[*notes, *losses, *momentum],
    )


def _policies(log: EventLog, decisions: Sequence[Decision]) -> list[Policy]:
    """The policy each decision was taken under."""
    known: dict[int, Policy] = {}
    found: list[Policy] = []
    for decision in decisions:
        event: Event = log.policy(decision.seq)
        if event.seq not in known:
            known[event.seq] = spec_from_payload(event).bound()
        found.append(known[event.seq])
    return found


def _by_step(
    decisions: Sequence[Decision], policies: Sequence[Policy], steps_per_epoch: int | None
) -> list[Change] | None:
    """The rate of every step; of the newest epoch so far as its length is known. None where they are too many."""
    starts = [decision.step or 0 for decision in decisions]
    ends = [*starts[1:], starts[-1] + (steps_per_epoch or 1)]
    if ends[-1] > MAX_STEPS:
        return None
    found: list[Change] = []
    for decision, policy, begin, end in zip(decisions, policies, starts, ends, strict=True):
        state = RunState.from_json(decision.state)
        for step in range(begin, end):
            of_all = policy.unit == "epoch" or step == begin
            rate = decision.learning_rate if of_all else rate_at(policy, state, decision.epoch, step).learning_rate
            found.append((float(step), rate))
    return found


def _changes(rates: Iterable[Change]) -> list[Change]:
    """Where the rate is another than before; the first is there too."""
    kept: list[Change] = []
    for position, rate in rates:
        if kept and kept[-1][0] == position:
            # An epoch without steps: the next one begins where it began.
            kept.pop()
        if not kept or kept[-1][1] != rate:
            kept.append((position, rate))
    return kept


def _pieces(changes: Sequence[Change] | None, coarse: Sequence[Change], loss: str) -> tuple[dict[str, Any], list[str]]:
    """The schedule with these changes, or, where they are too many, one with lines through the coarse ones."""
    if changes is not None and len(changes) <= MAX_CHANGES:
        return _constant(changes), []
    points = _changes(coarse)
    every = -(-len(points) // (_PART - 1))
    kept = [*points[::every], *([points[-1]] if (len(points) - 1) % every else [])]
    lines = {"boundaries": [position for position, _ in kept], "values": [rate for _, rate in kept]}
    return {"type": "piecewise_interpolate", **lines}, [loss]


def _constant(changes: Sequence[Change]) -> dict[str, Any]:
    """`piecewise_constant`, and for more than it holds a `sequential` of several, each from its own zero."""
    parts = [changes[begin : begin + _PART] for begin in range(0, len(changes), _PART)]
    schedules = [
        {
            "type": "piecewise_constant",
            "boundaries": [position - part[0][0] for position, _ in part[1:]],
            "values": [rate for _, rate in part],
        }
        for part in parts
    ]
    if len(schedules) == 1:
        return schedules[0]
    return {"type": "sequential", "schedules": schedules, "milestones": [part[0][0] for part in parts[1:]]}
