"""The service as a training asks it: no longer than its budget, and hardly at all while it is away."""

import time
from collections.abc import Callable
from typing import TypeVar

from remotelr._session.breaker import Breaker
from remotelr._session.budget import Budget
from remotelr._session.delivery import Delivery
from remotelr._session.journal import Journal
from remotelr._session.messages import Notifier
from remotelr.errors import RanksMissing, ServiceRefused, ServiceUnreachable, StaleAttempt

T = TypeVar("T")


class CallPolicy:
    """Asks through `link`, as far as that is worth the time of a training.

    journal: what is told; a try that was heard in part was no failure.
    budget: of the calls at one boundary between epochs; the link's own too.
    raises: nobody goes on without the service: ServiceUnreachable is raised.
    goes_on: how training goes on without an answer, in a sentence.
    people: are warned, once of each cause, and once whenever the service goes away.

    away: it did not answer when it was asked last. lost: a newer attempt has taken over; nobody is asked any more.
    """

    def __init__(
        self,
        link: Delivery,
        *,
        journal: Journal,
        budget: Budget,
        raises: bool,
        goes_on: Callable[[], str],
        people: Notifier,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.away = False
        self.lost = False
        self._link = link
        self._journal = journal
        self._budget = budget
        self._breaker = Breaker()
        self._raises = raises
        self._goes_on = goes_on
        self._people = people
        self._clock = clock

    def renew_budget(self) -> None:
        """Let the calls from now on take all of it again: once per boundary between epochs."""
        self._budget.renew(short=self._breaker.is_open)

    def ask(self, call: Callable[[], T], *, refusals: bool = False) -> T | None:
        """What `call` gives; None where it failed, or was not worth a try. refusals: those are raised."""
        if self.lost:
            return None
        began_s, unheard = self._clock(), len(self._journal.unheard)
        if not self._breaker.allows(began_s):
            return None
        with self._budget:
            try:
                if self._breaker.is_open and not self._link.is_there():
                    self._breaker = self._breaker.failed(began_s, self._clock())
                    return None
                answer = call()
            except StaleAttempt as error:
                self.lost = True
                self._people.say(error.detail)
                return None
            except ServiceRefused as error:
                self._breaker = Breaker()
                if refusals:
                    raise
                self._people.warn_once(error.code, f"{error}. {self._goes_on()}")
                return None
            except RanksMissing as error:
                self._breaker = Breaker()
                self._people.warn_once("ranks", f"{error}. {self._goes_on()}")
                return None
            except ServiceUnreachable as error:
                # Who has heard a part of it is not away: the rest is told with the epochs that follow.
                heard = len(self._journal.unheard) < unheard
                self._breaker = Breaker() if heard else self._breaker.failed(began_s, self._clock())
                self._miss(error)
                return None
        self._breaker = Breaker()
        return answer

    def ask_at_last(self, call: Callable[[], T]) -> T | None:
        """As `ask`, with all of the budget: there is no later to ask in, and nobody trains who could be held up."""
        self._breaker = self._breaker.rested()
        self.renew_budget()
        return self.ask(call)

    def _miss(self, error: ServiceUnreachable) -> None:
        if self._raises:
            raise error
        if not self.away:
            self.away = True
            self._people.warn(f"{error}. {self._goes_on()}")
