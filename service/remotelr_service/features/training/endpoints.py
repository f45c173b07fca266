"""Endpoints of training: reports, attempts and decisions.

`fast_reports.py` calls `report` for every report whose run key is valid. FastAPI documents it, and rejects other keys.
"""

from fastapi import APIRouter, Request, Response
from starlette.concurrency import run_in_threadpool

from remotelr.rules import Decision, RulesError, Waiting
from remotelr_service.features.training import attempts, decisions, reports, step_rates
from remotelr_service.features.training.responses import (
    decision_answer,
    log_decision,
    raw_decision_response,
    waiting_response,
)
from remotelr_service.features.training.schemas import (
    AttemptAnswer,
    AttemptStart,
    BatchAnswer,
    BatchRequest,
    DecisionAnswer,
    RefusedAnswer,
    ReportRequest,
    SteppedDecisionAnswer,
    WaitingAnswer,
)
from remotelr_service.http.dependencies import Configured, Ctx, run_until_disconnect
from remotelr_service.http.error_handlers import rules_problem
from remotelr_service.http.fields import AfterSequence, RunKey, Wait, WithSteps
from remotelr_service.http.problems import RETRY_AFTER_HEADER, Responses, described
from remotelr_service.http.route import StrictRoute

router = APIRouter(prefix="/v1/runs/{run}", tags=["training"], route_class=StrictRoute)

_WAITING: Responses = {
    202: {"model": WaitingAnswer, "description": "Reports of other ranks are missing.", "headers": RETRY_AFTER_HEADER}
}


@router.post(
    "/reports",
    operation_id="report",
    response_model=DecisionAnswer | SteppedDecisionAnswer,
    responses={
        **_WAITING,
        **described(
            "run_not_found",
            "report_conflict",
            "stale_attempt",
            "unknown_attempt",
            "out_of_order",
            "server_behind",
            "run_finished",
            "invalid_report",
            "invalid_request",
            "steps_unknown",
            "database_unavailable",
        ),
    },
)
async def report(
    *,
    run: RunKey,
    body: ReportRequest,
    request: Request,
    ctx: Ctx,
    settings: Configured,
    wait: Wait = 0.0,
    steps_wanted: WithSteps = False,
) -> Response:
    """Report the metrics of an epoch and get the decision for the next epoch.

    A repeated report gets the same answer again. If reports of other ranks are missing, the answer is 202: send the
    same report again, or set `wait` to let the service hold the request.
    """
    if steps_wanted:
        await run_in_threadpool(step_rates.require_steps, ctx.reads, run)
    reported = body.report()
    answer = await reports.report(ctx.writer, run, reported)
    if isinstance(answer, Waiting) and wait > 0:
        wait_s = min(wait, settings.wait_limit_s)
        ranks = reports.await_ranks(ctx.writer, ctx.waiters, reported, answer, wait_s)
        answer = await run_until_disconnect(request, ranks) or answer
    ctx.metrics.answer(answer)
    if isinstance(answer, Waiting):
        return waiting_response(answer)
    log_decision(answer)
    if steps_wanted:
        stepped = await decision_answer(answer, ctx, with_steps=True)
        return Response(stepped.model_dump_json(), media_type="application/json")
    return raw_decision_response(answer)


@router.post(
    "/reports/batch",
    operation_id="report_batch",
    responses=described("run_not_found", "invalid_request", "database_unavailable"),
)
async def report_batch(run: RunKey, body: BatchRequest, ctx: Ctx) -> BatchAnswer:
    """Send reports that were not acknowledged before, oldest first, in one transaction.

    The answers have the same order. The first rejected report ends the batch: the reports before it are stored, the
    reports after it are ignored.
    """
    answers = await reports.report_batch(ctx.writer, run, [each.report() for each in body.reports])
    for answer in answers:
        if isinstance(answer, RulesError):
            ctx.metrics.report("refused")
            continue
        ctx.metrics.answer(answer)
        if isinstance(answer, Decision):
            log_decision(answer)
    return BatchAnswer(answers=[_batch_entry(answer) for answer in answers])


def _batch_entry(answer: Decision | Waiting | RulesError) -> DecisionAnswer | WaitingAnswer | RefusedAnswer:
    if isinstance(answer, Decision):
        return DecisionAnswer.read(answer)
    if isinstance(answer, Waiting):
        return WaitingAnswer.read(answer, status="waiting")
    code, members = rules_problem(answer)
    return RefusedAnswer(status="refused", code=code, detail=answer.message, problem=members)


@router.post(
    "/attempts",
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
    """Begin an attempt at an epoch. The service rejects older attempts from then on.

    The run's state returns to its state before that epoch was reported. A trainer that starts from an older
    checkpoint gets the same rates again.
    """
    if steps_wanted:
        await run_in_threadpool(step_rates.require_steps, ctx.reads, run)
    decision = await attempts.begin_attempt(ctx.writer, run, body.request())
    ctx.metrics.decision(decision)
    log_decision(decision)
    return AttemptAnswer(
        attempt=decision.attempt, decision=await decision_answer(decision, ctx, with_steps=steps_wanted)
    )


@router.get(
    "/decision",
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

    With `after` and `wait`, the service answers when the decision's `seq` is above `after`. After `wait` seconds it
    answers with the decision in force: compare its `seq`.
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
