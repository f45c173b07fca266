"""Endpoints of policies: preview and JSON Schema."""

import csv
from collections.abc import Sequence
from io import StringIO
from typing import Any

from fastapi import APIRouter, Request, Response
from starlette.concurrency import run_in_threadpool

from remotelr.rules import Preview
from remotelr.rules.policy.cost import cost_of
from remotelr.rules.policy.json_schema import json_schema
from remotelr_service.features.policies.charts import preview_chart
from remotelr_service.features.policies.schemas import PreviewAnswer, PreviewRequest
from remotelr_service.http.dependencies import Ctx, evaluated
from remotelr_service.http.negotiation import CSV, JSON, SVG, preferred_media_type
from remotelr_service.http.problems import described
from remotelr_service.http.route import StrictRoute

router = APIRouter(prefix="/v1/policies", tags=["policies"], route_class=StrictRoute)


@router.post(
    "/preview",
    operation_id="preview_policy",
    responses={
        200: {
            "model": PreviewAnswer,
            "content": {CSV: {"schema": {"type": "string"}}, SVG: {"schema": {"type": "string"}}},
        },
        **described("invalid_policy", "evaluation_too_long", "invalid_request"),
    },
    response_model=None,
)
async def preview_policy(body: PreviewRequest, ctx: Ctx, request: Request) -> PreviewAnswer | Response:
    """The curve of a policy: `count` positions in its unit, from `start` on. Nothing is stored.

    The header Accept selects JSON, a table (`text/csv`) or a chart (`image/svg+xml`).
    """
    policy = await run_in_threadpool(body.parsed)
    cost = cost_of(policy.schedule)
    work = ctx.evaluator.evaluate("preview", body.arguments(), count=body.count, cost=cost, what="count")
    curve = Preview(**await evaluated(request, work))

    def answer() -> PreviewAnswer | Response:
        match preferred_media_type(request, (JSON, CSV, SVG)):
            case "text/csv":
                return _table(curve, body.start, policy.unit)
            case "image/svg+xml":
                return preview_chart(curve, body.start, policy.unit)
        return PreviewAnswer.read(curve)

    return await run_in_threadpool(answer)


@router.get("/schema", operation_id="get_policy_schema", responses=described("invalid_request"))
async def get_policy_schema() -> dict[str, Any]:
    """The JSON Schema of policies: every schedule, parameter and bound."""
    return json_schema()


def _table(curve: Preview, start: int, unit: str) -> Response:
    """One row for each position. The digits round-trip to the same double."""
    table = StringIO()
    writer = csv.writer(table)
    rates = curve.learning_rates
    columns: dict[str, Sequence[float]] = {unit: range(start, start + len(rates)), "learning_rate": rates}
    if curve.momentum is not None:
        columns["momentum"] = curve.momentum
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))
    return Response(table.getvalue(), media_type=CSV)
