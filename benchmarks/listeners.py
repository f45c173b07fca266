"""Many subscribers: a process that opens streams, reads them, and counts the events.

    python -m benchmarks.listeners --port 8000 --count 500 --run bench-{} --runs 64

It prints `ready` when all streams are open, and the number of events when its input ends. It does not parse them:
its own work must not be measured.
"""

import argparse
import asyncio
import sys
from typing import cast

import uvloop
from typing_extensions import override

HEAD = b"GET %b HTTP/1.1\r\nhost: localhost\r\n\r\n"


class Listener(asyncio.Protocol):
    """One stream. begun: set with its first bytes. events: how many came, its `begin` included."""

    def __init__(self, path: str) -> None:
        self._path = path
        self.begun = asyncio.Event()
        self.events = 0

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports say they are none.
        cast(asyncio.Transport, transport).write(HEAD % self._path.encode())

    @override
    def data_received(self, data: bytes) -> None:
        self.begun.set()
        self.events += data.count(b"\nevent: ")


async def listen(port: int, paths: list[str]) -> None:
    loop = asyncio.get_running_loop()
    listeners = [Listener(path) for path in paths]
    for each in listeners:
        await loop.create_connection(lambda each=each: each, "127.0.0.1", port)  # type: ignore[misc]
    await asyncio.gather(*(each.begun.wait() for each in listeners))
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    print(sum(each.events for each in listeners) - len(listeners), flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--run", required=True)
    parser.add_argument("--runs", type=int, required=True)
    parser.add_argument("--all", type=int, default=0, help="how many of them follow all runs")
    given = parser.parse_args()
    paths = ["/v1/stream"] * given.all
    paths += [f"/v1/runs/{given.run.format(n % given.runs)}/stream" for n in range(given.count - given.all)]
    uvloop.run(listen(given.port, paths))
    return 0


if __name__ == "__main__":
    sys.exit(main())
