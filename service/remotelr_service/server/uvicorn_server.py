"""The HTTP server: uvicorn with limits on connections, request heads and their timing, and a graceful shutdown."""

import asyncio
import contextlib
import errno
import logging
import signal
import socket
from collections.abc import Callable, Generator
from types import FrameType
from typing import Any, cast

import uvicorn
from fastapi import FastAPI
from starlette.types import Scope
from typing_extensions import override
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from remotelr_service.errors import UserError
from remotelr_service.features.streams.sse import ABORT
from remotelr_service.http.auth.gate import holder_of
from remotelr_service.http.body_memory import COUNTED_BODY, CountedBody
from remotelr_service.http.problems import MEDIA_TYPE, PROBLEMS, RETRY_AFTER_S, problem_body
from remotelr_service.http.route import IS_WHOLE
from remotelr_service.live.shares import Shares
from remotelr_service.server.connection_table import ConnectionTable
from remotelr_service.settings import Settings

log = logging.getLogger(__name__)

MAX_TARGET_BYTES = 8 * 1024
MAX_HEAD_BYTES = 32 * 1024
MAX_HEADERS = 100
# With the request line and the separators of names, values and lines.
_MAX_RAW_HEAD_BYTES = MAX_HEAD_BYTES + MAX_TARGET_BYTES + 4 * (MAX_HEADERS + 10)

# Time for clients to close their connections at shutdown; after it, idle connections are closed.
ABORT_AFTER_S = 0.25


class CannotListen(UserError):
    """The address cannot be bound."""


def listen(host: str, port: int) -> socket.socket:
    """A socket bound to the address, not yet listening. Raises CannotListen."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        bound = socket.socket(family, kind, protocol)
    except OSError as error:
        raise CannotListen(f"cannot listen on {host}: {error.strerror}; use another address with --host") from None
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        bound.close()
        raise CannotListen(_reason(error, host, port)) from None
    return bound


class Server(uvicorn.Server):
    """Serves `app` in one process. At shutdown, waiting requests are answered first.

    ready: called once, when the server accepts requests.
    """

    def __init__(self, app: FastAPI, settings: Settings, ready: Callable[[], None] = lambda: None) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                loop="uvloop",
                http=_protocol(settings.header_timeout_s, settings.max_connections, app.state.body_memory),
                ws="none",
                lifespan="on",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_graceful_shutdown=settings.shutdown_timeout_s,
            )
        )
        self._draining: asyncio.Event = app.state.draining
        self._drain_s = settings.drain_s
        self._ready = ready
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ended_by: str | None = None

    @override
    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)
        if self.started:
            self._ready()

    @override
    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        began = asyncio.get_running_loop().time()
        log.info("draining", extra={"signal": self._ended_by, "drain_s": self._drain_s})
        if self._drain_s and not self.force_exit:
            self._draining.set()
            await self._serve_on(self._drain_s)
        # Refuse new connections first: a client that must reconnect must not get one that is then cut off.
        for server in self.servers:
            server.close()
        # Now long polls are answered, /readyz fails, and every response has `connection: close`.
        self._draining.set()
        await self._await_closed_connections()
        await super().shutdown(sockets)
        took_s = asyncio.get_running_loop().time() - began
        log.info("stopped", extra={"signal": self._ended_by, "took_s": round(took_s, 3)})

    @override
    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        # uvicorn re-raises the signal at its end; a graceful shutdown must exit with 0.
        with super().capture_signals():
            yield
            self._captured_signals.clear()

    @override
    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        # An operator waits after Ctrl-C, so the service does not drain.
        if sig == signal.SIGINT:
            self._drain_s = 0.0
        self._ended_by = signal.Signals(sig).name
        super().handle_exit(sig, frame)

    def stop(self) -> None:
        """Begin the shutdown; callable from any thread."""
        self.should_exit = True

    async def _serve_on(self, seconds: float) -> None:
        deadline = asyncio.get_running_loop().time() + seconds
        while self._drain_s and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0.1)
            await self.on_tick(0)

    async def _await_closed_connections(self) -> None:
        """Wait until clients close their connections: closing them here could lose a request that is on its way."""
        deadline = asyncio.get_running_loop().time() + ABORT_AFTER_S
        while self.server_state.connections and not self.force_exit:
            if asyncio.get_running_loop().time() >= deadline:
                return
            await asyncio.sleep(0.01)


def _reason(error: OSError, host: str, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {port} on {host} is in use; stop the other process, or use another port with --port"
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"port {port} on {host} is not permitted; use a port above 1023 with --port"
    return f"cannot listen on {host}:{port}: {error.strerror}"


_TOO_LARGE = (
    "headers_too_large",
    f"a request may have {MAX_HEADERS} headers of {MAX_HEAD_BYTES} bytes in total",
)


def _size(headers: list[tuple[bytes, bytes]], at_most: int) -> int:
    """Bytes of the headers, counted only if `at_most` exceeds the limit; else `at_most`."""
    return at_most if at_most <= MAX_HEAD_BYTES else sum(len(name) + len(value) for name, value in headers)


def _protocol(header_timeout_s: float, max_connections: int, body_memory: Shares) -> type[asyncio.Protocol]:
    """uvicorn's protocol with limits on the number of connections, a head's size and time, and memory for bodies."""
    table: ConnectionTable[HttpToolsProtocol] = ConnectionTable(max_connections)

    class BoundedProtocol(HttpToolsProtocol):
        _timer: asyncio.TimerHandle | None = None
        _refusal: tuple[str, str] | None = None
        _is_in_head = True
        # Bounds of the size of an incomplete head: at least the chunks that hold nothing else, at most all bytes since
        # the chunk in which it began.
        _at_least = 0
        _at_most = 0
        _has_ended = False
        _body: CountedBody

        @override
        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # uvicorn's signature
            super().connection_made(transport)
            address = self.client[0] if self.client else ""
            is_added, closed = table.add(self, address)
            if closed is not None:
                # Closing would wait for a client that does not read.
                closed.transport.abort()
            if is_added:
                self._start_head_timer()
            else:
                self._answer(
                    "overloaded",
                    f"no connection of the {max_connections} is free for the address {address}; retry later",
                )

        @override
        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_head_timer()
            table.remove(self)
            for cycle, _ in self.pipeline:
                # The application never gets these requests.
                counted: Any = cycle.scope["extensions"][COUNTED_BODY]
                counted.release()
            super().connection_lost(exc)

        @override
        def data_received(self, data: bytes) -> None:
            begins_in_head, self._has_ended = self._is_in_head, False
            self._at_most = len(data) + (self._at_most if begins_in_head else 0)
            super().data_received(data)
            if not self._is_in_head or self.transport.is_closing():
                return
            if begins_in_head and not self._has_ended:
                self._at_least += len(data)
            else:
                self._at_least, self._at_most = 0, len(data)
            if self._at_least > _MAX_RAW_HEAD_BYTES:
                self._answer(*_TOO_LARGE)
                return
            if self._timer is None:
                self._start_head_timer()

        @override
        def on_message_begin(self) -> None:
            super().on_message_begin()
            self._is_in_head = True

        @override
        def on_url(self, url: bytes) -> None:
            super().on_url(url)
            if len(self.url) > MAX_TARGET_BYTES:
                self._refuse("target_too_long", f"the request target may have {MAX_TARGET_BYTES} bytes")

        @override
        def on_header(self, name: bytes, value: bytes) -> None:
            if not self._is_in_head:
                # uvicorn would add it to the headers, which are checked already.
                self._refuse("malformed_request", "headers after the body (trailers) are not supported")
            super().on_header(name, value)

        @override
        def on_headers_complete(self) -> None:
            self._is_in_head, self._has_ended = False, True
            self._stop_head_timer()
            table.begin(self)
            if len(self.headers) > MAX_HEADERS or _size(self.headers, self._at_most) > MAX_HEAD_BYTES:
                self._refuse(*_TOO_LARGE)
            # A stream aborts the connection of a subscriber that does not read; closing would wait for it.
            self._body = CountedBody(body_memory, holder_of(cast("Scope", self.scope)))
            extensions: dict[str, Any] = {ABORT: {"abort": self.transport.abort}, COUNTED_BODY: self._body}
            self.scope["extensions"] = extensions
            super().on_headers_complete()

        @override
        def on_body(self, body: bytes) -> None:
            if self.cycle.response_complete:
                return
            if self._body.add(len(body)):
                super().on_body(body)
            else:
                self.cycle.message_event.set()

        @override
        def on_message_complete(self) -> None:
            self.scope["extensions"][IS_WHOLE] = {}
            super().on_message_complete()

        @override
        def on_response_complete(self) -> None:
            super().on_response_complete()
            if not self.cycle.response_complete:
                return
            table.rest(self)
            # Unread parts of the body are not counted after the answer, so they must not stay in memory.
            self.cycle.body.clear()
            # Answered before its body was there: the next byte ends uvicorn's limit for connections at rest.
            if self.cycle.more_body and self._timer is None and not self.transport.is_closing():
                self._start_head_timer()

        @override
        def send_400_response(self, msg: str) -> None:
            code, detail = self._refusal or ("malformed_request", "this is not a valid HTTP/1.1 request")
            self._answer(code, detail)

        def _start_head_timer(self) -> None:
            self._timer = self.loop.call_later(header_timeout_s, self._head_timed_out)

        def _stop_head_timer(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

        def _head_timed_out(self) -> None:
            if not self.transport.is_closing():
                self._answer("request_timeout", f"the head of the request did not arrive within {header_timeout_s:g} s")

        def _refuse(self, code: str, detail: str) -> None:
            # The parser stops at an exception, and uvicorn then calls send_400_response.
            self._refusal = (code, detail)
            raise ValueError(detail)

        def _answer(self, code: str, detail: str) -> None:
            status, title = PROBLEMS[code]
            body = problem_body(code, detail)
            retry = f"retry-after: {RETRY_AFTER_S}\r\n" if status == 503 else ""
            head = (
                f"HTTP/1.1 {status} {title}\r\n{retry}content-type: {MEDIA_TYPE}\r\n"
                f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
            )
            self.transport.write(head.encode() + body)
            self.transport.close()

    return BoundedProtocol
