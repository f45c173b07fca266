"""The stream of requests: how they are let in, and how each is measured."""

import random
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from remotelr_service.http.admission import ConcurrencyLimiter
from remotelr_service.http.context import Context
from remotelr_service.http.problems import problem

# Who asks these asks how we are.
_ALWAYS_LET_IN = frozenset({"/livez", "/readyz", "/metrics"})
# Asked back after different times, or they would all come at once; and not at once, for to refuse is work too.
_TURNED_AWAY = [
    problem(
        "overloaded", "more is asked of the service than it can do: send the same again", headers={"Retry-After": s}
    )
    for s in "456789"
]
_REPORTS = "/v1/runs/{run}/reports"
_UNROUTED = "none"


class RequestMetrics:
    """Lets requests in as places come free, turns away in few steps who waited too long, and counts them all."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        state = scope["app"].state
        limiter: ConcurrencyLimiter = state.limiter
        ctx: Context = state.context
        began, status = time.perf_counter(), 500
        if scope["path"] not in _ALWAYS_LET_IN and not await limiter.acquire():
            ctx.metrics.turned_away()
            return await random.choice(_TURNED_AWAY)(scope, receive, send)

        async def send_noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, send_noted)
        finally:
            # Also one that took no place, as for a path that is none, was let in before somebody else.
            limiter.admit_next()
            route = getattr(scope.get("route"), "path", _UNROUTED)
            ctx.metrics.request(scope["method"], route, status, time.perf_counter() - began)
            if route == _REPORTS and status >= 400:
                ctx.metrics.report("failed" if status >= 500 else "refused")
