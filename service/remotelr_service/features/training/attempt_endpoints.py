"""Attempts: a trainer group begins, or begins again."""

from fastapi import APIRouter
from starlette.concurrency import run_in_threadpool

from remotelr_service.features.training import attempts, step_rates
from remotelr_service.features.training.responses import decision_answer, log_decision
from remotelr_service.features.training.schemas import AttemptAnswer, AttemptStart
from remotelr_service.http.dependencies import Ctx
from remotelr_service.http.fields import RunKey, WithSteps
from remotelr_service.http.problems import described
from remotelr_service.http.route import StrictRoute

router = APIRouter(prefix="/v1/runs/{run}/attempts", tags=["training"], route_class=StrictRoute)


@router.post(
    "",
    operation_id="begin_attempt",
    responses=described(
        "run_not_found",
        "stale_attempt",
        "attempt_conflict",
        "server_behind",
        "invalid_report",
        "invalid_request",
        "steps_unknown",
        "database_unavailable",
    ),
)
async def begin_attempt(run: RunKey, body: AttemptStart, ctx: Ctx, steps_wanted: WithSteps = False) -> AttemptAnswer:
    """Begin at an epoch, or begin again: from then on older attempts are refused.

    The state is as it was before that epoch was reported, so a trainer that starts from an older
    checkpoint gets the curve it would have had.
    """
    if steps_wanted:
        await run_in_threadpool(step_rates.require_steps, ctx.reads, run)
    decision = await attempts.begin_attempt(ctx.writer, run, body.request())
    ctx.metrics.decision(decision)
    log_decision(decision)
    return AttemptAnswer(
        attempt=decision.attempt, decision=await decision_answer(decision, ctx, with_steps=steps_wanted)
    )
