"""The ASGI application. Importing this module creates nothing; the database opens when the application starts."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import State
from starlette.types import ASGIApp, Receive, Scope, Send
from typing_extensions import override

from remotelr.rules import Decision
from remotelr_service.features.bulk.endpoints import router as bulk
from remotelr_service.features.bulk.executor import bulk_executor
from remotelr_service.features.commands.endpoints import router as commands
from remotelr_service.features.experiments.endpoints import router as experiments
from remotelr_service.features.health.endpoints import router as health
from remotelr_service.features.policies.endpoints import router as policies
from remotelr_service.features.policies.run_endpoints import router as run_policies
from remotelr_service.features.runs.endpoints import router as runs
from remotelr_service.features.runs.history_endpoints import router as history
from remotelr_service.features.runs.stalls import Stalls
from remotelr_service.features.streams.endpoints import router as streams
from remotelr_service.features.tokens.endpoints import router as tokens
from remotelr_service.features.training.deadlines import deadline_task
from remotelr_service.features.training.endpoints import router as training
from remotelr_service.features.training.fast_reports import FastReports
from remotelr_service.features.training.responses import log_decision
from remotelr_service.http import error_handlers
from remotelr_service.http.admission import ConcurrencyLimiter
from remotelr_service.http.auth.gate import AccessGate
from remotelr_service.http.body_memory import COUNTED_BODY, body_memory
from remotelr_service.http.context import Context
from remotelr_service.server import docs, openapi
from remotelr_service.server.host_check import HostCheck
from remotelr_service.server.middleware import ErrorMiddleware, HeadAsGet, RequestIds
from remotelr_service.server.request_metrics import RequestMetrics
from remotelr_service.settings import Settings

# In the order of the OpenAPI document.
ROUTERS = (
    training,
    runs,
    history,
    commands,
    bulk,
    experiments,
    run_policies,
    policies,
    streams,
    tokens,
    health,
)

DESCRIPTION = """The learning-rate control plane: it stores the policy and the plateau state of every training run.

Trainers report their metrics after each epoch and receive the next learning rate. A repeated report gets the same
answer; every error is `application/problem+json` with a stable `code`."""


class SharedState(State):
    """State of all requests. Starlette's class calls `__getattr__` for each attribute, eight times per report."""

    @override
    def __setattr__(self, name: Any, value: Any) -> None:
        object.__setattr__(self, name, value)


class Application(FastAPI):
    """FastAPI behind `front`, an ASGI application that ends in `behind`.

    The front is not middleware, because FastAPI has layers before it; `FastReports` must bypass them.
    """

    front: ASGIApp

    @override
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["app"] = self
        try:
            await self.front(scope, receive, send)
        finally:
            # Whatever became of the request: nothing holds its body any more.
            counted = scope.get("extensions", {}).get(COUNTED_BODY)
            if counted is not None:
                counted.release()

    async def behind(self, scope: Scope, receive: Receive, send: Send) -> None:
        await super().__call__(scope, receive, send)


def create_app(settings: Settings, opened: Context | None = None) -> FastAPI:
    """The application over the database of `settings`, whose schema must be current.

    opened: a context to use; without one, the application opens its own at start. It closes either at its end.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        ctx = app.state.context = opened or Context.open(settings.database_url)
        app.state.limiter = ConcurrencyLimiter(settings.max_requests, settings.queue_timeout_s)
        ctx.streams.limit_to(settings.max_streams)
        stalls = Stalls(ctx.writer, ctx.reads)
        ctx.metrics.watch("remotelr_runs_stalled", "Runs whose trainer stopped reporting.", lambda: stalls.count)
        gate = app.state.gate = AccessGate(settings, ctx)
        _add_gauges(app)

        def record(decision: Decision) -> None:
            log_decision(decision)
            ctx.metrics.decision(decision)

        try:
            async with (
                gate.refreshing_tokens(),
                ctx.streams.running(),
                stalls.watched(),
                deadline_task(ctx.writer, ctx.reads, record),
                bulk_executor(ctx.writer, ctx.reads) as app.state.bulk_executor,
            ):
                yield
        finally:
            await ctx.evaluator.close()
            await run_in_threadpool(ctx.close)

    app = Application(
        title="RemoteLR",
        version=version("remotelr-service"),
        description=DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
    )
    app.state = SharedState()
    app.state.settings = settings
    app.state.draining = asyncio.Event()
    app.state.body_memory = body_memory(settings.max_bodies_mib)
    app.add_middleware(ErrorMiddleware)
    app.front = RequestMetrics(RequestIds(HostCheck(FastReports(HeadAsGet(app.behind)), settings)))
    error_handlers.install(app)
    openapi.install(app)
    docs.install(app)
    for router in ROUTERS:
        app.include_router(router)
    return app


def _add_gauges(app: FastAPI) -> None:
    metrics, limiter, draining = app.state.context.metrics, app.state.limiter, app.state.draining
    memory = app.state.body_memory
    metrics.set_build_info(app.version)
    metrics.watch("remotelr_http_requests_in_progress", "Requests being processed.", lambda: limiter.taken)
    metrics.watch("remotelr_http_requests_queued", "Requests in the queue.", lambda: limiter.queue_length)
    metrics.watch("remotelr_http_requests_waiting", "Requests that wait for a decision.", lambda: limiter.waiting)
    metrics.watch("remotelr_http_body_bytes", "Bytes of request bodies in memory.", lambda: memory.total)
    metrics.watch("remotelr_draining", "1 while the service shuts down.", draining.is_set)
