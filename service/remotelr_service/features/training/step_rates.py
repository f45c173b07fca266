"""The rates of an epoch's steps, for trainers without the rules."""

from sqlalchemy import Engine

from remotelr.rules import Decision, RunState, rate_at, spec_from_payload
from remotelr_service.db.engine import reading
from remotelr_service.db.queries.runs import get_stored_run
from remotelr_service.db.writer.event_log import EventLog
from remotelr_service.errors import StepsUnknown

MAX_STEPS = 100_000


def require_steps(engine: Engine, key: str) -> None:
    """Check that step rates can be listed.

    Raises StepsUnknown if `steps_per_epoch` is unknown or above MAX_STEPS; RunNotFound.
    """
    with reading(engine) as connection:
        _checked(get_stored_run(connection, key).run.spec.steps_per_epoch)


def step_rates(engine: Engine, key: str, decision: Decision) -> list[float]:
    """The rate of every step of the decision's epoch. Under a policy in epochs all are equal.

    Raises what `require_steps` raises.
    """
    with reading(engine) as connection:
        stored = get_stored_run(connection, key)
        # A policy that was set after the decision does not change the decision's epoch.
        spec = spec_from_payload(EventLog(connection, stored).policy(decision.seq))
    count = _checked(spec.steps_per_epoch or stored.run.spec.steps_per_epoch)
    policy = spec.bound()
    if policy.unit == "epoch":
        return [decision.learning_rate] * count
    state = RunState.from_json(decision.state)
    first = decision.step or 0
    return [rate_at(policy, state, decision.epoch, first + step).learning_rate for step in range(count)]


def _checked(steps_per_epoch: int | None) -> int:
    if steps_per_epoch is None:
        raise StepsUnknown("steps_per_epoch of the run is unknown: set it when you create the run")
    if steps_per_epoch > MAX_STEPS:
        raise StepsUnknown(
            f"steps_per_epoch must be at most {MAX_STEPS} to list step rates, got {steps_per_epoch}; "
            f"evaluate the policy with the client's rules"
        )
    return steps_per_epoch
