"""Middleware of every request: ids, security headers, and a response to unexpected errors."""

import asyncio
import re

import structlog
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from remotelr_service.features.streams.sse import IS_HEAD
from remotelr_service.http.auth.gate import AccessGate
from remotelr_service.http.problems import problem
from remotelr_service.logs import REQUEST_ID, TRACE, new_request_id
from remotelr_service.server.trace_context import Trace, read_traceparent

_REQUEST_ID = re.compile(rb"[A-Za-z0-9-]{1,64}")
_CLOSE = ((b"connection", b"close"),)
# For responses that are opened in a browser: no scripts, no frames, no caching.
_SAFE = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
_NO_PAGE = (
    *_SAFE,
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"cache-control", b"no-store"),
)

log = structlog.get_logger("remotelr")


class RequestIds:
    """Gives every request an id: its `X-Request-Id` if valid, else a new one. `traceparent` is returned unchanged.

    An unexpected error is logged with the id and answered with a problem that contains the id only.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        given, trace = _given(scope)
        request_id = given or new_request_id()
        REQUEST_ID.set(request_id)
        named = [(b"x-request-id", request_id.encode())]
        if trace is not None:
            TRACE.set((trace.trace_id, trace.parent_id))
            named.append((b"traceparent", trace.traceparent))
        draining: asyncio.Event = scope["app"].state.draining
        has_begun = False

        async def send_named(message: Message) -> None:
            nonlocal has_begun
            if message["type"] == "http.response.start":
                has_begun = True
                # During shutdown the client must use a new connection, to another replica.
                closing = _CLOSE if draining.is_set() else ()
                headers = message["headers"]
                safe = _SAFE if any(name == b"content-security-policy" for name, _ in headers) else _NO_PAGE
                message["headers"] = [*headers, *safe, *named, *closing]
            elif message.get("more_body") and not _is_still_authorized(scope):
                await send({"type": "http.response.body", "body": b"", "more_body": False})
                raise ClientDisconnect
            await send(message)

        try:
            await self._app(scope, receive, send_named)
        except ClientDisconnect:
            return None
        except Exception as error:
            if has_begun:
                raise
            await _failure(scope, error)(scope, receive, send_named)


class ErrorMiddleware:
    """Answers an unexpected error with a problem; Starlette would answer with plain text."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        has_begun = False

        async def send_noted(message: Message) -> None:
            nonlocal has_begun
            has_begun = True
            await send(message)

        try:
            await self._app(scope, receive, send_noted)
        except ClientDisconnect:
            raise
        except Exception as error:
            if has_begun or scope["type"] != "http":
                raise
            await _failure(scope, error)(scope, receive, send)


class HeadAsGet:
    """Handles HEAD as GET; the server omits the body."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        inner = {**scope, "method": "GET", IS_HEAD: True} if scope.get("method") == "HEAD" else scope
        await self._app(inner, receive, send)
        if "route" in inner:
            # RequestMetrics reads it.
            scope["route"] = inner["route"]


def _failure(scope: Scope, error: Exception) -> Response:
    request_id = REQUEST_ID.get()
    log.error("the service failed", exc_info=error, path=scope["path"][:200], method=scope["method"])
    detail = f"the service failed; see its log for request id {request_id}"
    return problem("internal_error", detail, request_id=request_id)


def _is_still_authorized(scope: Scope) -> bool:
    """Whether a stream may continue: its token may be revoked, or a token may be needed by now."""
    gate: AccessGate = scope["app"].state.gate
    return gate.is_still_authorized(scope)


def _given(scope: Scope) -> tuple[str | None, Trace | None]:
    request_id = trace = None
    for name, value in scope["headers"]:
        if name == b"x-request-id":
            request_id = value.decode() if _REQUEST_ID.fullmatch(value) else None
        elif name == b"traceparent":
            trace = read_traceparent(value)
    return request_id, trace
