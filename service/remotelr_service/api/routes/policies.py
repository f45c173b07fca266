"""Policies: what their curves look like, and what may be written in them."""

from typing import Any

from fastapi import APIRouter

from remotelr.rules.json_schema import json_schema
from remotelr_service.actions import policies
from remotelr_service.api.answers import PreviewAnswer
from remotelr_service.api.bodies import PreviewRequest
from remotelr_service.api.problems import described
from remotelr_service.api.route import StrictRoute

router = APIRouter(prefix="/v1/policies", tags=["policies"], route_class=StrictRoute)


@router.post("/preview", operation_id="preview_policy", responses=described("invalid_policy", "invalid_request"))
def preview_policy(body: PreviewRequest) -> PreviewAnswer:
    """The curve a policy would give: `count` positions of its unit from `start` on. Nothing is stored."""
    curve = policies.preview(
        body.parsed(),
        body.initial_learning_rate,
        body.count,
        body.start,
        body.measured(),
        steps_per_epoch=body.steps_per_epoch,
        total=body.total,
    )
    momentum = None if curve.momentum is None else list(curve.momentum)
    return PreviewAnswer(learning_rates=list(curve.learning_rates), momentum=momentum)


@router.get("/schema", operation_id="get_policy_schema", responses=described("invalid_request"))
async def get_policy_schema() -> dict[str, Any]:
    """The JSON Schema of policies: every schedule, every parameter, every bound."""
    return json_schema()
