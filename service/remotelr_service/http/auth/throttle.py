"""Rate limits by token buckets."""

import math
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)

MAX_BUCKETS = 10_000


class TokenBucket(Generic[K]):
    """A bucket for each key. rate_per_s: the refill rate. burst: the capacity. clock: gives seconds.

    Above MAX_BUCKETS the least recently used bucket is dropped.
    """

    def __init__(self, rate_per_s: float, burst: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate_per_s = rate_per_s
        self._burst = burst
        self._clock = clock
        self._buckets: OrderedDict[K, tuple[float, float]] = OrderedDict()

    def take(self, key: K) -> float:
        """Take a token from the bucket. Returns: 0, or the seconds until the next token if the bucket is empty."""
        now = self._clock()
        left = self._left(key, now)
        wait_s = 0.0 if left >= 1 else (1 - left) / self._rate_per_s
        self._buckets[key] = (left - 1 if left >= 1 else left, now)
        self._buckets.move_to_end(key)
        if len(self._buckets) > MAX_BUCKETS:
            self._buckets.popitem(last=False)
        return wait_s

    def is_empty(self, key: K) -> bool:
        """Whether the bucket is empty."""
        return self._left(key, self._clock()) < 1

    def _left(self, key: K, now: float) -> float:
        found = self._buckets.get(key)
        if found is None:
            return self._burst
        left, since = found
        return min(self._burst, left + (now - since) * self._rate_per_s)


def retry_after(wait_s: float) -> dict[str, str]:
    """The header Retry-After, in whole seconds."""
    return {"Retry-After": str(max(1, math.ceil(wait_s)))}
