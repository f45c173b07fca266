"""The HTTP server: uvicorn, bound before anything else is opened, patient with nobody who sends too slowly,
and quick to end when it is told to."""

import asyncio
import contextlib
import errno
import signal
import socket
from collections.abc import Callable, Generator
from types import FrameType

import uvicorn
from fastapi import FastAPI
from typing_extensions import override
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from remotelr_service.errors import UserError
from remotelr_service.features.streams.sse import ABORT
from remotelr_service.http.problems import MEDIA_TYPE, PROBLEMS, RETRY_AFTER_S, problem_body
from remotelr_service.http.route import IS_WHOLE
from remotelr_service.settings import Settings

MAX_TARGET_BYTES = 8 * 1024
MAX_HEAD_BYTES = 32 * 1024
MAX_HEADERS = 100
# With the line of the request, and what stands between names, values and lines.
_MAX_RAW_HEAD_BYTES = MAX_HEAD_BYTES + MAX_TARGET_BYTES + 4 * (MAX_HEADERS + 10)

# How long connections have to be let go of by those who use them, before the idle ones are closed on them.
ABORT_AFTER_S = 0.25


class CannotListen(UserError):
    """The address cannot be had; the message says which and what to do."""


def listen(host: str, port: int) -> socket.socket:
    """A socket bound to the address, not yet listening. Raises CannotListen."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        bound = socket.socket(family, kind, protocol)
    except OSError as error:
        raise CannotListen(f"{host} is no address to listen on: {error.strerror}") from None
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        bound.close()
        raise CannotListen(_why(error, host, port)) from None
    return bound


def address_of(bound: socket.socket) -> str:
    """`http://host:port` of a bound socket, as somebody on this machine reaches it."""
    host, port = bound.getsockname()[:2]
    reachable = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{reachable}]:{port}" if ":" in reachable else f"http://{reachable}:{port}"


class Server(uvicorn.Server):
    """One process that serves `app` until it is told to end: then whoever waits is answered first.

    ready: called once, when requests are answered.
    """

    def __init__(self, app: FastAPI, settings: Settings, ready: Callable[[], None] = lambda: None) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                loop="uvloop",
                http=_protocol(settings.header_timeout_s, settings.max_connections),
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

    @override
    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)
        if self.started:
            self._ready()

    @override
    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self._drain_s and not self.force_exit:
            self._draining.set()
            await self._serve_on(self._drain_s)
        # Nobody new from here on: whoever is told to let go of a connection is refused the next one, not cut off.
        for server in self.servers:
            server.close()
        # Those who wait for a decision are answered now, /readyz is red, and every answer says `connection: close`.
        self._draining.set()
        await self._let_go()
        await super().shutdown(sockets)

    @override
    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        # uvicorn raises the signal again at its end; a service that ended as it was told has not failed.
        with super().capture_signals():
            yield
            self._captured_signals.clear()

    @override
    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        # Somebody who presses Ctrl-C waits in front of it: no draining then.
        if sig == signal.SIGINT:
            self._drain_s = 0.0
        super().handle_exit(sig, frame)

    def stop(self) -> None:
        """End, from any thread."""
        self.should_exit = True

    async def _serve_on(self, seconds: float) -> None:
        deadline = asyncio.get_running_loop().time() + seconds
        while self._drain_s and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0.1)
            await self.on_tick(0)

    async def _let_go(self) -> None:
        """Let those who talk to us end it. A connection closed on its owner may carry a request already on its way."""
        deadline = asyncio.get_running_loop().time() + ABORT_AFTER_S
        while self.server_state.connections and not self.force_exit:
            if asyncio.get_running_loop().time() >= deadline:
                return
            await asyncio.sleep(0.01)


def _why(error: OSError, host: str, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {port} on {host} is in use: stop what has it, or give another one with --port"
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"port {port} on {host} is not ours to take: give one above 1023 with --port"
    return f"{host}:{port} cannot be listened on: {error.strerror}"


_TOO_LARGE = (
    "headers_too_large",
    f"the head of a request holds up to {MAX_HEADERS} headers of {MAX_HEAD_BYTES} bytes in all",
)


def _size(headers: list[tuple[bytes, bytes]], at_most: int) -> int:
    """Bytes of the headers, which are no more than that; counted only where it could make a difference."""
    return at_most if at_most <= MAX_HEAD_BYTES else sum(len(name) + len(value) for name, value in headers)


def _protocol(header_timeout_s: float, max_connections: int) -> type[asyncio.Protocol]:
    """uvicorn's protocol, with bounds on how many connections there are, and on a head's size and time."""

    class BoundedProtocol(HttpToolsProtocol):
        _timer: asyncio.TimerHandle | None = None
        _refusal: tuple[str, str] | None = None
        _is_in_head = True
        # What is known of the size of a head before all of it is there, by what was received: at least what came in
        # pieces with nothing else in them, and at most all that came since the piece in which it began.
        _at_least = 0
        _at_most = 0
        _has_ended = False

        @override
        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
            super().connection_made(transport)
            if len(self.connections) > max_connections:
                self._answer("overloaded", f"{max_connections} connections are open, and no more are taken")
            else:
                self._await_head()

        @override
        def connection_lost(self, exc: Exception | None) -> None:
            self._head_came()
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
                self._await_head()

        @override
        def on_message_begin(self) -> None:
            super().on_message_begin()
            self._is_in_head = True

        @override
        def on_url(self, url: bytes) -> None:
            super().on_url(url)
            if len(self.url) > MAX_TARGET_BYTES:
                self._refuse("target_too_long", f"addresses hold up to {MAX_TARGET_BYTES} bytes")

        @override
        def on_header(self, name: bytes, value: bytes) -> None:
            if not self._is_in_head:
                # uvicorn would add it to the headers, which were looked at long ago.
                self._refuse("malformed_request", "headers behind a body (trailers) are not taken")
            super().on_header(name, value)

        @override
        def on_headers_complete(self) -> None:
            self._is_in_head, self._has_ended = False, True
            self._head_came()
            if len(self.headers) > MAX_HEADERS or _size(self.headers, self._at_most) > MAX_HEAD_BYTES:
                self._refuse(*_TOO_LARGE)
            # A stream is not to wait for who does not read it: closing would.
            self.scope["extensions"] = {ABORT: {"abort": self.transport.abort}}
            super().on_headers_complete()

        @override
        def on_message_complete(self) -> None:
            self.scope["extensions"][IS_WHOLE] = {}
            super().on_message_complete()

        @override
        def send_400_response(self, msg: str) -> None:
            code, detail = self._refusal or ("malformed_request", "this is not a request of HTTP/1.1")
            self._answer(code, detail)

        def _await_head(self) -> None:
            self._timer = self.loop.call_later(header_timeout_s, self._head_is_late)

        def _head_came(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

        def _head_is_late(self) -> None:
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
