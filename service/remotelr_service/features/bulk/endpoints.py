"""Commands to many runs at once."""

from collections.abc import Sequence

from fastapi import APIRouter, Request, Response
from starlette.concurrency import run_in_threadpool

from remotelr.rules import command_to_json
from remotelr_service.features.bulk import bulk
from remotelr_service.features.bulk.bulk import BulkResult
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
    WaitForMany,
)
from remotelr_service.http.problems import Responses, described
from remotelr_service.http.route import StrictRoute

router = APIRouter(prefix="/v1/commands", tags=["operating"], route_class=StrictRoute)

_UNDER_WAY: Responses = {202: {"model": BulkCommandAnswer, "description": "It is noted, and under way."}}


def executor_of(request: Request) -> BulkExecutor:
    """Who carries out commands to many runs."""
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
    wait: WaitForMany = 5.0,
    after: AfterPlace = 0,
    limit: PlaceLimit = 200,
) -> BulkCommandAnswer:
    """Order the same of every selected run. Each takes it or refuses it by itself, and is listed with what came of it.

    With `dry_run` nothing changes, and each is listed with its rate before and after. The answer waits `wait`
    seconds for the end; 202 says that it goes on, and `GET /v1/commands/{id}` how far it is.
    """
    key = body.key or body.command.key or idempotency_key
    actor = caller.actor(body.actor or body.command.actor)
    wanted = await run_in_threadpool(body.ordered)
    order = commands.signed(wanted, key=key, actor=actor, reason=body.reason or body.command.reason)
    selector = body.selector.selector()
    if body.dry_run:
        rehearsal = await run_in_threadpool(bulk.dry_run, ctx.reads, selector, order, after=after - 1, limit=limit)
        return _dry_run_answer(rehearsal)
    noted, is_known = await bulk.create_bulk(ctx.writer, ctx.reads, selector, order)
    executor = executor_of(request)
    if not is_known:
        executor.begin(noted.id)
    await run_until_disconnect(request, executor.wait(noted.id, min(wait, settings.wait_limit_s)))
    view = await run_in_threadpool(bulk.get_bulk, ctx.reads, noted.id, after=after - 1, limit=limit)
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
    """A command to many runs, how far it is, and what came of it for each run that has had its turn."""
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
        next=_next(view.results, more=view.more),
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
        next=_next(dry_run.results, more=dry_run.more),
    )


def _next(results: Sequence[BulkResult], *, more: bool) -> int | None:
    # Stored places are 0-based. `after` is the number of results that the caller has seen.
    return results[-1].place + 1 if more else None
