"""Admission and measurement of all requests."""

import random
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from remotelr_service.http.admission import ConcurrencyLimiter
from remotelr_service.http.context import Context
from remotelr_service.http.problems import problem

# Probes bypass the queue.
_EXEMPT = frozenset({"/livez", "/readyz", "/metrics"})
# Different delays spread the retries; a short delay would not reduce the load, for rejecting costs time too.
_REJECTIONS = [
    problem("overloaded", "the service is overloaded; retry the request", headers={"Retry-After": s}) for s in "456789"
]
_REPORTS = "/v1/runs/{run}/reports"
_UNROUTED = "none"


class RequestMetrics:
    """Admits requests through the limiter, rejects those whose wait times out, and counts all."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        state = scope["app"].state
        limiter: ConcurrencyLimiter = state.limiter
        ctx: Context = state.context
        began, status = time.perf_counter(), 500
        if scope["path"] not in _EXEMPT and not await limiter.acquire():
            ctx.metrics.rejected()
            return await random.choice(_REJECTIONS)(scope, receive, send)

        async def send_noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, send_noted)
        finally:
            # Also after a request that never took a place, such as one to an unknown path.
            limiter.admit_next()
            route = getattr(scope.get("route"), "path", _UNROUTED)
            ctx.metrics.request(scope["method"], route, status, time.perf_counter() - began)
            if route == _REPORTS and status >= 400:
                ctx.metrics.report("failed" if status >= 500 else "refused")
