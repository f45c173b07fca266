"""A server that behaves as a test says, on a real port: for what no service of ours would do."""

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from remotelr import Client

Behaviour = Callable[[socket.socket], None]


class Misbehaving:
    """Runs `behaviours[i]` on the i-th connection, the last one on all further ones; they get the request read."""

    def __init__(self, *behaviours: Behaviour) -> None:
        self.connections = 0
        self._behaviours = behaviours
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._over = threading.Event()
        self._open: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._open.append(connection)
            behaviour = self._behaviours[min(self.connections, len(self._behaviours) - 1)]
            self.connections += 1
            thread = threading.Thread(target=self._serve, args=(connection, behaviour))
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket, behaviour: Behaviour) -> None:
        with connection, contextlib.suppress(OSError):
            behaviour(connection)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self._open:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(5)


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client without a `timeout_s` of its own waits as long as a busy machine takes."""
    monkeypatch.setitem(Client.__init__.__kwdefaults__, "timeout_s", 60.0)


@pytest.fixture
def misbehaving() -> Iterator[Callable[..., Misbehaving]]:
    servers: list[Misbehaving] = []

    def start(*behaviours: Behaviour) -> Misbehaving:
        servers.append(Misbehaving(*behaviours))
        return servers[-1]

    yield start
    for server in servers:
        server.close()
