"""The rates of the single steps of an epoch, for trainers that do not have the rules themselves."""

from sqlalchemy import Engine

from remotelr.rules import Decision, RunState, rate_at, spec_from_payload
from remotelr_service.db.engine import reading
from remotelr_service.db.queries.runs import get_stored_run
from remotelr_service.db.writer.event_log import EventLog
from remotelr_service.errors import StepsUnknown

MAX_STEPS = 100_000


def require_steps(engine: Engine, key: str) -> None:
    """Raises StepsUnknown when the run does not say how many steps an epoch has, or too many; RunNotFound."""
    with reading(engine) as connection:
        _checked(get_stored_run(connection, key).run.spec.steps_per_epoch)


def step_rates(engine: Engine, key: str, decision: Decision) -> list[float]:
    """The rate of every step of the decision's epoch: the same one for all when the policy counts epochs.

    Raises StepsUnknown as `require_steps` does, RunNotFound.
    """
    with reading(engine) as connection:
        stored = get_stored_run(connection, key)
        # The policy may have been replaced since: the decision stands, and so does the rest of its epoch.
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
        raise StepsUnknown("the run does not say how many steps an epoch has: give steps_per_epoch with the run")
    if steps_per_epoch > MAX_STEPS:
        raise StepsUnknown(
            f"an epoch of {steps_per_epoch} steps is too long to be listed: up to {MAX_STEPS} are; "
            f"evaluate the policy with the client's rules instead"
        )
    return steps_per_epoch
