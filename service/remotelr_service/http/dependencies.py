"""What routes are given beside the request: the means of the actions, and a way to wait."""

import asyncio
from collections.abc import Coroutine
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Request

from remotelr_service.http.admission import ConcurrencyLimiter
from remotelr_service.http.auth.callers import Caller
from remotelr_service.http.auth.gate import CALLER, AccessGate
from remotelr_service.http.context import Context
from remotelr_service.settings import Settings

T = TypeVar("T")


# `async`, though they wait for nothing: FastAPI sends plain functions to a thread.
async def _caller(request: Request) -> Caller:
    caller: Caller = request.scope[CALLER]
    return caller


async def _context(request: Request) -> Context:
    return gate_of(request).context_for(request.scope[CALLER])


async def _settings(request: Request) -> Settings:
    settings: Settings = request.app.state.settings
    return settings


# Who asks. The door (`gate.py`) has found out, and has seen that they may.
CalledBy = Annotated[Caller, Depends(_caller)]
# What they are given to work with: whoever is kept to some runs is given no others.
Ctx = Annotated[Context, Depends(_context)]
Configured = Annotated[Settings, Depends(_settings)]


def gate_of(request: Request) -> AccessGate:
    gate: AccessGate = request.app.state.gate
    return gate


def draining(request: Request) -> asyncio.Event:
    """Set when the service has been told to stop."""
    event: asyncio.Event = request.app.state.draining
    return event


async def run_until_disconnect(request: Request, work: Coroutine[Any, Any, T]) -> T | None:
    """What `work` gives; None when before that the service begins to stop, or whoever asked has gone.

    Raises Refusal and RunNotFound for whoever would not be let in any more.
    """
    limiter: ConcurrencyLimiter = request.app.state.limiter
    working = asyncio.ensure_future(work)
    others = [asyncio.ensure_future(draining(request).wait()), asyncio.ensure_future(_gone(request))]
    try:
        with limiter.released():
            await asyncio.wait([working, *others], return_when=asyncio.FIRST_COMPLETED)
        found = await working if working.done() else None
    finally:
        for task in (working, *others):
            task.cancel()
    await gate_of(request).recheck(request.scope)
    return found


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
