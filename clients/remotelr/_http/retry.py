"""When to ask again, and after how long. Pure: the clock and the dice are arguments."""

from dataclasses import dataclass, replace

# Statuses after which the same request may succeed: a timeout, too early, too many, and trouble of the service.
RETRIED_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})

# A request that could only be begun with less than this left is not worth its connection.
SHORTEST_TRY_S = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """How a call spaces its tries.

    base_s: bound of the first pause; it doubles with every failure. cap_s: bound of every pause.
    """

    base_s: float = 0.1
    cap_s: float = 2.0

    def pause_s(self, failures: int, dice: float) -> float:
        """A pause after `failures` (1, 2…), anywhere between 0 and its bound: full jitter.

        dice: uniform in [0, 1). Spreads over the whole bound, so that many trainers that lost the
        service at one instant do not come back at one instant.
        """
        return dice * float(min(self.cap_s, self.base_s * 2 ** min(failures - 1, 30)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """One try that gave no usable answer.

    reused: it went over a connection that had been used before, which the other side may have closed
    meanwhile. retry_after_s: what the service asked for, if it did.
    """

    reason: str
    reused: bool = False
    retry_after_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Retries:
    """Where one call stands. `after` gives its next standing, with the pause to make, or none to give up."""

    backoff: Backoff = Backoff()
    failures: int = 0
    fresh_used: bool = False
    pause_s: float | None = None

    def after(self, failure: Failure, *, remaining_s: float, dice: float) -> "Retries":
        """The standing after one more failure, with `remaining_s` of the call's one budget left."""
        failures = self.failures + 1
        if failure.reused and not self.fresh_used:
            # A connection at rest is closed by the other side without a word: nothing is wrong yet.
            return replace(self, failures=failures, fresh_used=True, pause_s=0.0)
        pause_s = self.backoff.pause_s(failures, dice)
        if failure.retry_after_s is not None:
            # Jitter on top: everybody who was told "1 second" would come back in the same one.
            pause_s += failure.retry_after_s
        worth_it = pause_s + SHORTEST_TRY_S <= remaining_s
        return replace(self, failures=failures, pause_s=pause_s if worth_it else None)


def retry_after_s(header: str | None) -> float | None:
    """The seconds of a `Retry-After` header; None where there is none, or a date (clocks differ)."""
    if header is None or not header.strip().isascii() or not header.strip().isdigit():
        return None
    return float(header)
