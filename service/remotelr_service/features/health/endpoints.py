"""Endpoints of liveness, readiness, metrics and version."""

import asyncio

from fastapi import APIRouter, Request, Response
from starlette.concurrency import run_in_threadpool
from starlette.responses import PlainTextResponse

from remotelr.rules import RULES_VERSION
from remotelr_service.features.health.checks import OK, database_checks, write_check
from remotelr_service.features.health.schemas import HealthAnswer, VersionAnswer
from remotelr_service.http.dependencies import Ctx, draining
from remotelr_service.http.fields import Verbose
from remotelr_service.http.problems import described, problem
from remotelr_service.http.route import StrictRoute

PING_TIMEOUT_S = 1.0

router = APIRouter(tags=["health"], route_class=StrictRoute)


@router.get("/livez", operation_id="livez", responses=described("invalid_request"))
async def livez() -> HealthAnswer:
    """Liveness. If this fails, restart the process."""
    return HealthAnswer(status="ok")


@router.get(
    "/readyz",
    operation_id="readyz",
    response_model=HealthAnswer,
    response_model_exclude_none=True,
    responses=described("not_ready", "invalid_request"),
)
async def readyz(request: Request, ctx: Ctx, verbose: Verbose = False) -> HealthAnswer | Response:
    """Readiness: the database answers, its schema is current, writes succeed, and the process is not stopping."""
    checks = await _database_checks(ctx)
    checks["writes"] = write_check(ctx)
    checks["serving"] = "stopping" if draining(request).is_set() else OK
    failing = {name: result for name, result in checks.items() if result != OK}
    if failing:
        detail = "; ".join(f"{name}: {result}" for name, result in failing.items())
        return problem("not_ready", detail, checks=checks if verbose else None)
    return HealthAnswer(status="ok", checks=checks if verbose else None)


@router.get(
    "/metrics",
    operation_id="get_metrics",
    response_class=PlainTextResponse,
    responses={200: {"description": "Metrics in Prometheus's text format."}, **described("invalid_request")},
)
async def get_metrics(ctx: Ctx) -> Response:
    """The metrics of this process for Prometheus. No label contains a value from users."""
    return Response(ctx.metrics.page(), media_type=ctx.metrics.content_type)


@router.get("/version", operation_id="get_version", responses=described("invalid_request"))
async def get_version(request: Request) -> VersionAnswer:
    """The release, and the rules version of new runs."""
    return VersionAnswer(version=request.app.version, rules_version=RULES_VERSION, api="v1")


async def _database_checks(ctx: Ctx) -> dict[str, str]:
    try:
        async with asyncio.timeout(PING_TIMEOUT_S):
            return await asyncio.shield(asyncio.ensure_future(run_in_threadpool(database_checks, ctx.reads)))
    except TimeoutError:
        return {"database": f"no answer within {PING_TIMEOUT_S:g} s", "schema": "not known"}
