"""A policy whose curve starts at a run's next epoch, at the run's current rate."""

from typing import Any

from remotelr_service.cli.support.http_client import Json
from remotelr_service.errors import UserError


def start_at_run(policy: Any, run: Json) -> Json:
    """The policy with its curve shifted to the first undecided epoch, after a constant at the current rate.

    policy: a document in any form that policies are read in. run: the run as the service returns it.

    Raises InvalidPolicy; UserError for a paused run, and for a policy in steps if the epoch's length is unknown.
    """
    from remotelr.rules import policy_from_json, policy_to_json

    document = policy_to_json(policy_from_json(policy))
    state = run["decision"]["state"]
    # A scale factor still applies to the new curve. A pin or a one-shot ends with the new policy, and so does the
    # factor below it.
    factor = 1.0 if "pin" in state or "one_shot" in state else state.get("scale", 1.0)
    rate = run["learning_rate"] / factor
    spliced = {
        "type": "sequential",
        "schedules": [
            {"type": "constant", "learning_rate": rate},
            {**document["schedule"], "initial_learning_rate": rate},
        ],
        "milestones": [_next_position(document["unit"], run) - _clock_shift(state)],
    }
    return {**document, "schedule": spliced}


def _clock_shift(state: Json) -> float:
    """How far pauses have shifted the schedule's clock. Raises UserError during a pause."""
    clock = state.get("clock", {})
    if "since" in clock:
        raise UserError("the run is paused; resume it first with `remotelr runs resume`")
    return float(clock.get("shift", 0.0))


def _next_position(unit: str, run: Json) -> int:
    """The position of the first undecided epoch, in the policy's unit."""
    if unit == "epoch":
        return int(run["epoch"]) + 1
    if run["steps_per_epoch"] is None:
        raise UserError("--keep-rate with a policy in steps needs a run whose steps_per_epoch is known")
    return int(run["step"] or 0) + int(run["steps_per_epoch"])
