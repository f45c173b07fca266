"""The service as a session calls it: within a time budget, and rarely while the service is away."""

import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from remotelr._http.responses import RunView
from remotelr._session.breaker import Breaker
from remotelr._session.budget import Budget
from remotelr._session.delivery import Delivery
from remotelr._session.journal import Journal
from remotelr._session.messages import Notifier
from remotelr.errors import RanksMissing, ServiceRefused, ServiceUnreachable, StaleAttempt
from remotelr.rules import Decision, RunSpec

T = TypeVar("T")


class CallPolicy:
    """Calls the service through `delivery`. A call without a result returns None; each cause is warned of once.
    journal: its pending entries show whether a failed call was answered in part.
    budget: of all calls between two epochs, shared with `delivery`.
    raises: raise ServiceUnreachable instead of going on without the service.
    fallback: a sentence that says how training goes on without an answer.
    away: the last call had no answer. lost: a newer attempt has taken over; there are no further calls.
    """

    def __init__(
        self,
        delivery: Delivery,
        *,
        journal: Journal,
        budget: Budget,
        raises: bool,
        fallback: Callable[[], str],
        notifier: Notifier,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.url = delivery.url
        self.away = False
        self.lost = False
        self._delivery = delivery
        self._journal = journal
        self._budget = budget
        self._breaker = Breaker()
        self._raises = raises
        self._fallback = fallback
        self._notifier = notifier
        self._clock = clock

    @property
    def view(self) -> RunView | None:
        """The run as the service last described it; None before it did."""
        run = self._delivery.run
        return None if run is None else run.view

    @property
    def previous_spec(self) -> RunSpec | None:
        """The run before this session replaced its policy (`on_conflict`), where the service had one."""
        return self._delivery.previous_spec

    def renew_budget(self) -> None:
        """Grant the next calls the whole budget; once between two epochs."""
        self._budget.renew(short=self._breaker.is_open)

    def open(self, members: Mapping[str, Any]) -> None:
        """Create or find the run. members: in addition to those of the delivery. Raises ServiceRefused."""
        self._delivery.add_members(members)
        self._call(self._delivery.find, refusals=True)

    def deliver(self) -> Decision | None:
        """Send the pending entries; returns the newest decision."""
        return self._call(self._delivery.deliver)

    def deliver_last(self) -> None:
        """Send the pending entries with the whole budget, even to a service that is away: there is no later call."""
        self._breaker = self._breaker.rested()
        self.renew_budget()
        self.deliver()

    def refresh(self) -> bool:
        """Read the run again into `view`; returns False if there was no answer."""
        return self._call(self._delivery.refresh) is not None

    def close(self) -> None:
        self._delivery.close()

    def _call(self, call: Callable[[], T], *, refusals: bool = False) -> T | None:
        if self.lost:
            return None
        began_s, pending = self._clock(), len(self._journal.pending)
        if not self._breaker.allows(began_s):
            return None
        with self._budget:
            try:
                if self._breaker.is_open and not self._delivery.is_answering():
                    self._breaker = self._breaker.failed(began_s, self._clock())
                    return None
                answer = call()
            except StaleAttempt as error:
                self.lost = True
                self._notifier.say(error.detail)
                return None
            except ServiceRefused as error:
                self._breaker = Breaker()
                if refusals:
                    raise
                self._notifier.warn_once(error.code, f"{error}. {self._fallback()}")
                return None
            except RanksMissing as error:
                self._breaker = Breaker()
                self._notifier.warn_once("ranks", f"{error}. {self._fallback()}")
                return None
            except ServiceUnreachable as error:
                # A service that acknowledged a part is not away: the rest follows with the next epochs.
                in_part = len(self._journal.pending) < pending
                self._breaker = Breaker() if in_part else self._breaker.failed(began_s, self._clock())
                self._unreachable(error)
                return None
        self._breaker = Breaker()
        return answer

    def _unreachable(self, error: ServiceUnreachable) -> None:
        if self._raises:
            raise error
        if not self.away:
            self.away = True
            self._notifier.warn(f"{error}. {self._fallback()}")


class NoService:
    """Replaces CallPolicy in a session without a service: no call has a result."""

    url = None
    away = lost = False
    view: RunView | None = None
    previous_spec: RunSpec | None = None

    def renew_budget(self) -> None:
        pass

    def open(self, members: Mapping[str, Any]) -> None:
        pass

    def deliver(self) -> Decision | None:
        return None

    def deliver_last(self) -> None:
        pass

    def refresh(self) -> bool:
        return False

    def close(self) -> None:
        pass
