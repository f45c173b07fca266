"""Reports: an epoch has ended. This is the hot path."""

from fastapi import APIRouter, Request, Response
from starlette.concurrency import run_in_threadpool

from remotelr.rules import Decision, RulesError, Waiting
from remotelr_service.features.training import reports, step_rates
from remotelr_service.features.training.responses import (
    decision_answer,
    log_decision,
    raw_decision_response,
    waiting_response,
)
from remotelr_service.features.training.schemas import (
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
from remotelr_service.http.fields import RunKey, Wait, WithSteps
from remotelr_service.http.problems import RETRY_AFTER_HEADER, Responses, described
from remotelr_service.http.route import MAX_REPORT_BYTES, StrictRequest, StrictRoute


class ReportStrictRequest(StrictRequest):
    limit_bytes = MAX_REPORT_BYTES


class ReportRoute(StrictRoute):
    """A route whose bodies are small."""

    request_class = ReportStrictRequest


router = APIRouter(prefix="/v1/runs/{run}/reports", tags=["training"], route_class=ReportRoute)
batches = APIRouter(prefix="/v1/runs/{run}/reports", tags=["training"], route_class=StrictRoute)

_WAITING: Responses = {
    202: {"model": WaitingAnswer, "description": "Other ranks are awaited.", "headers": RETRY_AFTER_HEADER}
}


@router.post(
    "",
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
    """Say that an epoch has ended, and be told the rate of the next one.

    The same report again gets the same answer again, however much later. With several ranks the
    answer may be to wait: send the same report again, or let `wait` hold it here for so many seconds.
    """
    if steps_wanted:
        await run_in_threadpool(step_rates.require_steps, ctx.reads, run)
    said = body.report()
    answer = await reports.report(ctx.writer, run, said)
    if isinstance(answer, Waiting) and wait > 0:
        wait_s = min(wait, settings.wait_limit_s)
        ranks = reports.await_ranks(ctx.writer, ctx.waiters, said, answer, wait_s)
        answer = await run_until_disconnect(request, ranks) or answer
    ctx.metrics.answer(answer)
    if isinstance(answer, Waiting):
        return waiting_response(answer)
    log_decision(answer)
    if steps_wanted:
        stepped = await decision_answer(answer, ctx, with_steps=True)
        return Response(stepped.model_dump_json(), media_type="application/json")
    return raw_decision_response(answer)


@batches.post(
    "/batch",
    operation_id="report_batch",
    responses=described("run_not_found", "invalid_request", "database_unavailable"),
)
async def report_batch(run: RunKey, body: BatchRequest, ctx: Ctx) -> BatchAnswer:
    """Send reports that could not be sent before, oldest first, as if they had come one by one.

    They are answered in order. The first that is refused is the last to be answered: what stands before
    it is stored, what comes after it was not tried.
    """
    answers = await reports.report_batch(ctx.writer, run, [each.report() for each in body.reports])
    for answer in answers:
        if isinstance(answer, RulesError):
            ctx.metrics.report("refused")
            continue
        ctx.metrics.answer(answer)
        if isinstance(answer, Decision):
            log_decision(answer)
    return BatchAnswer(answers=[_told(answer) for answer in answers])


def _told(answer: Decision | Waiting | RulesError) -> DecisionAnswer | WaitingAnswer | RefusedAnswer:
    if isinstance(answer, Decision):
        return DecisionAnswer.read(answer)
    if isinstance(answer, Waiting):
        return WaitingAnswer.read(answer, status="waiting")
    code, members = rules_problem(answer)
    return RefusedAnswer(status="refused", code=code, detail=answer.message, problem=members)
