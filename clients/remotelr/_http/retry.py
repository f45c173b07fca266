"""Retries: after which failures, and after which pause. Pure: the clock and the random numbers are arguments."""

from dataclasses import dataclass, replace

# Statuses after which the same request may succeed: a timeout, too early, too many requests, and server errors.
RETRIED_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})

SHORTEST_TRY_S = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """Exponential backoff with full jitter.
    base_s: the longest first pause; doubles with every failure. cap_s: the longest pause of all.
    """

    base_s: float = 0.1
    cap_s: float = 2.0

    def pause_s(self, failures: int, jitter: float) -> float:
        """The pause after `failures` (1, 2…). jitter: uniform in [0, 1), so that trainers do not return together."""
        return jitter * float(min(self.cap_s, self.base_s * 2 ** min(failures - 1, 30)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A try without a usable answer.
    reused: the connection had been used before, and the server may have closed it since.
    retry_after_s: of the response, if it had one.
    """

    reason: str
    reused: bool = False
    retry_after_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Retries:
    """The tries of one call so far. pause_s: before the next try; None if there is none."""

    backoff: Backoff = Backoff()
    failures: int = 0
    fresh_used: bool = False
    pause_s: float | None = None

    def after(self, failure: Failure, *, remaining_s: float, jitter: float) -> "Retries":
        """The tries after one more failure, with `remaining_s` of the call's budget left."""
        failures = self.failures + 1
        if failure.reused and not self.fresh_used:
            # Servers close idle connections: this is not a failure of the service.
            return replace(self, failures=failures, fresh_used=True, pause_s=0.0)
        pause_s = self.backoff.pause_s(failures, jitter)
        if failure.retry_after_s is not None:
            # Jitter in addition: otherwise all trainers would return at the same time.
            pause_s += failure.retry_after_s
        worth_it = pause_s + SHORTEST_TRY_S <= remaining_s
        return replace(self, failures=failures, pause_s=pause_s if worth_it else None)


def retry_after_s(header: str | None) -> float | None:
    """The seconds of a `Retry-After` header; None if it is absent or a date (clocks differ)."""
    if header is None or not header.strip().isascii() or not header.strip().isdigit():
        return None
    return float(header)
