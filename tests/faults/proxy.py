"""A TCP proxy that misbehaves on purpose, between a trainer and the service or the service and its database.

    with Proxy(("127.0.0.1", 5432), HeavyTail()) as proxy:
        connect to proxy.address
        proxy.turn(plain)           # from the next connection on; those that are open are reset

A behaviour is a coroutine function of one `Link`, the connection of one client: it connects to the server or
does not, passes bytes on or does not. What it leaves open is closed after it.
"""

import asyncio
import socket
import ssl
import struct
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from random import Random
from typing import Any

CHUNK = 64 * 1024
# The errors of a broken connection; to a behaviour they are the end of the link.
BROKEN = (OSError, asyncio.IncompleteReadError)


class Link:
    """One client's connection, and, once asked for, the proxy's own to the server.

    happened: how often something was done, by its name; shared by all links of a proxy.
    """

    def __init__(
        self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter, target: tuple[str, int], happened: Counter
    ) -> None:
        self.client = client
        self.to_client = to_client
        self.happened = happened
        self._target = target
        self._to_server: asyncio.StreamWriter | None = None

    async def server(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, self._to_server = await asyncio.open_connection(*self._target)
        _without_delay(self._to_server)
        return reader, self._to_server

    def reset(self) -> None:
        """End both connections at once, with RST where the kernel lets us."""
        for writer in (self.to_client, self._to_server):
            if writer is not None:
                _reset(writer)

    async def close(self) -> None:
        for writer in (self.to_client, self._to_server):
            if writer is not None:
                writer.close()
                with suppress(*BROKEN):
                    await writer.wait_closed()


Behaviour = Callable[[Link], Coroutine[Any, Any, None]]
Passing = Callable[[bytes], Awaitable[bytes]]


class Proxy(AbstractContextManager["Proxy"]):
    """Listens on a free port of this machine from construction to `close`, in a thread of its own.

    tls: what it speaks TLS by to its clients, never to the server.
    """

    def __init__(
        self, target: tuple[str, int], behaviour: Behaviour | None = None, *, tls: ssl.SSLContext | None = None
    ) -> None:
        self.happened: Counter[str] = Counter()
        self._target = target
        self._tls = tls
        self._behaviour = behaviour or plain
        self._links: dict[asyncio.Task[None], Link] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="chaos-proxy", daemon=True)
        self._thread.start()
        self.address: tuple[str, int] = ("127.0.0.1", 0)
        self.open()

    @property
    def url(self) -> str:
        return f"{'http' if self._tls is None else 'https'}://{self.address[0]}:{self.address[1]}"

    def open(self) -> None:
        """Listen, again on the same port after `shut`."""
        self._server = self._run(asyncio.start_server(self._serve, *self.address, backlog=512, ssl=self._tls))
        self.address = self._server.sockets[0].getsockname()

    def shut(self) -> None:
        """Listen no more: connections are refused until `open`."""
        self._run(self._stop())

    def turn(self, behaviour: Behaviour) -> None:
        """Behave like this from now on. Open connections are reset: they belong to the old behaviour."""
        self._behaviour = behaviour
        self.cut()

    def cut(self) -> None:
        """Reset every open connection."""
        self._run(self._cut())

    def close(self) -> None:
        self._run(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout=30)

    async def _serve(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        _without_delay(to_client)
        link = self._links[task] = Link(client, to_client, self._target, self.happened)
        try:
            await self._behaviour(link)
        except BROKEN:
            link.reset()
        except asyncio.CancelledError:
            # asyncio's server would log a cancelled connection as an error; to us it is the end of the proxy.
            link.reset()
        finally:
            with suppress(asyncio.CancelledError):
                await link.close()
            del self._links[task]

    async def _cut(self) -> None:
        tasks = list(self._links)
        for link in self._links.values():
            link.reset()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _stop(self) -> None:
        self._server.close()
        await self._cut()
        await self._server.wait_closed()


# Between two peers that go on talking -------------------------------------------------------------------------


async def plain(link: Link) -> None:
    """Pass everything on."""
    await passing(link, _as_it_is)


async def passing(link: Link, to_server: Passing, to_client: Passing | None = None) -> None:
    """Pass everything on through these two, chunk by chunk, until either side is done."""
    reader, writer = await link.server()
    await _both(_pump(link.client, writer, to_server), _pump(reader, link.to_client, to_client or _as_it_is))


@dataclass(frozen=True)
class Slow:
    """Every chunk from the client comes later by `delay_s`, give or take `spread_s`."""

    delay_s: float
    spread_s: float = 0.0
    chance: Random = field(default_factory=Random)

    async def __call__(self, link: Link) -> None:
        async def later(chunk: bytes) -> bytes:
            await asyncio.sleep(max(0.0, self.delay_s + self.chance.uniform(-self.spread_s, self.spread_s)))
            return chunk

        await passing(link, later)


@dataclass(frozen=True)
class HeavyTail:
    """Nearly every chunk from the client is passed on at once; one in `1 / p` waits for `delay_s`.

    An even delay hides races: they appear only when one of two requests is far ahead of the other.
    """

    p: float = 0.03
    delay_s: float = 2.0
    chance: Random = field(default_factory=Random)

    async def __call__(self, link: Link) -> None:
        async def seldom_late(chunk: bytes) -> bytes:
            if self.chance.random() < self.p:
                link.happened["delayed"] += 1
                await asyncio.sleep(self.delay_s)
            return chunk

        await passing(link, seldom_late)


@dataclass(frozen=True)
class CutCommit:
    """PostgreSQL: some COMMITs lose their connection, so the writer does not know whether they were carried out.

    forward: the server gets the COMMIT and only its reply is lost; else the COMMIT is lost itself.
    """

    p: float = 0.05
    forward: bool = True
    chance: Random = field(default_factory=Random)

    async def __call__(self, link: Link) -> None:
        cut = asyncio.Event()

        async def watched(chunk: bytes) -> bytes:
            # It ends with a zero; BEGIN … READ COMMITTED goes on.
            if b"COMMIT\x00" not in chunk or self.chance.random() >= self.p:
                return chunk
            link.happened["commit cut"] += 1
            cut.set()
            if self.forward:
                return chunk
            raise ConnectionResetError

        async def dropped(chunk: bytes) -> bytes:
            if cut.is_set():
                # The server has answered, so it has committed: now the connection may go.
                raise ConnectionResetError
            return chunk

        await passing(link, watched, dropped)


@dataclass(frozen=True)
class Freeze:
    """The client stops at these bytes: neither they nor later ones are passed on.

    Nor is anything it says on another connection: a frozen process does not try again.
    """

    words: bytes

    async def __call__(self, link: Link) -> None:
        async def kept_back(chunk: bytes) -> bytes:
            if link.happened["frozen"] or self.words in chunk:
                link.happened["frozen"] += 1
                await asyncio.Event().wait()
            return chunk

        await passing(link, kept_back)


@dataclass(frozen=True)
class Throttle:
    """The answer comes at `bytes_per_s`."""

    bytes_per_s: float

    async def __call__(self, link: Link) -> None:
        reader, writer = await link.server()
        await _both(
            _pump(link.client, writer, _as_it_is), _trickle(reader, link.to_client, piece=64, rate=self.bytes_per_s)
        )


# To a client of HTTP, one request or one answer at a time ------------------------------------------------------


async def reset_on_connect(link: Link) -> None:
    link.reset()


async def blackhole(link: Link) -> None:
    """Take whatever comes, and never answer."""
    while await link.client.read(CHUNK):
        link.happened["swallowed"] += 1
    await asyncio.Event().wait()


async def reset_after_request(link: Link) -> None:
    """The service gets the whole request and carries it out; its answer never arrives."""
    await _ask(link)
    link.happened["answer lost"] += 1
    link.reset()


async def close_before_response(link: Link) -> None:
    """As `reset_after_request`, politely: FIN instead of RST."""
    await _ask(link)
    link.happened["answer lost"] += 1


async def reset_before_service(link: Link) -> None:
    """The whole request arrives here and goes no further."""
    await _request(link.client)
    link.happened["request lost"] += 1
    link.reset()


async def reset_mid_response(link: Link) -> None:
    answer = await _ask(link)
    await _say(link, answer[: len(answer) // 2])
    link.reset()


async def truncate(link: Link) -> None:
    """The answer ends ten bytes too soon, with a polite FIN."""
    answer = await _ask(link)
    await _say(link, answer[:-10])


async def half_close(link: Link) -> None:
    """Close our direction after the request, and keep the other open for ever."""
    await _ask(link)
    link.to_client.write_eof()
    await asyncio.Event().wait()


@dataclass(frozen=True)
class Drip:
    """The answer comes one byte at a time: no single read is late, and there is no end of it."""

    pause_s: float = 0.3

    async def __call__(self, link: Link) -> None:
        for byte in await _ask(link):
            await _say(link, bytes([byte]))
            await asyncio.sleep(self.pause_s)


@dataclass(frozen=True)
class Answer:
    """Answer every request by itself, and never ask the service."""

    status: int = 200
    body: bytes = b""
    content_type: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()

    async def __call__(self, link: Link) -> None:
        while await _request(link.client):
            link.happened["answered"] += 1
            await _say(link, self._bytes())

    def _bytes(self) -> bytes:
        lines = [f"HTTP/1.1 {self.status} Whatever", f"content-type: {self.content_type}"]
        lines += [f"content-length: {len(self.body)}", *(f"{name}: {value}" for name, value in self.headers)]
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + self.body


captive_portal = Answer(200, b"<html><body>Accept our terms to go on</body></html>", "text/html")
internal_error = Answer(500, b"Internal Server Error", "text/plain")
come_back_much_later = Answer(503, b"", headers=(("retry-after", "3600"),))
too_many = Answer(429, b"", headers=(("retry-after", "3600"),))
garbage = Answer(200, b'{"learning_rate": ')


async def not_http(link: Link) -> None:
    await _request(link.client)
    await _say(link, b"\x16\x03\x01 this is not HTTP\r\n\r\n")


@dataclass(frozen=True)
class Sometimes:
    """`behaviour` for one connection in `1 / p`, and plain for the others."""

    behaviour: Behaviour
    p: float
    chance: Random = field(default_factory=Random)

    async def __call__(self, link: Link) -> None:
        await (self.behaviour if self.chance.random() < self.p else plain)(link)


# ---------------------------------------------------------------------------------------------------------------


async def _as_it_is(chunk: bytes) -> bytes:
    return chunk


async def _both(*directions: Coroutine[Any, Any, None]) -> None:
    """Both directions to their end; what breaks one ends the other."""
    try:
        async with asyncio.TaskGroup() as group:
            for direction in directions:
                group.create_task(direction)
    except* BROKEN:
        raise ConnectionResetError from None


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, through: Passing) -> None:
    """Everything from one side to the other, then the end of it."""
    while chunk := await reader.read(CHUNK):
        writer.write(await through(chunk))
        await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()


async def _trickle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, piece: int, rate: float) -> None:
    while chunk := await reader.read(piece):
        await asyncio.sleep(len(chunk) / rate)
        writer.write(chunk)
        await writer.drain()


async def _ask(link: Link) -> bytes:
    """The service's whole answer to the client's whole request: to cut earlier would test nothing."""
    request = await _request(link.client)
    if not request:
        raise ConnectionResetError
    reader, writer = await link.server()
    writer.write(request)
    await writer.drain()
    return await _request(reader)


async def _request(reader: asyncio.StreamReader) -> bytes:
    """One whole message of HTTP, head and body; nothing when the peer has closed."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return b""
    fields = dict(line.lower().split(b":", 1) for line in head.split(b"\r\n")[1:] if b":" in line)
    return head + await reader.readexactly(int(fields.get(b"content-length", b"0")))


async def _say(link: Link, words: bytes) -> None:
    link.to_client.write(words)
    await link.to_client.drain()


def _reset(writer: asyncio.StreamWriter) -> None:
    plug = writer.get_extra_info("socket")
    # Below TLS there is none once the connection has ended.
    with suppress(OSError, AttributeError):
        plug.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def _without_delay(writer: asyncio.StreamWriter) -> None:
    writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
