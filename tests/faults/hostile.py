"""Hostile network peers between a trainer and its service: behaviours of a `Proxy`, and a port."""

import asyncio
import gzip
import json
import socket
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from faults.proxy import Answer, Link, _ask, _request, _say, plain

CHUNK = b" " * 65536


@dataclass(frozen=True)
class Forged:
    """The service's answers, with these members in the place of its own, wherever they stand."""

    members: Mapping[str, Any]

    async def __call__(self, link: Link) -> None:
        head, _, body = (await _ask(link)).partition(b"\r\n\r\n")
        forged = json.dumps(self._forged(json.loads(body))).encode()
        lines = [line for line in head.split(b"\r\n") if not line.lower().startswith(b"content-length:")]
        link.happened["forged"] += 1
        await _say(link, b"\r\n".join([*lines, b"content-length: %d" % len(forged)]) + b"\r\n\r\n" + forged)

    def _forged(self, document: Any) -> Any:
        if isinstance(document, list):
            return [self._forged(each) for each in document]
        if isinstance(document, dict):
            return {name: self.members.get(name, self._forged(value)) for name, value in document.items()}
        return document


@dataclass(frozen=True)
class Flapping:
    """Available for `period_s`, unavailable for as long, and so on; open connections are closed at the change."""

    period_s: float

    async def __call__(self, link: Link) -> None:
        periods = asyncio.get_running_loop().time() / self.period_s
        if int(periods) % 2:
            link.happened["down"] += 1
            link.reset()
            return
        try:
            await asyncio.wait_for(plain(link), (int(periods) + 1 - periods) * self.period_s)
        except TimeoutError:
            link.reset()


async def hundred_megabytes(link: Link) -> None:
    """An answer that would fill the memory of a client that reads all of it."""
    while await _request(link.client):
        await _say(link, b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 104857600\r\n\r\n")
        for sent in range(0, 104857600, len(CHUNK)):
            link.happened["most sent"] = max(sent, link.happened["most sent"])
            await _say(link, CHUNK)


gzip_bomb = Answer(200, gzip.compress(bytes(50_000_000)), headers=(("content-encoding", "gzip"),))

unauthorized = Answer(
    401,
    b'{"type": "about:blank", "status": 401, "code": "unauthorized", "detail": "this token was revoked"}',
    "application/problem+json",
)


def moved_to(url: str) -> Answer:
    """A redirect to another host, which must not get the token."""
    return Answer(301, headers=(("location", f"{url}/v1/runs"),))


@contextmanager
def swallows_connections(address: tuple[str, int]) -> Iterator[None]:
    """The port neither accepts nor refuses: its backlog is full, so the kernel drops each SYN."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(0)
        for _ in range(4):
            visitor = stack.enter_context(socket.socket())
            visitor.setblocking(False)
            visitor.connect_ex(address)
        yield
