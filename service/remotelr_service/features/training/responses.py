"""Telling a decision: to the log, one line each, and to who asked."""

from typing import Any

import structlog
from pydantic import TypeAdapter
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from remotelr.rules import Decision, Waiting
from remotelr_service.features.training import step_rates as steps
from remotelr_service.features.training.schemas import (
    DecisionAnswer,
    SteppedDecisionAnswer,
    WaitingAnswer,
    decision_members,
)
from remotelr_service.http.context import Resources
from remotelr_service.http.problems import RETRY_AFTER_S
from remotelr_service.logs import tell

log = structlog.get_logger("remotelr")

_MEMBERS = TypeAdapter(dict[str, Any])


def log_decision(decision: Decision) -> None:
    """One line with the reason; a repeated answer is no news."""
    members = {
        "run": decision.run,
        "attempt": decision.attempt,
        "seq": decision.seq,
        "epoch": decision.epoch,
        "learning_rate": decision.learning_rate,
        "reason": decision.reason,
        "changed": decision.changed,
        "action": decision.action,
    }
    if decision.drift is not None:
        members["drift"] = decision.drift
    if decision.replayed:
        log.debug("decision", **members)
    else:
        tell("decision", members)


async def told(decision: Decision, means: Resources, *, with_steps: bool) -> DecisionAnswer | SteppedDecisionAnswer:
    """The decision as an answer, with the rate of every step where that is wanted."""
    if not with_steps:
        return DecisionAnswer.of(decision)
    rates = await run_in_threadpool(steps.step_rates, means.reads, decision.run, decision)
    return SteppedDecisionAnswer.with_steps(decision, rates)


def told_plainly(decision: Decision) -> Response:
    """The bytes of a `DecisionAnswer`, without making one first: this is what the hot call answers."""
    return Response(_MEMBERS.dump_json(decision_members(decision)), media_type="application/json")


def told_to_wait(waiting: Waiting) -> Response:
    body = WaitingAnswer.of(waiting).model_dump_json()
    return Response(body, 202, headers={"Retry-After": str(RETRY_AFTER_S)}, media_type="application/json")
