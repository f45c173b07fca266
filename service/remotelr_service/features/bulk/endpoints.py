"""Endpoints of bulk commands."""

from fastapi import APIRouter, Request, Response
from starlette.concurrency import run_in_threadpool

from remotelr.rules import command_to_json
from remotelr_service.features.bulk import bulk
from remotelr_service.features.bulk.executor import BulkExecutor
from remotelr_service.features.bulk.schemas import BulkCommandAnswer, BulkCommandRequest
from remotelr_service.features.commands import commands
from remotelr_service.http.dependencies import CalledBy, Configured, Ctx, run_until_disconnect
from remotelr_service.http.fields import (
    AfterPlace,
    CommandNumber,
    IdempotencyKey,
    OnlyFailed,
    PlaceLimit,
    Wait,
)
from remotelr_service.http.problems import Responses, described
from remotelr_service.http.route import StrictRoute

router = APIRouter(prefix="/v1/commands", tags=["operating"], route_class=StrictRoute)

_UNDER_WAY: Responses = {202: {"model": BulkCommandAnswer, "description": "The command is stored and being executed."}}


def executor_of(request: Request) -> BulkExecutor:
    """The bulk executor of this process."""
    executor: BulkExecutor = request.app.state.bulk_executor
    return executor


@router.post(
    "",
    operation_id="bulk_command",
    responses={
        **_UNDER_WAY,
        **described("invalid_command", "invalid_policy", "too_many_runs", "invalid_request", "database_unavailable"),
    },
)
async def bulk_command(
    *,
    body: BulkCommandRequest,
    request: Request,
    response: Response,
    ctx: Ctx,
    settings: Configured,
    caller: CalledBy,
    idempotency_key: IdempotencyKey = None,
    wait: Wait = 5.0,
    after: AfterPlace = 0,
    limit: PlaceLimit = 200,
) -> BulkCommandAnswer:
    """Send one command to every selected run. Each run accepts or rejects it separately.

    With `dry_run` nothing changes, and the answer lists each run's rate before and after. The service waits `wait`
    seconds for the end. If the answer is 202, `GET /v1/commands/{id}` gives the progress.
    """
    key = body.key or body.command.key or idempotency_key
    actor = caller.actor(body.actor or body.command.actor)
    unsigned = await run_in_threadpool(body.unsigned_command)
    command = commands.signed(unsigned, key=key, actor=actor, reason=body.reason or body.command.reason)
    selector = body.selector.selector()
    if body.dry_run:
        result = await run_in_threadpool(bulk.dry_run, ctx.reads, selector, command, after=after - 1, limit=limit)
        return _dry_run_answer(result)
    stored, is_known = await bulk.create_bulk(ctx.writer, ctx.reads, selector, command)
    executor = executor_of(request)
    if not is_known:
        executor.begin(stored.id)
    await run_until_disconnect(request, executor.wait(stored.id, min(wait, settings.wait_limit_s)))
    view = await run_in_threadpool(bulk.get_bulk, ctx.reads, stored.id, after=after - 1, limit=limit)
    answer = _answer(view)
    if answer.finished_at is None:
        response.status_code = 202
    return answer


@router.get(
    "/{id}",
    operation_id="get_bulk_command",
    responses=described("command_not_found", "invalid_request", "database_unavailable"),
)
def get_bulk_command(
    *,
    id: CommandNumber,
    ctx: Ctx,
    after: AfterPlace = 0,
    limit: PlaceLimit = 200,
    failed: OnlyFailed = False,
) -> BulkCommandAnswer:
    """A bulk command, its progress, and its results so far."""
    view = bulk.get_bulk(ctx.reads, id, after=after - 1, limit=limit, only_failed=failed)
    return _answer(view)


def _answer(view: bulk.BulkView) -> BulkCommandAnswer:
    command = view.bulk
    return BulkCommandAnswer.read(
        command,
        view.progress,
        dry_run=False,
        status="running" if command.finished_at is None else "finished",
        count=len(command.runs),
        runs=view.results,
        next=_next(view),
    )


def _dry_run_answer(dry_run: bulk.DryRun) -> BulkCommandAnswer:
    return BulkCommandAnswer.read(
        dry_run,
        id=None,
        dry_run=True,
        key=None,
        selector=dry_run.selector.to_json(),
        command=command_to_json(dry_run.command),
        actor=dry_run.command.actor,
        reason=dry_run.command.reason,
        status="finished",
        done=0,
        failed=sum(result.code is not None for result in dry_run.results),
        created_at=None,
        finished_at=None,
        runs=dry_run.results,
        next=_next(dry_run),
    )


def _next(view: bulk.BulkView | bulk.DryRun) -> int | None:
    # Stored places are 0-based. `after` is the number of results that the caller has seen.
    return view.results[-1].place + 1 if view.more else None
