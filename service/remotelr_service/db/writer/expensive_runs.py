"""Runs with an expensive policy get a small share of the writer's time, so that they delay only themselves.

A report takes about 0.05 ms of the writer, and one under the most expensive policy that is accepted some 100 ms. If its
trainer reported without a pause, every other run of the process would wait for it. So after an action of such a run the
next one waits until the action was a small part of the time since. The cost of a policy is known from its document.
"""

import threading
import time
from collections.abc import Callable
from typing import Final

from remotelr.rules import Policy
from remotelr.rules.policy.cost import cost_of

# A policy is expensive from this many evaluated parts on, about 0.5 ms at one position.
EXPENSIVE: Final = 5_000
SHARE: Final = 0.05
_MOST_POLICIES: Final = 4_096


def is_expensive(policy: Policy) -> bool:
    """Whether runs with this policy get the small share."""
    return cost_of(policy.schedule) >= EXPENSIVE


class ExpensiveRuns:
    """Which policies are expensive, and when the next action of a run with one may run."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._next_at = 0.0
        self._charging = threading.Lock()
        # By identity, since comparing policies takes longer than everything else here; the policy keeps its id taken.
        self._known: dict[int, tuple[Policy, bool]] = {}

    def is_expensive(self, policy: Policy) -> bool:
        known = self._known.get(id(policy))
        if known is None or known[0] is not policy:
            if len(self._known) >= _MOST_POLICIES:
                self._known.clear()
            known = self._known[id(policy)] = policy, is_expensive(policy)
        return known[1]

    def may_run(self) -> bool:
        """Whether the share allows an action now."""
        return self._clock() >= self._next_at

    def charge(self, seconds: float) -> None:
        """Count an action of an expensive run that took this long."""
        with self._charging:
            self._next_at = max(self._clock(), self._next_at) + seconds * (1 / SHARE - 1)
