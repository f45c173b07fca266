"""Dependencies of the endpoints: caller, context and settings, and waiting until a disconnect."""

import asyncio
from collections.abc import Coroutine
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Request

from remotelr_service.errors import Overloaded
from remotelr_service.http.admission import ConcurrencyLimiter
from remotelr_service.http.auth.callers import Caller
from remotelr_service.http.auth.gate import CALLER, AccessGate
from remotelr_service.http.context import Context
from remotelr_service.settings import Settings

T = TypeVar("T")


# `async`, because FastAPI runs plain functions in a thread.
async def _caller(request: Request) -> Caller:
    caller: Caller = request.scope[CALLER]
    return caller


async def _context(request: Request) -> Context:
    return gate_of(request).context_for(request.scope[CALLER])


async def _settings(request: Request) -> Settings:
    settings: Settings = request.app.state.settings
    return settings


# The authenticated caller, set by the access gate.
CalledBy = Annotated[Caller, Depends(_caller)]
# The context of the request. For a restricted caller its writer rejects other runs.
Ctx = Annotated[Context, Depends(_context)]
Configured = Annotated[Settings, Depends(_settings)]


def gate_of(request: Request) -> AccessGate:
    gate: AccessGate = request.app.state.gate
    return gate


def draining(request: Request) -> asyncio.Event:
    """The event that is set when the service begins to stop."""
    event: asyncio.Event = request.app.state.draining
    return event


async def run_until_disconnect(request: Request, work: Coroutine[Any, Any, T]) -> T | None:
    """The result of `work`; None if the service begins to stop or the client disconnects first.

    Raises Refusal or RunNotFound if the caller is not authorized any more.
    """
    limiter: ConcurrencyLimiter = request.app.state.limiter
    task = asyncio.ensure_future(work)
    stops = [asyncio.ensure_future(draining(request).wait()), asyncio.ensure_future(_wait_for_disconnect(request))]
    try:
        with limiter.released():
            await asyncio.wait([task, *stops], return_when=asyncio.FIRST_COMPLETED)
        result = await task if task.done() else None
    finally:
        for each in (task, *stops):
            each.cancel()
    await gate_of(request).recheck(request.scope)
    return result


async def evaluated(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of a long evaluation, which ends with its request. Raises Overloaded if the service is stopping."""
    found = await run_until_disconnect(request, work)
    if found is None:
        raise Overloaded("the service is stopping; retry the request")
    return found


async def _wait_for_disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
