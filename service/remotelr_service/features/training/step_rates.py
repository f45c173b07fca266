"""The rates of an epoch's steps, for trainers without the rules."""

import asyncio
from typing import Final

from sqlalchemy import Engine

from remotelr.rules import Decision, RunSpec, spec_from_payload
from remotelr.rules.policy.cost import cost_of
from remotelr_service.db.engine import reading
from remotelr_service.db.queries.runs import get_stored_run
from remotelr_service.db.writer.event_log import EventLog
from remotelr_service.errors import StepsUnknown
from remotelr_service.evaluation.evaluator import Evaluator, check_cost

MAX_STEPS = 100_000
_WHAT: Final = "steps_per_epoch"


def require_steps(engine: Engine, key: str) -> None:
    """Check that step rates can be listed.

    Raises StepsUnknown if `steps_per_epoch` is unknown or above MAX_STEPS; EvaluationTooLong if the policy is too
    expensive for so many; RunNotFound.
    """
    with reading(engine) as connection:
        run = get_stored_run(connection, key).run
    count = _checked(run.spec.steps_per_epoch)
    if run.policy.unit == "step":
        check_cost(count, cost_of(run.policy.schedule), _WHAT)


async def step_rates(engine: Engine, evaluator: Evaluator, decision: Decision) -> list[float]:
    """The rate of every step of the decision's epoch. Under a policy in epochs all are equal.

    Raises what `require_steps` raises.
    """
    spec, count = await asyncio.to_thread(_spec_of, engine, decision)
    if spec.policy.unit == "epoch":
        return [decision.learning_rate] * count
    epoch = {
        "spec": spec.to_json(),
        "state": decision.state,
        "epoch": decision.epoch,
        "first": decision.step or 0,
        "count": count,
    }
    cost = cost_of(spec.policy.schedule)
    (rates,) = await evaluator.evaluate("step_rates", {"epochs": [epoch]}, count=count, cost=cost, what=_WHAT)
    return list(rates)


def _spec_of(engine: Engine, decision: Decision) -> tuple[RunSpec, int]:
    """The spec that was in force for the decision, and the steps of its epoch."""
    with reading(engine) as connection:
        stored = get_stored_run(connection, decision.run)
        # A policy that was set after the decision does not change the decision's epoch.
        spec = spec_from_payload(EventLog(connection, stored).policy(decision.seq))
    return spec, _checked(spec.steps_per_epoch or stored.run.spec.steps_per_epoch)


def _checked(steps_per_epoch: int | None) -> int:
    if steps_per_epoch is None:
        raise StepsUnknown("steps_per_epoch of the run is unknown: set it when you create the run")
    if steps_per_epoch > MAX_STEPS:
        raise StepsUnknown(
            f"steps_per_epoch must be at most {MAX_STEPS} to list step rates, got {steps_per_epoch}; "
            f"evaluate the policy with the client's rules"
        )
    return steps_per_epoch
