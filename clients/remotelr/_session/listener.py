"""Receives a run's commands while an epoch runs: a daemon thread that long-polls over a connection of its own."""

import threading
from collections import deque
from contextlib import suppress

from remotelr._http import requests, responses
from remotelr._http.responses import LoggedCommand, Unreadable
from remotelr._http.transport import HttpTransport, NoAnswer, Transport
from remotelr.errors import ServiceRefused

# How long one request waits for a command; load balancers cut idle connections after about 30 s.
WAIT_S = 20.0

# Time for the response itself, in addition to WAIT_S.
_RESPONSE_S = 5.0

# Pauses after a failed request: the first one, doubled up to the longest one.
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 30.0

_JOIN_TIMEOUT_S = 1.0


def listener_beside(transport: Transport, key: str) -> "Listener | None":
    """A listener for the run `key`; None beside a transport other than HttpTransport, which cannot wait."""
    return Listener(transport.clone(), key) if isinstance(transport, HttpTransport) else None


class Listener:
    """Receives the commands of the run `key`. `listen_from` starts it; `close` or `abandon` ends it."""

    def __init__(self, transport: HttpTransport, key: str) -> None:
        self._transport = transport
        self._key = key
        self._after = 0
        self._commands: deque[LoggedCommand] = deque()
        self._closed = threading.Event()
        self._abandoned = False
        self._thread: threading.Thread | None = None

    def listen_from(self, seq: int) -> None:
        """Receive the commands after event `seq`; the decision with that number contains the earlier ones."""
        self._after = seq
        if self._thread is None and not self._closed.is_set():
            thread = threading.Thread(target=self._run, name="remotelr-live", daemon=True)
            # If the system has no thread left, the next epoch tries again.
            with suppress(RuntimeError):
                thread.start()
                self._thread = thread

    def take(self) -> list[LoggedCommand]:
        """The commands received since the last call, oldest first. Does not block."""
        commands: list[LoggedCommand] = []
        while self._commands:
            commands.append(self._commands.popleft())
        return commands

    def close(self) -> None:
        """End the thread and close its connection."""
        self._closed.set()
        thread, waited_s = self._thread, 0.0
        while thread is not None and thread.is_alive() and waited_s < _JOIN_TIMEOUT_S:
            # Repeated: a call that is still connecting has no socket to shut down yet.
            self._transport.abort()
            thread.join(0.05)
            waited_s += 0.05
        self._transport.close()

    def abandon(self) -> None:
        """Let the thread end by itself: usually at once, at the latest after `_LONGEST_PAUSE_S`.
        For the garbage collector, which runs in any thread, this one included: it may neither wait nor take a lock.
        """
        self._abandoned = True
        self._transport.abort()

    def _run(self) -> None:
        self._poll()
        self._transport.close()

    def _poll(self) -> None:
        pause_s = _FIRST_PAUSE_S
        while not (self._abandoned or self._closed.is_set()):
            try:
                commands = self._request()
            except ServiceRefused:
                # The service has no such endpoint, or has lost the run and gets it again with the next report.
                self._pause(_LONGEST_PAUSE_S)
                continue
            except (NoAnswer, Unreadable):
                self._pause(pause_s)
                pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)
                continue
            pause_s = _FIRST_PAUSE_S
            for command in commands:
                self._after = max(self._after, command.seq)
                self._commands.append(command)

    def _pause(self, seconds: float) -> None:
        if not self._abandoned:
            self._closed.wait(seconds)

    def _request(self) -> list[LoggedCommand]:
        request = requests.get_commands(self._key, after=self._after, wait_s=WAIT_S)
        read = responses.of_run(self._key, responses.read_commands)
        return read(responses.read(self._transport.send(request, WAIT_S + _RESPONSE_S)))
