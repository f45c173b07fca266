"""Sends the requests of `Client` and `Run`, with retries, within one time budget per call."""

import random
import time
from collections.abc import Callable
from typing import TypeVar

from remotelr._http import responses
from remotelr._http.requests import Json, Request
from remotelr._http.responses import Response, Unreadable
from remotelr._http.retry import RETRIED_STATUSES, SHORTEST_TRY_S, Failure, Retries, retry_after_s
from remotelr._http.transport import NoAnswer, Transport
from remotelr.errors import ServiceRefused, ServiceUnreachable

T = TypeVar("T")

# A private generator: the jitter must not consume the random numbers of a seeded training.
_RNG = random.SystemRandom()


class Service:
    """The service behind `transport`. timeout_s: the default budget of a call, > 0."""

    def __init__(self, transport: Transport, timeout_s: float) -> None:
        self.transport = transport
        self.timeout_s = timeout_s

    def call(self, request: Request, read: Callable[[Json], T], timeout_s: float | None = None) -> T:
        """The service's answer, within `timeout_s` over all tries. Raises ServiceRefused and ServiceUnreachable."""
        budget_s = self.timeout_s if timeout_s is None else timeout_s
        began = time.monotonic()
        retries = Retries()
        while True:
            answer = self._try(request, read, began + budget_s - time.monotonic())
            if not isinstance(answer, Failure):
                return answer
            waited_s = time.monotonic() - began
            retries = retries.after(answer, remaining_s=budget_s - waited_s, jitter=_RNG.random())
            if retries.pause_s is None:
                raise ServiceUnreachable(self.transport.url, retries.failures, answer.reason, waited_s)
            time.sleep(retries.pause_s)

    def answers(self, request: Request, timeout_s: float) -> bool:
        """Whether a single try gets an answer, a refusal included."""
        try:
            return not isinstance(self._try(request, dict, timeout_s), Failure)
        except ServiceRefused:
            return True

    def _try(self, request: Request, read: Callable[[Json], T], timeout_s: float) -> T | Failure:
        try:
            response = self.transport.send(request, max(timeout_s, SHORTEST_TRY_S))
            if response.status in RETRIED_STATUSES:
                pause_s = retry_after_s(response.headers.get("retry-after"))
                return Failure(reason=responses.failure_reason(response), retry_after_s=pause_s)
            return read(self._document(response))
        except NoAnswer as error:
            return Failure(reason=error.reason, reused=error.reused)
        except Unreadable as error:
            return Failure(reason=str(error))

    def _document(self, response: Response) -> Json:
        try:
            return responses.read(response)
        except ServiceRefused as error:
            hint = self._hint(error)
            if hint is None:
                raise
            raise ServiceRefused(error.code, f"{error.detail}; {hint}", error.status, error.members) from None

    def _hint(self, error: ServiceRefused) -> str | None:
        """The user's remedy for a refusal that the service states in terms of HTTP."""
        url = self.transport.url.rstrip("/")
        if error.code == "not_found" and url.endswith("/v1"):
            return f"leave /v1 away: the address of the service is {url.removesuffix('/v1')}"
        if error.status == 401:
            return "give the token as token= or set REMOTELR_TOKEN"
        return None
