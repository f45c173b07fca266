"""The errors between a trainer and the service; each class calls for a different reaction.

RemoteLRError
├── ServiceUnreachable    no usable answer in time: go on with the last rate, retry later
│   └── RanksMissing      the report is stored, but other ranks have not reported yet
├── ServiceRefused        the service rejected the request: a retry cannot help
│   └── StaleAttempt      a newer attempt has taken over: this process must stop
└── RanksDisagree         the ranks of a training do not make the same calls: correct the training script
"""

import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Any


class RemoteLRError(Exception):
    """The base of the errors of this package that end a call."""


class ServiceUnreachable(RemoteLRError):
    """No usable answer came in time.

    url: of the service. attempts: the number of tries. reason: of the last failure.
    """

    def __init__(self, url: str, attempts: int, reason: str, waited_s: float) -> None:
        times = "once" if attempts == 1 else f"{attempts} times"
        super().__init__(f"no usable answer from {url} (tried {times} in {waited_s:.1f} s): {reason}")
        self.url = url
        self.attempts = attempts
        self.reason = reason


class RanksMissing(ServiceUnreachable):
    """The report is stored; the epoch is decided when the other ranks have reported.

    have: ranks that have reported. need: ranks that a decision needs.
    """

    def __init__(self, url: str, attempts: int, waited_s: float, have: int, need: int) -> None:
        super().__init__(url, attempts, f"{have} of {need} ranks have reported this epoch", waited_s)
        self.have = have
        self.need = need


class ServiceRefused(RemoteLRError):
    """The service rejected the request.

    code: stable, for programs (`policy_conflict`, `report_conflict`…). status: the HTTP status.
    detail: a sentence for the user. members: further members of the problem.
    """

    def __init__(self, code: str, detail: str, status: int, members: Mapping[str, Any]) -> None:
        super().__init__(f"{detail} ({code})")
        self.code = code
        self.detail = detail
        self.status = status
        self.members = members


class StaleAttempt(ServiceRefused):
    """A newer attempt of the run has taken over: this process must stop training."""


class RanksDisagree(RemoteLRError):
    """The ranks of a training have not made the same calls in time, or rank 0 has failed."""


class RemoteLRWarning(UserWarning):
    """Training goes on, but not as it would with the service. Issued once per cause, not once per epoch."""


def warn(message: str) -> None:
    """Issue RemoteLRWarning at the line of the user's code: the nearest frame outside of installed packages."""
    # A frame's own object keeps its local variables alive, so only its number leaves this loop.
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001
    level = 2
    while frame is not None and _is_library(frame.f_code.co_filename):
        frame, level = frame.f_back, level + 1
    warnings.warn(f"RemoteLR: {message}", RemoteLRWarning, stacklevel=2 if frame is None else level)


_PACKAGE = str(Path(__file__).parent)


def _is_library(filename: str) -> bool:
    return filename.startswith((_PACKAGE, "<")) or "site-packages" in filename
