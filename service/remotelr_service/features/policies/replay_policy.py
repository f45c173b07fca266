"""The actual rates of a run, commands included, as a policy for another run."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Engine

from remotelr.rules import Decision, Event, Run, RunSpec, spec_from_payload
from remotelr.rules.policy.cost import cost_of
from remotelr_service.db.engine import reading
from remotelr_service.db.queries.runs import get_stored_run
from remotelr_service.db.writer.event_log import EventLog
from remotelr_service.evaluation.evaluator import Evaluator
from remotelr_service.features.policies.recorded import decisions_in_force, effective_events

# The maximum length of a list in a policy. A longer curve has several parts.
_PART = 1_000
# More changes would exceed the maximum size of a request.
MAX_CHANGES = 10_000
# The maximum number of steps that are evaluated one by one.
MAX_STEPS = 200_000

# A position, and the rate from there on.
Change = tuple[float, float]

_LIVE = "commands applied within an epoch take effect from the next epoch here"
_MOMENTUM = "the momentum of the rates is not included"
_BY_LINES = "the run has too many steps: the rates between the first steps of two epochs are interpolated here"
_BY_EPOCHS = "the first step of the epochs is unknown: each epoch has the rate of its first step here"
_CUT = "the run has too many epochs: the rates between a selection of them are interpolated here"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayPolicy:
    """The rates of a run as a policy. epochs: how many have a rate. notes: the differences to the run."""

    policy: Mapping[str, Any]
    epochs: int
    exact: bool
    notes: Sequence[str]


async def replay_policy(engine: Engine, evaluator: Evaluator, key: str) -> ReplayPolicy:
    """A piecewise constant policy that gives a new run the rates of this run, by epoch or by step.

    It covers the effective events. An unreported epoch has the rate that was in force. Under a policy in steps the new
    run needs the same steps per epoch. `notes` lists differences; `exact` is true if every rate is the same double.

    Raises RunNotFound, LogTooLong, EvaluationTooLong.
    """
    run, events, decisions, specs = await asyncio.to_thread(_read, engine, key)
    notes = [_LIVE] if any("live" in event.notes for event in events) else []
    by_epoch = [(float(decision.epoch), decision.learning_rate) for decision in decisions]
    if all(spec.policy.unit == "epoch" for spec in specs):
        schedule, losses = _pieces(_changes(by_epoch), by_epoch, _CUT)
        unit = "epoch"
    elif any(decision.step is None for decision in decisions):
        schedule, losses = _pieces(_changes(by_epoch), by_epoch, _CUT)
        unit, losses = "epoch", [*losses, _BY_EPOCHS]
    else:
        by_first_step = [(float(decision.step or 0), decision.learning_rate) for decision in decisions]
        steps = await _by_step(evaluator, decisions, specs, run.spec.steps_per_epoch)
        schedule, losses = _pieces(None if steps is None else _changes(steps), by_first_step, _BY_LINES)
        unit = "step"
    momentum = [_MOMENTUM] if any(decision.momentum is not None for decision in decisions) else []
    return ReplayPolicy(
        policy={"schedule": schedule, "unit": unit},
        epochs=run.epoch + 1,
        exact=not losses and not notes,
        notes=[*notes, *losses, *momentum],
    )


def _read(engine: Engine, key: str) -> tuple[Run, list[Event], list[Decision], list[RunSpec]]:
    """The run, its effective events, its decisions in force, and the spec of each decision."""
    with reading(engine) as connection:
        stored = get_stored_run(connection, key)
        events = effective_events(connection, stored)
        decisions = decisions_in_force(events)
        log = EventLog(connection, stored)
        known: dict[int, RunSpec] = {}
        specs: list[RunSpec] = []
        for decision in decisions:
            event = log.policy(decision.seq)
            if event.seq not in known:
                known[event.seq] = spec_from_payload(event)
            specs.append(known[event.seq])
    return stored.run, events, decisions, specs


async def _by_step(
    evaluator: Evaluator, decisions: Sequence[Decision], specs: Sequence[RunSpec], steps_per_epoch: int | None
) -> list[Change] | None:
    """The rate of every step; None above MAX_STEPS. An unknown length of the newest epoch counts as one step."""
    starts = [decision.step or 0 for decision in decisions]
    ends = [*starts[1:], starts[-1] + (steps_per_epoch or 1)]
    if ends[-1] > MAX_STEPS:
        return None
    # The first step of an epoch has the decided rate.
    epochs = [
        {
            "spec": spec.to_json(),
            "state": decision.state,
            "epoch": decision.epoch,
            "first": begin + 1,
            "count": max(end - begin - 1, 0) if spec.policy.unit == "step" else 0,
        }
        for decision, spec, begin, end in zip(decisions, specs, starts, ends, strict=True)
    ]
    cost = max(cost_of(spec.policy.schedule) for spec in specs)
    rates = await evaluator.evaluate("step_rates", {"epochs": epochs}, count=ends[-1], cost=cost, what="steps")
    found: list[Change] = []
    for decision, begin, end, others in zip(decisions, starts, ends, rates, strict=True):
        of_epoch = [decision.learning_rate, *others] if others else [decision.learning_rate] * (end - begin)
        found += [(float(step), rate) for step, rate in zip(range(begin, end), of_epoch, strict=True)]
    return found


def _changes(rates: Iterable[Change]) -> list[Change]:
    """The first rate, and every rate that differs from the one before."""
    changes: list[Change] = []
    for position, rate in rates:
        if changes and changes[-1][0] == position:
            # An epoch without steps has the same first step as the next one.
            changes.pop()
        if not changes or changes[-1][1] != rate:
            changes.append((position, rate))
    return changes


def _pieces(changes: Sequence[Change] | None, coarse: Sequence[Change], loss: str) -> tuple[dict[str, Any], list[str]]:
    """A schedule with these changes; above MAX_CHANGES, one that interpolates between the coarse ones."""
    if changes is not None and len(changes) <= MAX_CHANGES:
        return _constant(changes), []
    points = _changes(coarse)
    every = -(-len(points) // (_PART - 1))
    selected = [*points[::every], *([points[-1]] if (len(points) - 1) % every else [])]
    lines = {"boundaries": [position for position, _ in selected], "values": [rate for _, rate in selected]}
    return {"type": "piecewise_interpolate", **lines}, [loss]


def _constant(changes: Sequence[Change]) -> dict[str, Any]:
    """A `piecewise_constant`; above _PART changes a `sequential` of several, each with positions from 0."""
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
