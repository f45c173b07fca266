"""Commands: what operators order a run."""

from typing import Annotated

from fastapi import APIRouter, Header

from remotelr_service.actions import commands
from remotelr_service.api.answers import CommandAnswer
from remotelr_service.api.bodies import CommandRequest
from remotelr_service.api.dependencies import Means
from remotelr_service.api.fields import KEY_PATTERN, RunKey
from remotelr_service.api.problems import described
from remotelr_service.api.route import StrictRoute

router = APIRouter(prefix="/v1/runs/{run}/commands", tags=["operating"], route_class=StrictRoute)

IdempotencyKey = Annotated[
    str | None, Header(pattern=KEY_PATTERN, description="The command's key, where the body gives none.")
]


@router.post(
    "",
    operation_id="command",
    responses=described("run_not_found", "invalid_command", "invalid_request", "database_away"),
)
async def command(
    run: RunKey, body: CommandRequest, means: Means, idempotency_key: IdempotencyKey = None
) -> CommandAnswer:
    """Order something. It holds from the first epoch that is not yet decided, and never rewrites a used rate."""
    noted = await commands.command(means.writer, run, body.command(idempotency_key))
    return CommandAnswer(run=noted.run, seq=noted.seq, holds_from=noted.holds_from, type=body.type, value=body.value)
