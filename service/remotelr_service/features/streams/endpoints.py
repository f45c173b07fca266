"""Endpoints of the event streams."""

from typing import Annotated

from fastapi import APIRouter, Header, Query, Request, Response

from remotelr_service.features.runs.schemas import Status
from remotelr_service.features.streams.sse import HEARTBEAT_S, MEDIA_TYPE, EventStream
from remotelr_service.http.auth.gate import holder_of
from remotelr_service.http.dependencies import Ctx
from remotelr_service.http.fields import DECIMAL, KEY_PATTERN, MAX_INTEGER, TAG_FILTER_PATTERN, RunKey
from remotelr_service.http.problems import Refusal, Responses, described
from remotelr_service.http.route import StrictRoute
from remotelr_service.live.hub import Cursor, Selection

router = APIRouter(prefix="/v1", tags=["history"], route_class=StrictRoute)

_STREAM: Responses = {
    200: {
        "description": "Events `decision`, `attempt`, `command`, `policy`, `report`, `created`, `finished` and "
        "`stalled`, each with a JSON document; `begin` first. A comment every 15 s is a heartbeat.",
        "content": {MEDIA_TYPE: {"schema": {"type": "string"}}},
    }
}
_ID_HELP = "The id of the last received event: the stream continues after it. Browsers send it automatically."


@router.get(
    "/runs/{run}/stream",
    operation_id="stream_run",
    response_class=Response,
    responses={**_STREAM, **described("run_not_found", "invalid_request", "overloaded", "database_unavailable")},
)
async def stream_run(
    run: RunKey,
    request: Request,
    ctx: Ctx,
    after: Annotated[
        int | None, Query(ge=0, le=MAX_INTEGER, description="Begin after this `seq`; 0 gives the whole log."), DECIMAL
    ] = None,
    last_event_id: Annotated[str | None, Header(pattern=r"^[0-9]{1,15}s?$", description=_ID_HELP)] = None,
) -> Response:
    """The events of the run, from now on or after the last received one. Ids are `seq`; `12s` is a stall after 12."""
    position = None if after is None else (after, 0)
    if last_event_id is not None:
        position = int(last_event_id.rstrip("s")), int(last_event_id.endswith("s"))
    batches = ctx.streams.follow_run(run, position, HEARTBEAT_S, holder_of(request.scope))
    return EventStream(await anext(batches), batches)


@router.get(
    "/stream",
    operation_id="stream_runs",
    response_class=Response,
    responses={**_STREAM, **described("invalid_request", "overloaded", "database_unavailable")},
)
async def stream_runs(
    *,
    request: Request,
    ctx: Ctx,
    experiment: Annotated[str | None, Query(pattern=KEY_PATTERN, description="Only runs of this experiment.")] = None,
    status: Annotated[
        Status | None, Query(description="Only runs that have this status when the event is sent.")
    ] = None,
    tag: Annotated[
        str | None, Query(pattern=TAG_FILTER_PATTERN, description="Only runs with this tag, as `name:value`.")
    ] = None,
    last_event_id: Annotated[str | None, Header(max_length=3_000, description=_ID_HELP)] = None,
) -> Response:
    """The events of all or selected runs, from now on or after the last received one.

    Events of one run have the order of its log. Ids are opaque and valid on every replica.
    """
    after = None if last_event_id is None else _cursor(last_event_id)
    name, _, value = (tag or "").partition(":")
    selection = Selection(experiment, status, None if tag is None else (name, value))
    batches = ctx.streams.follow_all(selection, after, HEARTBEAT_S, holder_of(request.scope))
    return EventStream(await anext(batches), batches)


def _cursor(written: str) -> Cursor:
    cursor = Cursor.parse(written)
    if cursor is None:
        message = "must be an id of this stream"
        raise Refusal(
            "invalid_request",
            f"header.last-event-id: {message}",
            errors=[{"path": "header.last-event-id", "message": message}],
        )
    return cursor
