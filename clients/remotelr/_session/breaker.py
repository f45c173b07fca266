"""When a service that is away is asked again. Pure: the clock is an argument."""

from dataclasses import dataclass, replace
from math import inf

# Trouble in a row after which the service counts as away.
FAILURES = 3

# What the tries may take of the time of a training whose service is away.
_SHARE = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Breaker:
    """Where the trainer stands with the service.

        closed ──FAILURES in a row──▶ open ──an answer──▶ closed, as `Breaker()` is
                                       └── one short try at a time, and long pauses for long tries

    failures: in a row. rests_until_s: nobody is asked before, by the clock of the caller.
    """

    failures: int = 0
    rests_until_s: float = -inf

    @property
    def is_open(self) -> bool:
        """The service counts as away: no more than a short try is worth its time."""
        return self.failures >= FAILURES

    def allows(self, now_s: float) -> bool:
        """Whether it may be asked now."""
        return not self.is_open or now_s >= self.rests_until_s

    def failed(self, began_s: float, now_s: float) -> "Breaker":
        """After a try from `began_s` to `now_s` that nobody answered.

        A connection that is refused takes a millisecond, and is tried with every epoch. One that is
        swallowed takes all of its time, and epochs may be shorter than that.
        """
        took_s = now_s - began_s
        rest_s = took_s * (1 / _SHARE - 1) if self.is_open else 0.0
        return Breaker(failures=self.failures + 1, rests_until_s=now_s + rest_s)

    def rested(self) -> "Breaker":
        """As it is, but asking is worth it now."""
        return replace(self, rests_until_s=-inf)
