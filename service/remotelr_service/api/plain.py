"""The short way of the hot call: a plain report is found first, read, and answered without FastAPI.

FastAPI works out anew for every request what a call declares, which took longer than all the rest of a report.
What is done is done by the call in `routes/reports.py`; it takes the reports with a query itself.
"""

import re
from collections.abc import MutableMapping
from typing import Any

from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import ValidationError
from starlette.routing import BaseRoute, Match
from starlette.types import Receive, Scope, Send
from typing_extensions import override

from remotelr_service.api.bodies import ReportRequest
from remotelr_service.api.door import Door
from remotelr_service.api.fields import KEY_PATTERN
from remotelr_service.api.route import check_content_type
from remotelr_service.api.routes.reports import ReportStrictRequest, report, router

_PATH = re.compile(rf"/v1/runs/({KEY_PATTERN.strip('^$')})/reports")


class PlainReports(BaseRoute):
    """Takes the reports that have nothing in their query."""

    def __init__(self) -> None:
        # Under its name the answers are counted, and its fields are hinted at.
        self._described = next(route for route in router.routes if isinstance(route, APIRoute))

    @override
    def matches(self, scope: Scope) -> tuple[Match, MutableMapping[str, Any]]:
        if scope["type"] != "http" or scope["method"] != "POST" or scope["query_string"]:
            return Match.NONE, {}
        found = _PATH.fullmatch(scope["path"])
        if found is None:
            return Match.NONE, {}
        return Match.FULL, {"route": self._described, "path_params": {"run": found[1]}}

    @override
    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        door: Door = scope["app"].state.door
        # The writer looks whether the run is there for the caller: it reads the run anyhow.
        caller = await door.admit(scope, "report", looks_at_run=False)
        request = ReportStrictRequest(scope, receive, send)
        check_content_type(request.headers.get("content-type"))
        document = await request.json() if await request.body() else None
        run, state = request.path_params["run"], request.app.state
        with state.places:
            response = await report(
                run=run, body=_read(document), request=request, means=door.means_of(caller), settings=state.settings
            )
        await response(scope, receive, send)


def _read(document: Any) -> ReportRequest:
    """Raises RequestValidationError, as FastAPI does."""
    if document is None:
        raise RequestValidationError([{"type": "missing", "loc": ("body",), "msg": "Field required", "input": None}])
    try:
        return ReportRequest.model_validate(document)
    except ValidationError as error:
        wrong = error.errors(include_url=False)
        raise RequestValidationError([{**each, "loc": ("body", *each["loc"])} for each in wrong]) from None
