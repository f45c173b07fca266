"""What can go wrong between a trainer and the service: two failures, told apart by what to do next.

RemoteLRError
├── ServiceUnreachable    no usable answer in time: go on with the last rate, ask again later
│   └── RanksMissing      the report is kept, but other ranks have not reported yet
└── ServiceRefused        the request was understood and refused: asking again cannot help
    └── StaleAttempt      a newer attempt has taken over: this process must stop
"""

from collections.abc import Mapping
from typing import Any


class RemoteLRError(Exception):
    """The base of everything the client raises on account of the service."""


class ServiceUnreachable(RemoteLRError):
    """No usable answer came in time.

    url: where the service was sought. attempts: how often it was asked. reason: what went wrong last.
    """

    def __init__(self, url: str, attempts: int, reason: str, waited_s: float) -> None:
        times = "once" if attempts == 1 else f"{attempts} times"
        super().__init__(f"no usable answer from {url} (asked {times} in {waited_s:.1f} s): {reason}")
        self.url = url
        self.attempts = attempts
        self.reason = reason


class RanksMissing(ServiceUnreachable):
    """The report is stored, and the epoch is decided when the other ranks have reported.

    have: ranks heard so far. need: ranks that decide.
    """

    def __init__(self, url: str, attempts: int, waited_s: float, have: int, need: int) -> None:
        super().__init__(url, attempts, f"{have} of {need} ranks have reported this epoch", waited_s)
        self.have = have
        self.need = need


class ServiceRefused(RemoteLRError):
    """The service understood the request and refused it.

    code: stable, for programs (`policy_conflict`, `report_conflict`…). status: of HTTP.
    detail: the service's sentence for people. members: what else it said of this problem.
    """

    def __init__(self, code: str, detail: str, status: int, members: Mapping[str, Any]) -> None:
        super().__init__(f"{detail} ({code})")
        self.code = code
        self.detail = detail
        self.status = status
        self.members = members


class StaleAttempt(ServiceRefused):
    """A newer attempt of the run has taken over: this process must stop training."""


class RemoteLRWarning(UserWarning):
    """Training goes on, but not as it would with the service. Given once per cause, not once per epoch."""
