"""The decision in force, and waiting for the next one."""

from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool

from remotelr_service.features.training import decisions, step_rates
from remotelr_service.features.training.responses import decision_answer
from remotelr_service.features.training.schemas import DecisionAnswer, SteppedDecisionAnswer
from remotelr_service.http.dependencies import Configured, Ctx, run_until_disconnect
from remotelr_service.http.fields import AfterSequence, RunKey, Wait, WithSteps
from remotelr_service.http.problems import described
from remotelr_service.http.route import StrictRoute

router = APIRouter(prefix="/v1/runs/{run}/decision", tags=["training"], route_class=StrictRoute)


@router.get(
    "",
    operation_id="get_decision",
    response_model=DecisionAnswer | SteppedDecisionAnswer,
    responses=described("run_not_found", "invalid_request", "steps_unknown", "database_unavailable"),
)
async def get_decision(
    *,
    run: RunKey,
    request: Request,
    ctx: Ctx,
    settings: Configured,
    after: AfterSequence = 0,
    wait: Wait = 0.0,
    steps_wanted: WithSteps = False,
) -> DecisionAnswer | SteppedDecisionAnswer:
    """The decision in force.

    With `after` and `wait` the answer comes as soon as there is one with a `seq` above `after`; when that
    takes longer than `wait` seconds, it is the one in force all the same: look at its `seq`.
    """
    if steps_wanted:
        await run_in_threadpool(step_rates.require_steps, ctx.reads, run)
    decision = None
    if wait > 0:
        wait_s = min(wait, settings.wait_limit_s)
        decision = await run_until_disconnect(request, decisions.wait_for_decision(ctx.waiters, run, after, wait_s))
    if decision is None:
        decision = await run_in_threadpool(decisions.get_decision, ctx.reads, run)
    return await decision_answer(decision, ctx, with_steps=steps_wanted)
