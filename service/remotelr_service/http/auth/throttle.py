"""How often somebody may ask: a bucket of tokens for each, that fills again with time."""

import math
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)

MAX_BUCKETS = 10_000


class TokenBucket(Generic[K]):
    """rate_per_s: how many each may have in the long run. burst: how many at once. clock: gives seconds.

    The least recently seen are forgotten first, when there are more than MAX_BUCKETS.
    """

    def __init__(self, rate_per_s: float, burst: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate_per_s = rate_per_s
        self._burst = burst
        self._clock = clock
        self._buckets: OrderedDict[K, tuple[float, float]] = OrderedDict()

    def take(self, key: K) -> float:
        """Take one: 0 when it was there, else the seconds until there is one again, and none is taken."""
        now = self._clock()
        left = self._left(key, now)
        wait_s = 0.0 if left >= 1 else (1 - left) / self._rate_per_s
        self._buckets[key] = (left - 1 if left >= 1 else left, now)
        self._buckets.move_to_end(key)
        if len(self._buckets) > MAX_BUCKETS:
            self._buckets.popitem(last=False)
        return wait_s

    def is_empty(self, key: K) -> bool:
        """Whether there is none to take."""
        return self._left(key, self._clock()) < 1

    def _left(self, key: K, now: float) -> float:
        found = self._buckets.get(key)
        if found is None:
            return self._burst
        left, since = found
        return min(self._burst, left + (now - since) * self._rate_per_s)


def retry_after(wait_s: float) -> dict[str, str]:
    """The header that says when to ask again, in whole seconds."""
    return {"Retry-After": str(max(1, math.ceil(wait_s)))}
