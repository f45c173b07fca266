"""Answers reports before the request reaches FastAPI.

FastAPI resolves a route's declarations for every request and has six layers in front of it. Both took longer than all
other work of a report. FastAPI handles only the reports whose run key is invalid, which it rejects.
"""

import re
from typing import Any, TypeVar

from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from remotelr_service.features.training.endpoints import report, router
from remotelr_service.features.training.schemas import ReportQuery, ReportRequest
from remotelr_service.http.auth.gate import AccessGate
from remotelr_service.http.fields import KEY_PATTERN
from remotelr_service.http.route import StrictRequest, check_content_type, read_query

MAX_REPORT_BYTES = 64 * 1024

Model = TypeVar("Model", bound=BaseModel)

_PATH = re.compile(rf"/v1/runs/({KEY_PATTERN.strip('^$')})/reports")
# Metrics count reports under this route, and problems name its fields.
_ROUTE = next(route for route in router.routes if isinstance(route, APIRoute) and route.operation_id == "report")
_NO_QUERY = ReportQuery()


class ReportStrictRequest(StrictRequest):
    """The request of one report."""

    limit_bytes = MAX_REPORT_BYTES


class FastReports:
    """ASGI middleware that answers reports. All other requests go to the application behind it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        found = None
        if scope["type"] == "http" and scope["method"] == "POST":
            found = _PATH.fullmatch(scope["path"])
        if found is None:
            await self._app(scope, receive, send)
            return
        run = found[1]
        scope["route"], scope["path_params"] = _ROUTE, {"run": run}
        request = ReportStrictRequest(scope, receive, send)
        try:
            response = await _answer(run, request)
        except Exception as error:  # noqa: BLE001  # an error without a handler is raised again
            response = await _problem(request, error)
        await response(scope, receive, send)


async def _answer(run: str, request: ReportStrictRequest) -> Response:
    state, scope = request.app.state, request.scope
    gate: AccessGate = state.gate
    query_string = scope["query_string"]
    # Without a query only the writer reads the run, and the writer checks the caller's access itself.
    caller = await gate.authorize(scope, "report", checks_run=query_string != b"")
    query = _read(ReportQuery, "query", read_query(query_string, _QUERY_NAMES)) if query_string else _NO_QUERY
    check_content_type(request.headers)
    document = await request.json() if await request.body() else None
    with state.limiter:
        return await report(
            run=run,
            body=_read(ReportRequest, "body", document),
            request=request,
            ctx=gate.context_for(caller),
            settings=state.settings,
            wait=query.wait,
            steps_wanted=query.steps,
        )


_QUERY_NAMES = frozenset(ReportQuery.model_fields)


def _read(model: type[Model], part: str, document: Any) -> Model:
    """The model of this part of the request. Raises RequestValidationError, as FastAPI does."""
    if document is None:
        raise RequestValidationError([{"type": "missing", "loc": (part,), "msg": "Field required", "input": None}])
    try:
        return model.model_validate(document)
    except ValidationError as error:
        errors = error.errors(include_url=False)
        raise RequestValidationError([{**each, "loc": (part, *each["loc"])} for each in errors]) from None


async def _problem(request: ReportStrictRequest, error: Exception) -> Response:
    """The application's response to the error. Raises an error that has no handler."""
    handlers = request.app.exception_handlers
    for kind in type(error).__mro__:
        if kind in handlers:
            response: Response = await handlers[kind](request, error)
            return response
    raise error
