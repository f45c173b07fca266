"""The memory for request bodies: one bound for the process, and a share for each caller.

The server counts each part of a body as it arrives. It drops the parts beyond a bound, and the route answers 503.
"""

import random
from typing import Final

from remotelr_service.http.problems import Refusal
from remotelr_service.live.shares import Bound, Shares, quarter

MAX_BODY_BYTES = 1024 * 1024

# An ASGI extension of this service's server: the CountedBody of the request.
COUNTED_BODY: Final = "remotelr.counted_body"

# Seconds until a retry. Different delays spread the retries.
_RETRY_AFTER_S = "456789"


def body_memory(limit_mib: int) -> Shares:
    """The bytes that all bodies may take. One holder may have a quarter."""
    limit = limit_mib * 1024 * 1024
    # A single body that is too large must be answered 413, also if it arrives faster than it is read.
    return Shares(limit, quarter(limit, 2 * MAX_BODY_BYTES))


class CountedBody:
    """The bytes of one request's body, from their arrival to the end of the request.

    memory: the bytes of all bodies. holder: the caller, in words, whose share they count to.
    """

    __slots__ = ("_bytes", "_holder", "_is_released", "_memory", "_refusal")

    def __init__(self, memory: Shares, holder: str) -> None:
        self._memory = memory
        self._holder = holder
        self._bytes = 0
        self._refusal = ""
        self._is_released = False

    def add(self, count: int) -> bool:
        """Count a part of `count` bytes. False if the caller must drop it: it exceeds a bound, or came too late."""
        if self._refusal or self._is_released:
            return False
        exceeded = self._memory.take(self._holder, count)
        if exceeded:
            self._refuse(exceeded, self._holder)
            return False
        self._bytes += count
        return True

    def move(self, holder: str) -> None:
        """Count the bytes to the share of `holder` from now on."""
        self._memory.release(self._holder, self._bytes)
        exceeded = self._memory.take(holder, self._bytes)
        if exceeded:
            # They stay in memory until the request is answered.
            self._memory.take(self._holder, self._bytes)
            self._refuse(exceeded, holder)
        else:
            self._holder = holder

    def check(self) -> None:
        """Raises Refusal if the body exceeds a bound."""
        if self._refusal:
            raise Refusal("overloaded", self._refusal, headers={"Retry-After": random.choice(_RETRY_AFTER_S)})

    def _refuse(self, exceeded: Bound, holder: str) -> None:
        if exceeded == "share":
            taken = f"the request bodies of {holder} take {_mib(self._memory.share)}, its share"
        else:
            taken = f"all request bodies take {_mib(self._memory.limit)}, the limit of this service"
        self._refusal = f"{taken}; retry later"

    def release(self) -> None:
        """The body is in memory no more. Parts that still arrive are dropped."""
        if not self._is_released:
            self._is_released = True
            self._memory.release(self._holder, self._bytes)


def _mib(count: int) -> str:
    return f"{count / 1024 / 1024:g} MiB"
