"""A policy that begins where a run is, at the rate it has."""

from typing import Any

from remotelr_service.cli.support.http_client import Json
from remotelr_service.errors import UserError


def beginning_here(policy: Any, run: Json) -> Json:
    """The policy with its curve put behind the rate in force, which the first epoch not yet decided still has.

    policy: a document, in any words that policies are understood in. run: as the service describes it.

    Raises InvalidPolicy, and Mistake for a run that is paused, and where the policy counts steps and nobody knows
    how many an epoch has.
    """
    from remotelr.rules import policy_from_json, policy_to_json

    document = policy_to_json(policy_from_json(policy))
    state = run["decision"]["state"]
    # A factor stays on the new curve; what holds the rate for now goes, and the factor with it.
    factor = 1.0 if "pin" in state or "one_shot" in state else state.get("scale", 1.0)
    rate = run["learning_rate"] / factor
    held = {"type": "constant", "learning_rate": rate}
    curve = {**document["schedule"], "initial_learning_rate": rate}
    spliced = {
        "type": "sequential",
        "schedules": [held, curve],
        "milestones": [_begin(document["unit"], run) - _stood(state)],
    }
    return {**document, "schedule": spliced}


def _stood(state: Json) -> float:
    """How long the schedule's clock has stood still. Raises Mistake while it does."""
    clock = state.get("clock", {})
    if "since" in clock:
        raise UserError("the run is paused: let its schedule go on first, remotelr runs resume")
    return float(clock.get("shift", 0.0))


def _begin(unit: str, run: Json) -> int:
    """Where the first epoch that is not yet decided begins, in the policy's unit."""
    if unit == "epoch":
        return int(run["epoch"]) + 1
    if run["steps_per_epoch"] is None:
        raise UserError("the policy counts steps, and the run does not say how many an epoch has: --keep-rate needs it")
    return int(run["step"] or 0) + int(run["steps_per_epoch"])
