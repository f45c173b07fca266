"""The load generator: a process of its own that reports over kept connections and checks every answer.

One request is under way on each connection at a time, as trainers do it: the next epoch is reported when the
answer to the last has come. It uses as little HTTP as possible, so that its own work is not measured.

    python -m benchmarks.load --port 8000 --connections 64 --seconds 5 --run bench-{} --epoch 0
"""

import argparse
import asyncio
import json
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import cast

import uvloop
from typing_extensions import override

HEAD = (
    b"POST /v1/runs/%b/reports HTTP/1.1\r\nhost: localhost\r\naccept: application/json\r\n"
    b"content-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
)
BODY = (
    b'{"epoch":%d,"metrics":{"loss":%.6f,"accuracy":0.91015625,"val_loss":%.6f,"val_accuracy":0.890625},'
    b'"attempt":1,"last_seq":%d}'
)
# A run's first two events are its creation and its attempt, so the decision before epoch n has this number.
SEQ_OF_EPOCH_0 = 2
# The share of the time that is the warm-up.
WARM_UP = 0.1


@dataclass(frozen=True, slots=True)
class Measured:
    """What came of it. Times are in seconds, of every answer after the first tenth of the time."""

    answers: int
    seconds: float
    p50_s: float
    p99_s: float

    @property
    def per_second(self) -> float:
        return self.answers / self.seconds


def request_of(run: bytes, epoch: int) -> bytes:
    """The report of one epoch: a loss that falls, and rises again for some epochs, so that rates do move."""
    loss = 2.0 / (1 + epoch // 7) + 0.01 * (epoch % 7)
    body = BODY % (epoch, loss, loss * 1.05, epoch + SEQ_OF_EPOCH_0)
    return HEAD % (run, len(body), body)


class Trainer(asyncio.Protocol):
    """One connection that reports epoch after epoch of one run.

    answered: called with the seconds from each request to its answer. adds: what the epoch of an answer is beyond
    that of the report (1 of the service, 0 of an echo).
    """

    def __init__(self, run: bytes, epoch: int, adds: int, answered: Callable[[float], None]) -> None:
        self.failure: str | None = None
        self._run, self._epoch, self._adds, self._answered = run, epoch, adds, answered
        self._buffer = b""
        self._sent_at = 0.0

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._send()

    @override
    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, separator, body = self._buffer.partition(b"\r\n\r\n")
        if not separator:
            return
        begin = head.index(b"content-length: ") + 16
        end = head.find(b"\r\n", begin)
        if len(body) < int(head[begin:] if end < 0 else head[begin:end]):
            return
        self._answered(time.perf_counter() - self._sent_at)
        if head[9:12] != b"200" or b'"epoch":%d,' % (self._epoch + self._adds) not in body:
            self.failure = f"epoch {self._epoch}: {self._buffer.decode(errors='replace')}"
            self._transport.close()
            return
        self._buffer = b""
        self._epoch += 1
        self._send()

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self.failure = self.failure or f"the connection closed ({exc})"

    def _send(self) -> None:
        self._sent_at = time.perf_counter()
        self._transport.write(request_of(self._run, self._epoch))


async def load(port: int, *, connections: int, seconds: float, run: str, epoch: int, adds: int) -> Measured:
    """Report over so many connections for so many seconds, one run each (`{}` in `run` is its number).

    Raises RuntimeError with the answer when one is not as it should be.
    """
    loop = asyncio.get_running_loop()
    times: list[float] = []
    trainers = []
    for number in range(connections):
        made = Trainer(run.format(number).encode(), epoch, adds, times.append)
        transport, trainer = await loop.create_connection(lambda made=made: made, "127.0.0.1", port)  # type: ignore[misc]
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        trainers.append(trainer)
    await asyncio.sleep(seconds * WARM_UP)
    times.clear()
    began = time.perf_counter()
    await asyncio.sleep(seconds)
    took, counted = time.perf_counter() - began, sorted(times)
    failures = [trainer.failure for trainer in trainers if trainer.failure]
    if failures or not counted:
        raise RuntimeError(failures[0] if failures else "there was no answer at all")
    return Measured(len(counted), took, counted[len(counted) // 2], counted[len(counted) * 99 // 100])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--run", default="bench-{}")
    parser.add_argument("--epoch", type=int, default=0)
    parser.add_argument("--adds", type=int, default=1)
    given = vars(parser.parse_args())
    try:
        measured = uvloop.run(load(given.pop("port"), **given))
    except RuntimeError as error:
        sys.exit(str(error))
    print(json.dumps(asdict(measured)))


if __name__ == "__main__":
    main()
