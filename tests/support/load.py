"""Many concurrent requests, each on its own connection. httpx's pool takes 30 s for a thousand of them."""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

# The backlog of a listening socket is shorter than a thousand.
CONNECTING = 50


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: dict[str, Any]


class Asker:
    """One connection. A request that is answered 503 is sent again."""

    def __init__(self, url: str) -> None:
        address = urlsplit(url)
        self._host, self._port = address.hostname or "", address.port or 80

    async def connect(self, places: asyncio.Semaphore) -> None:
        async with places:
            self._reader, self._writer = await asyncio.open_connection(self._host, self._port)

    def close(self) -> None:
        self._writer.close()

    async def post(self, path: str, document: dict[str, Any]) -> Answer:
        while True:
            answer = await self._post_once(path, json.dumps(document).encode())
            if answer.status != 503:
                return answer
            await asyncio.sleep(0.2)

    async def _post_once(self, path: str, body: bytes) -> Answer:
        head = f"POST {path} HTTP/1.1\r\nHost: {self._host}\r\nContent-Type: application/json\r\n"
        self._writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        status, *headers = (await self._reader.readuntil(b"\r\n\r\n")).decode().lower().split("\r\n")
        (length,) = [int(header.removeprefix("content-length:")) for header in headers if "content-length" in header]
        return Answer(int(status.split()[1]), json.loads(await self._reader.readexactly(length)))


def post_at_once(urls: Sequence[str], path: str, documents: Sequence[dict[str, Any]]) -> list[Answer]:
    """The answers to all documents, posted at once to `path`, each to the next of these services."""

    async def all_of_them() -> list[Answer]:
        places = asyncio.Semaphore(CONNECTING)
        askers = [Asker(urls[number % len(urls)]) for number in range(len(documents))]
        await asyncio.gather(*(asker.connect(places) for asker in askers))
        try:
            asked = zip(askers, documents, strict=True)
            return list(await asyncio.gather(*(asker.post(path, document) for asker, document in asked)))
        finally:
            for asker in askers:
                asker.close()

    return asyncio.run(all_of_them())
