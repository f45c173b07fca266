"""Endpoints of experiments."""

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from starlette.concurrency import run_in_threadpool

from remotelr_service.features.bulk.endpoints import executor_of
from remotelr_service.features.experiments import experiments, schemas
from remotelr_service.http.dependencies import CalledBy, Configured, Ctx, run_until_disconnect
from remotelr_service.http.fields import KEY_PATTERN, ExperimentName, Limit, Wait
from remotelr_service.http.problems import created, described
from remotelr_service.http.route import StrictRoute

router = APIRouter(prefix="/v1/experiments", tags=["experiments"], route_class=StrictRoute)


@router.put(
    "/{experiment}",
    operation_id="put_experiment",
    responses={
        **created(schemas.ExperimentPutAnswer, "experiment"),
        **described("invalid_policy", "invalid_request", "database_unavailable"),
    },
)
async def put_experiment(
    *,
    experiment: ExperimentName,
    body: schemas.ExperimentRequest,
    request: Request,
    response: Response,
    ctx: Ctx,
    settings: Configured,
    caller: CalledBy,
    wait: Wait = 5.0,
) -> schemas.ExperimentPutAnswer:
    """Replace the settings of the experiment; an absent setting is removed.

    Policy and tags apply to new runs. Changed limits also apply to every running run, as an event of its log. `wait`
    is the time in seconds that the service waits for these events.
    """
    new_settings = await run_in_threadpool(body.settings)
    put = await experiments.put_experiment(
        ctx.writer, experiment, new_settings, actor=caller.actor(body.actor), reason=body.reason
    )
    if put.limits_command is not None:
        executor = executor_of(request)
        executor.begin(put.limits_command)
        await run_until_disconnect(request, executor.wait(put.limits_command, min(wait, settings.wait_limit_s)))
    if put.is_new:
        response.status_code = 201
        response.headers["Location"] = f"/v1/experiments/{experiment}"
    return schemas.ExperimentPutAnswer.read(put.experiment, put)


@router.get("", operation_id="list_experiments", responses=described("invalid_request", "database_unavailable"))
def list_experiments(
    ctx: Ctx,
    after: Annotated[str | None, Query(pattern=KEY_PATTERN, description="Only names after this one.")] = None,
    limit: Limit = 100,
) -> schemas.ExperimentPage:
    """Experiments ordered by name, in pages."""
    page = experiments.list_experiments(ctx.reads, after=after, limit=limit)
    return schemas.ExperimentPage(
        experiments=[schemas.ExperimentAnswer.read(each) for each in page.experiments], next=page.after
    )


@router.get(
    "/{experiment}",
    operation_id="get_experiment",
    responses=described("experiment_not_found", "invalid_request", "database_unavailable"),
)
def get_experiment(experiment: ExperimentName, ctx: Ctx) -> schemas.ExperimentAnswer:
    """The experiment and its settings."""
    return schemas.ExperimentAnswer.read(experiments.get_experiment(ctx.reads, experiment))
