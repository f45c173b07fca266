"""Log lines and responses of decisions."""

from typing import Any

import structlog
from pydantic import TypeAdapter
from starlette.responses import Response

from remotelr.rules import Decision, Waiting
from remotelr.rules.run.decision import decision_to_json
from remotelr_service.features.training import step_rates
from remotelr_service.features.training.schemas import (
    DecisionAnswer,
    SteppedDecisionAnswer,
    WaitingAnswer,
)
from remotelr_service.http.context import Context
from remotelr_service.http.problems import RETRY_AFTER_S
from remotelr_service.logs import log_line

log = structlog.get_logger("remotelr")

_MEMBERS = TypeAdapter(dict[str, Any])


def log_decision(decision: Decision) -> None:
    """Log the decision in one line; a repeated answer only at level debug."""
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
        log_line("decision", members)


async def decision_answer(
    decision: Decision, ctx: Context, *, with_steps: bool
) -> DecisionAnswer | SteppedDecisionAnswer:
    """The response body of the decision, with the rate of every step if `with_steps` is set."""
    if not with_steps:
        return DecisionAnswer.read(decision)
    rates = await step_rates.step_rates(ctx.reads, ctx.evaluator, decision)
    return SteppedDecisionAnswer.read(decision, learning_rates=rates)


def raw_decision_response(decision: Decision) -> Response:
    """The response of a `DecisionAnswer`, written without the model: this is the hot path."""
    return Response(_MEMBERS.dump_json(decision_to_json(decision)), media_type="application/json")


def waiting_response(waiting: Waiting) -> Response:
    body = WaitingAnswer.read(waiting, status="waiting").model_dump_json()
    return Response(body, 202, headers={"Retry-After": str(RETRY_AFTER_S)}, media_type="application/json")
