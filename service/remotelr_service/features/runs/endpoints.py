"""Endpoints of runs: create or get, list, tag, finish, delete."""

from typing import Annotated

from fastapi import APIRouter, Query, Response
from starlette.concurrency import run_in_threadpool

from remotelr.rules.transitions.decide import rate_beneath
from remotelr_service.features.runs import runs
from remotelr_service.features.runs.schemas import FinishRequest, RunAnswer, RunPage, RunRequest, Status, TagsRequest
from remotelr_service.http.dependencies import CalledBy, Ctx
from remotelr_service.http.fields import KEY_PATTERN, TAG_FILTER_PATTERN, Limit, RunKey, Stalled
from remotelr_service.http.problems import created, described
from remotelr_service.http.route import StrictRoute

router = APIRouter(prefix="/v1/runs", tags=["runs"], route_class=StrictRoute)


@router.put(
    "/{run}",
    operation_id="put_run",
    responses={
        **created(RunAnswer, "run"),
        **described(
            "policy_conflict",
            "experiment_conflict",
            "invalid_policy",
            "invalid_command",
            "invalid_request",
            "database_unavailable",
        ),
    },
)
async def put_run(*, run: RunKey, body: RunRequest, ctx: Ctx, caller: CalledBy, response: Response) -> RunAnswer:
    """Create the run, or get it if it exists with the same policy."""
    # Parsing a policy can take milliseconds, which would block the event loop.
    spec = await run_in_threadpool(body.spec)
    experiment = caller.experiment_for(body.experiment)
    view, is_new = await runs.put_run(
        ctx.writer, run, spec, experiment=experiment, tags=body.tags, on_conflict=body.on_conflict, by=caller.name
    )
    if is_new:
        response.status_code = 201
        response.headers["Location"] = f"/v1/runs/{run}"
    return _answer(view)


@router.get("", operation_id="list_runs", responses=described("invalid_request", "database_unavailable"))
def list_runs(
    *,
    ctx: Ctx,
    experiment: Annotated[str | None, Query(pattern=KEY_PATTERN, description="Only runs of this experiment.")] = None,
    status: Annotated[Status | None, Query(description="Only runs with this status.")] = None,
    tag: Annotated[
        str | None, Query(pattern=TAG_FILTER_PATTERN, description="Only runs with this tag, as `name:value`.")
    ] = None,
    stalled: Stalled = None,
    after: Annotated[str | None, Query(pattern=KEY_PATTERN, description="Only keys after this one.")] = None,
    limit: Limit = 100,
) -> RunPage:
    """Runs ordered by key, in pages."""
    page = runs.list_runs(
        ctx.reads,
        experiment=experiment,
        status=status,
        tag=_name_and_value(tag),
        stalled=stalled,
        after=after,
        limit=limit,
    )
    return RunPage(runs=[_answer(view) for view in page.runs], next=page.after)


@router.get(
    "/{run}", operation_id="get_run", responses=described("run_not_found", "invalid_request", "database_unavailable")
)
def get_run(run: RunKey, ctx: Ctx) -> RunAnswer:
    """The run and its current position."""
    return _answer(runs.get_run(ctx.reads, run))


@router.patch(
    "/{run}",
    operation_id="tag_run",
    responses=described("run_not_found", "too_many_tags", "invalid_request", "database_unavailable"),
)
async def tag_run(run: RunKey, body: TagsRequest, ctx: Ctx) -> RunAnswer:
    """Change tags of the run, as a JSON Merge Patch (RFC 7396): other tags stay."""
    return _answer(await runs.tag_run(ctx.writer, run, body.tags))


@router.delete(
    "/{run}",
    operation_id="delete_run",
    status_code=204,
    responses=described("run_not_found", "invalid_request", "database_unavailable"),
)
async def delete_run(run: RunKey, ctx: Ctx, caller: CalledBy) -> None:
    """Delete the run and its log permanently. The audit keeps the run's commands and their actors."""
    await runs.delete_run(ctx.writer, run, by=caller.name)


@router.post(
    "/{run}/finish",
    operation_id="finish_run",
    responses=described("run_not_found", "run_finished", "server_behind", "invalid_request", "database_unavailable"),
)
async def finish_run(run: RunKey, body: FinishRequest, ctx: Ctx) -> RunAnswer:
    """Finish the run. It rejects reports until a new attempt begins."""
    return _answer(await runs.finish_run(ctx.writer, run, body.status, body.last_seq))


def _answer(view: runs.RunView) -> RunAnswer:
    stored = view.stored
    stalled = stored.stalled_at is not None
    return RunAnswer.read(
        stored.run.spec,
        stored.run,
        stored,
        decision=view.decision,
        stalled=stalled,
        learning_rate_beneath=rate_beneath(stored.run),
    )


def _name_and_value(tag: str | None) -> tuple[str, str] | None:
    if tag is None:
        return None
    name, _, value = tag.partition(":")
    return name, value
