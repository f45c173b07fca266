"""Circuit breaker: when a service that is away is called again. Pure: the clock is an argument."""

from dataclasses import dataclass, replace
from math import inf

# Failures in a row after which the service counts as away.
FAILURES = 3

# The share of the training's time that calls may take while the service is away.
_SHARE = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Breaker:
    """The breaker of one session.

        closed ──FAILURES in a row──▶ open ──an answer──▶ closed, as `Breaker()` is
                                       └── one short call at a time, and a pause in proportion to it

    failures: in a row. rests_until_s: no call before this time of the caller's clock.
    """

    failures: int = 0
    rests_until_s: float = -inf

    @property
    def is_open(self) -> bool:
        """The service counts as away: only short calls are made."""
        return self.failures >= FAILURES

    def allows(self, now_s: float) -> bool:
        return not self.is_open or now_s >= self.rests_until_s

    def failed(self, began_s: float, now_s: float) -> "Breaker":
        """The breaker after a call from `began_s` to `now_s` without an answer.
        A refused connection takes a millisecond, and is tried at every epoch. A connection whose packets are dropped
        takes the whole budget, which may be longer than an epoch.
        """
        took_s = now_s - began_s
        rest_s = took_s * (1 / _SHARE - 1) if self.is_open else 0.0
        return Breaker(failures=self.failures + 1, rests_until_s=now_s + rest_s)

    def rested(self) -> "Breaker":
        """The same breaker at the end of its pause."""
        return replace(self, rests_until_s=-inf)
