"""The short way of the hot call: a plain report is found first, read, and answered without FastAPI.

FastAPI works out anew for every request what a call declares, which took longer than all the rest of a report, and
goes through six layers to find it. What is done is done by the call in `routes/reports.py`; it takes the reports with
a query itself.
"""

import re
from typing import Any

from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import ValidationError
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from remotelr_service.features.training.endpoints import ReportStrictRequest, report, router
from remotelr_service.features.training.schemas import ReportRequest
from remotelr_service.http.auth.gate import AccessGate
from remotelr_service.http.fields import KEY_PATTERN
from remotelr_service.http.route import check_content_type

_PATH = re.compile(rf"/v1/runs/({KEY_PATTERN.strip('^$')})/reports")
# Under its name the answers are counted, and its fields are hinted at.
_DESCRIBED = next(route for route in router.routes if isinstance(route, APIRoute))


class FastReports:
    """Answers the reports that have nothing in their query; the rest is for the application behind it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        run = _run(scope)
        if run is None:
            await self._app(scope, receive, send)
            return
        scope["route"], scope["path_params"] = _DESCRIBED, {"run": run}
        request = ReportStrictRequest(scope, receive, send)
        try:
            response = await _answer(run, request)
        except Exception as error:  # noqa: BLE001  # what has no answer of its own is raised again
            response = await _problem(request, error)
        await response(scope, receive, send)


def _run(scope: Scope) -> str | None:
    """The key of the run whose plain report this is."""
    if scope["type"] != "http" or scope["method"] != "POST" or scope["query_string"]:
        return None
    found = _PATH.fullmatch(scope["path"])
    return None if found is None else found[1]


async def _answer(run: str, request: ReportStrictRequest) -> Response:
    state = request.app.state
    gate: AccessGate = state.gate
    # The writer looks whether the run is there for the caller: it reads the run anyhow.
    caller = await gate.authorize(request.scope, "report", checks_run=False)
    check_content_type(request.headers.get("content-type"))
    document = await request.json() if await request.body() else None
    with state.limiter:
        return await report(
            run=run, body=_read(document), request=request, ctx=gate.context_for(caller), settings=state.settings
        )


async def _problem(request: ReportStrictRequest, error: Exception) -> Response:
    """What the application answers to such an error; raises it where it has no answer."""
    answers = request.app.exception_handlers
    for kind in type(error).__mro__:
        if kind in answers:
            answer: Response = await answers[kind](request, error)
            return answer
    raise error


def _read(document: Any) -> ReportRequest:
    """Raises RequestValidationError, as FastAPI does."""
    if document is None:
        raise RequestValidationError([{"type": "missing", "loc": ("body",), "msg": "Field required", "input": None}])
    try:
        return ReportRequest.model_validate(document)
    except ValidationError as error:
        wrong = error.errors(include_url=False)
        raise RequestValidationError([{**each, "loc": ("body", *each["loc"])} for each in wrong]) from None
