"""Commands as they are given: a daemon thread that waits for them, over a connection of its own."""

import threading
from collections import deque
from contextlib import suppress

from remotelr._http import requests, responses
from remotelr._http.responses import LoggedCommand, Unreadable
from remotelr._http.transport import HttpTransport, NoAnswer, Transport
from remotelr.errors import ServiceRefused

# One request waits so long for news; a balancer may cut off what is silent for longer.
WAIT_S = 20.0

# What the answer itself may take beyond that.
_ANSWER_S = 5.0

# Pauses after a request that failed: the first, and the longest.
_PAUSES_S = (1.0, 30.0)

# How long `close` waits for the thread.
_JOIN_TIMEOUT_S = 1.0


def listen(transport: Transport, key: str) -> "Listener | None":
    """Who hears of the run's commands beside that transport; None beside one of somebody's own, that cannot wait."""
    return Listener(transport.another(), key) if isinstance(transport, HttpTransport) else None


class Listener:
    """Hears of what is ordered to the run `key`. `follow` begins it, `close` or `leave` ends it."""

    def __init__(self, transport: HttpTransport, key: str) -> None:
        self._transport = transport
        self._key = key
        self._after = 0
        self._news: deque[LoggedCommand] = deque()
        self._over = threading.Event()
        self._left = False
        self._thread: threading.Thread | None = None

    def follow(self, seq: int) -> None:
        """Hear of what comes after the event `seq`; what came before is in the decision it took."""
        self._after = seq
        if self._thread is None and not self._over.is_set():
            thread = threading.Thread(target=self._listen, name="remotelr-live", daemon=True)
            # Where no thread is to be had, the next epoch tries again.
            with suppress(RuntimeError):
                thread.start()
                self._thread = thread

    def heard(self) -> list[LoggedCommand]:
        """What has been ordered since this was asked last, oldest first. It never waits."""
        orders: list[LoggedCommand] = []
        while self._news:
            orders.append(self._news.popleft())
        return orders

    def close(self) -> None:
        """End the thread and let go of its connection."""
        self._over.set()
        thread, waited = self._thread, 0.0
        while thread is not None and thread.is_alive() and waited < _JOIN_TIMEOUT_S:
            # Again and again: a call that is just connecting has nothing yet to hang up on.
            self._transport.hang_up()
            thread.join(0.05)
            waited += 0.05
        self._transport.close()

    def leave(self) -> None:
        """Let the thread end by itself, within half a minute and as a rule at once.

        For a collector of garbage: it runs in any thread, also in ours, where nothing may be waited for and no lock
        be taken.
        """
        self._left = True
        self._transport.hang_up()

    def _listen(self) -> None:
        self._hear()
        self._transport.close()

    def _hear(self) -> None:
        pause_s = _PAUSES_S[0]
        while not (self._left or self._over.is_set()):
            try:
                orders = self._ask()
            except ServiceRefused:
                # A service without this call, or without the run: it may have lost it, and be told again.
                self._rest(_PAUSES_S[1])
                continue
            except (NoAnswer, Unreadable):
                self._rest(pause_s)
                pause_s = min(pause_s * 2, _PAUSES_S[1])
                continue
            pause_s = _PAUSES_S[0]
            for order in orders:
                self._after = max(self._after, order.seq)
                self._news.append(order)

    def _rest(self, seconds: float) -> None:
        if not self._left:
            self._over.wait(seconds)

    def _ask(self) -> list[LoggedCommand]:
        request = requests.get_commands(self._key, after=self._after, wait_s=WAIT_S)
        return responses.read_commands(responses.read(self._transport.send(request, WAIT_S + _ANSWER_S)))
