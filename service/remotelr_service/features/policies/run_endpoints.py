"""Endpoints that explain a run's decisions and evaluate other policies on its reports."""

from typing import Annotated

from fastapi import APIRouter, Path, Request, Response
from starlette.concurrency import run_in_threadpool

from remotelr.rules import describe
from remotelr_service.features.policies import replay_policy, what_if
from remotelr_service.features.policies.charts import what_if_chart
from remotelr_service.features.policies.schemas import ReplayPolicyAnswer, WhatIfAnswer, WhatIfRequest
from remotelr_service.features.training import decisions
from remotelr_service.features.training.schemas import ExplainedDecisionAnswer
from remotelr_service.http.dependencies import Ctx, evaluated
from remotelr_service.http.fields import DECIMAL, MAX_EPOCH, RunKey
from remotelr_service.http.negotiation import JSON, SVG, preferred_media_type
from remotelr_service.http.problems import described
from remotelr_service.http.route import StrictRoute

router = APIRouter(prefix="/v1/runs/{run}", tags=["explaining"], route_class=StrictRoute)

DecidedEpoch = Annotated[int, Path(ge=0, le=MAX_EPOCH, description="The epoch the rate is for, 0-based."), DECIMAL]


@router.get(
    "/decisions/{epoch}",
    operation_id="get_decision_of_epoch",
    responses=described("run_not_found", "epoch_undecided", "invalid_request", "database_unavailable"),
)
def get_decision_of_epoch(run: RunKey, epoch: DecidedEpoch, ctx: Ctx) -> ExplainedDecisionAnswer:
    """The decision in force in the epoch, with its causes and a sentence.

    In a gap it is the newest decision before the gap.
    """
    decision = decisions.decision_of_epoch(ctx.reads, run, epoch)
    return ExplainedDecisionAnswer.read(decision, sentence=describe(decision))


@router.post(
    "/what-if",
    operation_id="what_if",
    responses={
        200: {"model": WhatIfAnswer, "content": {SVG: {"schema": {"type": "string"}}}},
        **described(
            "run_not_found",
            "log_too_long",
            "evaluation_too_long",
            "invalid_policy",
            "invalid_report",
            "invalid_request",
            "database_unavailable",
        ),
    },
    response_model=None,
)
async def ask_what_if(run: RunKey, body: WhatIfRequest, ctx: Ctx, request: Request) -> WhatIfAnswer | Response:
    """The rates of the run under other policies, beside its actual rates. The header Accept selects JSON or SVG.

    Each policy gets the reported metrics and no commands. Nothing is stored.
    """

    policies = await run_in_threadpool(body.parsed)
    found = await evaluated(request, what_if.what_if(ctx.reads, ctx.evaluator, run, policies))

    def answer() -> WhatIfAnswer | Response:
        if preferred_media_type(request, (JSON, SVG)) == SVG:
            return what_if_chart(run, found)
        return WhatIfAnswer.read(found, run=run)

    return await run_in_threadpool(answer)


@router.get(
    "/replay-policy",
    operation_id="get_replay_policy",
    responses=described(
        "run_not_found", "log_too_long", "evaluation_too_long", "invalid_request", "database_unavailable"
    ),
)
async def get_replay_policy(run: RunKey, ctx: Ctx, request: Request) -> ReplayPolicyAnswer:
    """The run's actual rates, commands included, as a policy: a new run with it gets the same rates."""
    found = await evaluated(request, replay_policy.replay_policy(ctx.reads, ctx.evaluator, run))
    return ReplayPolicyAnswer.read(found, run=run)
