"""Bounded amounts that many callers hold, such as open streams: one bound for all, and a share for each."""

from typing import Literal

Bound = Literal["limit", "share"]


class Shares:
    """What each holder has of a bounded amount. Not thread-safe.

    limit: the maximum of all holders together. share: the maximum of one holder. total: the amount held.
    """

    def __init__(self, limit: int, share: int) -> None:
        self.limit = limit
        self.share = share
        self.total = 0
        self._held: dict[str, int] = {}

    def take(self, holder: str, amount: int = 1) -> Bound | None:
        """Add `amount` to what `holder` has. Returns the bound that it would exceed: then nothing is added."""
        held = self._held.get(holder, 0) + amount
        if held > self.share:
            return "share"
        if self.total + amount > self.limit:
            return "limit"
        self._held[holder] = held
        self.total += amount
        return None

    def release(self, holder: str, amount: int = 1) -> None:
        """Subtract `amount`, which `holder` has taken."""
        held = self._held.pop(holder, 0) - amount
        # A holder without anything must not stay in memory.
        if held > 0:
            self._held[holder] = held
        self.total -= amount


def quarter(limit: int, at_least: int) -> int:
    """A quarter of `limit`, but `at_least` so much; never all of it, unless it is 1."""
    return max(1, min(limit - 1, max(limit // 4, at_least)))
