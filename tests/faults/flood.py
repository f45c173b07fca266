"""Requests at a rate of our choice, as far as there are connections to send them: a flood does not wait its turn.

    python -m faults.flood --port 8000 --connections 600 --rate 9000 --seconds 3 --runs flood-{} --pid 4711

Each connection reports one run, epoch after epoch, and has one request under way at most. One that is turned away
sends the same again after `Retry-After`, as our client does. `--rate 0` is the closed loop: every connection
sends the next report as soon as it is answered.
"""

import argparse
import asyncio
import json
import time
from collections import Counter, deque
from dataclasses import asdict, dataclass
from typing import cast

import psutil
import uvloop

TICK_S = 0.002


@dataclass(frozen=True, slots=True)
class Flooded:
    """accepted and turned_away: answers 200 and 503, the latter always with Retry-After. unsent: when it was
    their turn, no connection was free. other: anything else. cpu_s: what the service used of its processor."""

    seconds: float
    accepted: int
    turned_away: int
    other: int
    unsent: int
    p99_s: float
    cpu_s: float


class Connection(asyncio.Protocol):
    def __init__(self, run: str, flood: "Flood") -> None:
        self._run, self._flood = run, flood
        self._epoch = 0
        self._buffer = b""
        self._sent_at = 0.0
        self._is_under_way = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._flood.free.append(self)

    def send(self) -> None:
        self._is_under_way = True
        body = f'{{"epoch":{self._epoch},"metrics":{{"loss":1.0}}}}'
        self._sent_at = time.perf_counter()
        self._transport.write(
            f"POST /v1/runs/{self._run}/reports HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\n\r\n{body}".encode()
        )

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, separator, body = self._buffer.partition(b"\r\n\r\n")
        if not separator or len(body) < int(head.split(b"content-length: ", 1)[1].split(b"\r\n", 1)[0]):
            return
        self._buffer, self._is_under_way = b"", False
        status = head[9:12].decode()
        self._epoch += status == "200"
        pause_s = int(head.split(b"retry-after: ", 1)[1].split(b"\r\n", 1)[0]) if status == "503" else 0
        self._flood.answered(self, status, time.perf_counter() - self._sent_at, pause_s)

    def connection_lost(self, exc: Exception | None) -> None:
        # One at rest may be closed: the service does so after some seconds.
        self._flood.seen["lost"] += self._is_under_way


class Flood:
    def __init__(self, rate: float) -> None:
        self.free: deque[Connection] = deque()
        self.seen: Counter[str] = Counter()
        self.waited: list[float] = []
        self._rate = rate

    def answered(self, connection: Connection, status: str, seconds: float, pause_s: int) -> None:
        self.seen[status] += 1
        if status == "200":
            self.waited.append(seconds)
        again = self.free.append if self._rate else Connection.send
        if pause_s:
            asyncio.get_running_loop().call_later(pause_s, again, connection)
        else:
            again(connection)

    async def pour(self, seconds: float) -> None:
        began = time.perf_counter()
        due = 0.0
        if not self._rate:
            while self.free:
                self.free.popleft().send()
        while (gone := time.perf_counter() - began) < seconds:
            wanted = int(gone * self._rate - due)
            due += wanted
            for _ in range(min(wanted, len(self.free))):
                wanted -= 1
                self.free.popleft().send()
            self.seen["unsent"] += wanted
            await asyncio.sleep(TICK_S)


async def flood(*, port: int, connections: int, rate: float, seconds: float, runs: str, pid: int) -> Flooded:
    """Warm up for a fifth of the time, then count."""
    loop, made = asyncio.get_running_loop(), Flood(rate)
    for number in range(connections):
        one = Connection(runs.format(number), made)
        await loop.create_connection(lambda one=one: one, "127.0.0.1", port)  # type: ignore[misc]
    pouring = asyncio.create_task(made.pour(seconds * 1.2))
    await asyncio.sleep(seconds / 5)
    made.seen.clear()
    made.waited.clear()
    began, used = time.perf_counter(), psutil.Process(pid).cpu_times()
    await pouring
    used_after = psutil.Process(pid).cpu_times()
    took, seen, waited = time.perf_counter() - began, made.seen, sorted(made.waited) or [0.0]
    other = seen.total() - seen["200"] - seen["503"] - seen["unsent"]
    cpu_s = sum(used_after[:2]) - sum(used[:2])
    return Flooded(took, seen["200"], seen["503"], other, seen["unsent"], waited[len(waited) * 99 // 100], cpu_s)


def main() -> None:
    parser = argparse.ArgumentParser()
    for name, kind in {
        "port": int,
        "connections": int,
        "rate": float,
        "seconds": float,
        "runs": str,
        "pid": int,
    }.items():
        parser.add_argument(f"--{name}", type=kind, required=True)
    print(json.dumps(asdict(uvloop.run(flood(**vars(parser.parse_args()))))))


if __name__ == "__main__":
    main()
