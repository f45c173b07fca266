"""The route class of all endpoints: reads bodies strictly, within a size and a time, and checks query names."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final
from urllib.parse import parse_qsl

from fastapi import Request
from fastapi.routing import APIRoute
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from typing_extensions import override

from remotelr_service.http import json_reader
from remotelr_service.http.admission import ConcurrencyLimiter
from remotelr_service.http.auth.gate import AccessGate, holder_of
from remotelr_service.http.body_memory import COUNTED_BODY, MAX_BODY_BYTES, CountedBody
from remotelr_service.http.problems import Refusal

# An ASGI extension of this service's server: the whole request has arrived.
IS_WHOLE: Final = "remotelr.is_whole"

_CLOSE = {"Connection": "close"}


class StrictRequest(Request):
    """A request of a known caller, whose body is read once, within a size, a time and the caller's share of memory."""

    limit_bytes = MAX_BODY_BYTES
    _read: bytes | None = None

    @override
    async def body(self) -> bytes:
        if self._read is None:
            extensions = self.scope.get("extensions", {})
            counted: CountedBody | None = extensions.get(COUNTED_BODY)
            if counted is not None:
                counted.move(holder_of(self.scope))
            is_whole = IS_WHOLE in extensions
            self._read = await (self._receive_all(counted) if is_whole else self._receive_in_time(counted))
        return self._read

    @override
    async def json(self) -> Any:
        try:
            return json_reader.loads(await self.body())
        except json_reader.MalformedJSON as error:
            errors = [{"path": error.path, "message": error.message}] if error.path else None
            raise Refusal("malformed_json", str(error), errors=errors) from None

    async def _receive_in_time(self, counted: CountedBody | None) -> bytes:
        timeout_s: float = self.app.state.settings.body_timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                return await self._receive_all(counted)
        except TimeoutError:
            detail = f"the body did not arrive within {timeout_s:g} s; send it faster"
            raise Refusal("request_timeout", detail, headers=_CLOSE) from None

    async def _receive_all(self, counted: CountedBody | None) -> bytes:
        declared = self.headers.get("content-length", "")
        if declared.isdigit() and int(declared) > self.limit_bytes:
            raise self._too_large()
        parts: list[bytes] = []
        size = 0
        while True:
            message = await self.receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            if counted is not None:
                counted.check()
            part: bytes = message.get("body", b"")
            size += len(part)
            if size > self.limit_bytes:
                raise self._too_large()
            parts.append(part)
            if not message.get("more_body", False):
                return b"".join(parts)

    def _too_large(self) -> Refusal:
        # Close the connection, because the rest of the body is still arriving.
        return Refusal("body_too_large", f"the body must have at most {self.limit_bytes} bytes", headers=_CLOSE)


class StrictRoute(APIRoute):
    """A route that accepts bodies of type JSON, and each declared query parameter at most once."""

    request_class: type[StrictRequest] = StrictRequest

    @override
    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        answer = super().get_route_handler()
        request_class, has_body = self.request_class, self.body_field is not None
        known = frozenset(parameter.alias for parameter in self.dependant.query_params)
        call = self.operation_id or self.name

        async def strict(request: Request) -> Response:
            gate: AccessGate = request.app.state.gate
            await gate.authorize(request.scope, call)
            query = request.scope["query_string"]
            if query:
                read_query(query, known)
            if has_body:
                check_content_type(request.headers)
            strict_request = request_class(request.scope, request.receive)
            if has_body:
                await strict_request.body()
            limiter: ConcurrencyLimiter = request.app.state.limiter
            with limiter:
                return await answer(strict_request)

        return strict


def read_query(query: bytes, known: frozenset[str]) -> dict[str, str]:
    """The query parameters by name. Raises Refusal for an unknown or repeated name."""
    try:
        found = parse_qsl(query.decode("ascii"), keep_blank_values=True, errors="strict")
    except ValueError:
        raise Refusal("invalid_request", "the query string must be percent-encoded UTF-8") from None
    names = [name for name, _ in found]
    for name in names:
        if name not in known:
            takes = f"known are {', '.join(sorted(known))}" if known else "this call takes none"
            raise _wrong_parameter(name, f"unknown query parameter: {takes}")
        if names.count(name) > 1:
            raise _wrong_parameter(name, "must be given only once")
    return dict(found)


def _wrong_parameter(name: str, message: str) -> Refusal:
    path = f"query.{ascii(name[:60])[1:-1]}"
    return Refusal("invalid_request", f"{path}: {message}", errors=[{"path": path, "message": message}])


def check_content_type(headers: Headers) -> None:
    """Raises Refusal unless the body is JSON in UTF-8, and neither compressed nor encoded in another way."""
    encoding = headers.get("content-encoding")
    if encoding is not None and encoding.strip().lower() != "identity":
        raise Refusal(
            "unsupported_media_type",
            f"send the body without Content-Encoding, not as {encoding[:40]!a}",
            headers={"Accept-Encoding": "identity"},
        )
    content_type = headers.get("content-type")
    if content_type == "application/json":
        return
    media_type, _, parameters = (content_type or "").partition(";")
    charset = parameters.strip().lower().replace('"', "")
    if media_type.strip().lower() == "application/json" and charset in ("", "charset=utf-8"):
        return
    raise Refusal(
        "unsupported_media_type",
        "send the body as JSON in UTF-8, with the header Content-Type: application/json",
        headers={"Accept": "application/json"},
    )
