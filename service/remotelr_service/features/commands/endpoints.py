"""Endpoints of the commands to one run."""

from datetime import datetime

from fastapi import APIRouter
from starlette.concurrency import run_in_threadpool

from remotelr.rules.commands.status import CommandRecord
from remotelr_service.features.commands import commands
from remotelr_service.features.commands.schemas import AnyCommandBody, CommandAnswer, CommandPage
from remotelr_service.http.dependencies import CalledBy, Ctx
from remotelr_service.http.fields import AfterSequence, EventNumber, IdempotencyKey, Limit, RunKey
from remotelr_service.http.problems import described
from remotelr_service.http.route import StrictRoute

router = APIRouter(prefix="/v1/runs/{run}/commands", tags=["operating"], route_class=StrictRoute)


@router.post(
    "",
    operation_id="command",
    responses=described(
        "run_not_found", "seq_conflict", "invalid_command", "invalid_policy", "invalid_request", "database_unavailable"
    ),
)
async def send_command(
    *, run: RunKey, body: AnyCommandBody, ctx: Ctx, caller: CalledBy, idempotency_key: IdempotencyKey = None
) -> CommandAnswer:
    """Send a command. It takes effect from the first undecided epoch and never changes a used rate."""
    # Parsing a policy can take milliseconds, which would block the event loop.
    command = await run_in_threadpool(body.command)
    command = commands.signed(
        command,
        key=body.key or idempotency_key,
        actor=caller.actor(body.actor),
        reason=body.reason,
        expected_seq=body.expected_seq,
    )
    seq = await commands.command(ctx.writer, run, command)
    return _answer(await run_in_threadpool(commands.get_command, ctx.reads, run, seq))


@router.get(
    "", operation_id="list_commands", responses=described("run_not_found", "invalid_request", "database_unavailable")
)
def list_commands(run: RunKey, ctx: Ctx, after: AfterSequence = 0, limit: Limit = 100) -> CommandPage:
    """The commands to the run, oldest first, with their status."""
    page = commands.list_commands(ctx.reads, run, after=after, limit=limit)
    return CommandPage(run=run, commands=[_answer(view) for view in page.commands], next=page.after)


@router.get(
    "/{seq}",
    operation_id="get_command",
    responses=described("run_not_found", "command_not_found", "invalid_request", "database_unavailable"),
)
def get_command(run: RunKey, seq: EventNumber, ctx: Ctx) -> CommandAnswer:
    """A command to the run, with its status."""
    return _answer(commands.get_command(ctx.reads, run, seq))


def _answer(view: CommandRecord[datetime]) -> CommandAnswer:
    command = view.command
    value = command.multiplier if command.type == "scale" else command.value
    return CommandAnswer.read(view, command, value=value)
