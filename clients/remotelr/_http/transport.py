"""The only module that touches httpx, or httpx2: one request out, one whole answer back, by a deadline that holds.

httpx bounds each operation on a socket, never the call: a body that drips one byte per 0.3 s took
11.8 s with `timeout=0.5`, and a name that does not resolve is not bounded at all. So the call runs in
a thread of its own. At the deadline the caller goes on, the connection is shut down under the
thread, and the thread ends.
"""

import contextlib
import os
import socket
import ssl
import threading
import warnings
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

try:
    import httpx
except ImportError:
    # Its continuation under another name, with the same interface: an environment may have that one alone.
    import httpx2 as httpx  # type: ignore[no-redef]

from remotelr._http.requests import Request
from remotelr._http.responses import Response
from remotelr.errors import RemoteLRWarning

# Far above the largest page the service sends; what is longer does not come from it.
MAX_RESPONSE_BYTES = 1024 * 1024

# A connection at rest for longer is not used again: uvicorn closes it after 5 s, and a router that
# forgot it would swallow the next epoch's whole budget.
KEEP_ALIVE_S = 4.0

# Connecting is quick or it fails; what is left of the budget belongs to another try.
MAX_CONNECT_S = 2.0

# How long the caller waits for a thread whose connection it has just shut down.
_JOIN_TIMEOUT_S = 0.2


class NoAnswer(Exception):
    """One request had no whole answer. reused: it went over a connection that had been used before."""

    def __init__(self, reason: str, *, reused: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.reused = reused


class Transport(Protocol):
    """What a client sends with."""

    url: str

    def send(self, request: Request, timeout_s: float) -> Response:
        """The whole answer to `request`, within `timeout_s`. Raises NoAnswer."""

    def close(self) -> None:
        """Let go of every connection. A later `send` opens a new one."""


class HttpTransport:
    """Sends over HTTP/1.1.

    url: the service's address; a path in it is kept. headers: sent with every request.
    verify: a file or folder of certificates to trust, an `ssl.SSLContext`, or False to trust anybody.
    proxy, trust_env: as httpx has them (`HTTPS_PROXY`, `SSL_CERT_FILE`… count while trust_env).
    handler: what carries requests instead of the network (an httpx transport), for tests.
    """

    def __init__(
        self,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        proxy: str | None = None,
        verify: Any = True,
        trust_env: bool = True,
        handler: httpx.BaseTransport | None = None,
    ) -> None:
        self.url = url.rstrip("/")
        verify = _nobody() if verify is True and proxy is None and self.url.startswith("http://") else _trusted(verify)
        self._settings: dict[str, Any] = {
            "headers": headers,
            "proxy": proxy,
            "verify": verify,
            "trust_env": trust_env,
            "handler": handler,
        }

        def connect() -> httpx.Client:
            return httpx.Client(
                # identity: a compressed body could unfold to any size, whatever its length on the wire.
                headers={"accept": "application/json", "accept-encoding": "identity", **(headers or {})},
                follow_redirects=False,
                limits=httpx.Limits(max_keepalive_connections=1, keepalive_expiry=KEEP_ALIVE_S),
                proxy=proxy,
                verify=verify,
                trust_env=trust_env,
                transport=handler,
            )

        self._connections = _ConnectionHolder(connect)
        # A `fit` that raises never tells its callbacks: the last one to drop us closes the connection.
        self._finalizer = weakref.finalize(self, self._connections.close)

    def send(self, request: Request, timeout_s: float) -> Response:
        """The whole answer to `request`, within `timeout_s`. Raises NoAnswer."""
        try:
            connection = self._connections.current()
            call = _Call(connection, self.url, request, timeout_s)
            answer = call.run()
        except Exception as error:
            # No thread to be had, certificates that are not there: nothing that a training shall die of.
            raise NoAnswer(_words(error)) from error
        if call.abandoned:
            self._connections.drop(connection)
        if isinstance(answer, NoAnswer):
            raise answer
        return answer

    def close(self) -> None:
        """Let go of every connection. A later `send` opens a new one."""
        self._connections.close()

    def clone(self) -> "HttpTransport":
        """One to the same service that shares no connection with this one."""
        return HttpTransport(self.url, **self._settings)

    def abort(self) -> None:
        """End the call in flight, from another thread: it raises NoAnswer there."""
        self._connections.abort()


class _Connection:
    """An httpx client, and the newest connection it opened."""

    def __init__(self, client: httpx.Client) -> None:
        self.client = client
        self.socket: socket.socket | None = None

    def abort(self) -> None:
        if self.socket is not None:
            # Shutting down wakes a thread that reads from the socket; closing it would not.
            with contextlib.suppress(OSError):
                self.socket.shutdown(socket.SHUT_RDWR)


class _ConnectionHolder:
    """The connection in use, made when it is first needed: building its TLS context takes 20 ms and more."""

    def __init__(self, connect: Callable[[], httpx.Client]) -> None:
        self._connect = connect
        self._begin()

    def _begin(self) -> None:
        self._owner = os.getpid()
        self._lock = threading.Lock()
        self._connection: _Connection | None = None

    def current(self) -> _Connection:
        if self._owner != os.getpid():
            # Forked: on our parent's connection each of us would read the other's answers, and who knows
            # whether a thread that was not forked with us held the lock.
            self._begin()
        with self._lock:
            if self._connection is None:
                self._connection = _Connection(self._connect())
            return self._connection

    def abort(self) -> None:
        # Without the lock: a collector of garbage may be who hangs up, in a thread that holds it.
        connection = self._connection
        if connection is not None:
            connection.abort()

    def drop(self, connection: _Connection) -> None:
        """Use `connection` no more; the thread that still runs in it closes it."""
        with self._lock:
            if self._connection is connection:
                self._connection = None

    def close(self) -> None:
        with self._lock:
            connection, self._connection = self._connection, None
        if connection is not None:
            connection.client.close()


class _Call:
    """One request in a thread of its own, and the deadline over it."""

    def __init__(self, connection: _Connection, url: str, request: Request, timeout_s: float) -> None:
        self.abandoned = False
        self._connection = connection
        self._url = url
        self._request = request
        self._timeout_s = timeout_s
        self._answer: Response | NoAnswer | None = None
        self._connected = False
        self._lock = threading.Lock()

    def run(self) -> Response | NoAnswer:
        # A daemon, because the look-up of a name cannot be ended from outside and must not hold up the exit.
        thread = threading.Thread(target=self._work, name="remotelr-call", daemon=True)
        thread.start()
        thread.join(self._timeout_s)
        with self._lock:
            if self._answer is not None:
                return self._answer
            self.abandoned = True
            self._connection.abort()
        thread.join(_JOIN_TIMEOUT_S)
        return self._late()

    def _work(self) -> None:
        answer = self._exchange()
        with self._lock:
            self._answer = answer
            abandoned = self.abandoned
        if abandoned:
            self._connection.client.close()

    def _exchange(self) -> Response | NoAnswer:
        try:
            return self._send()
        except (httpx.ReadTimeout, httpx.WriteTimeout):
            return self._late()
        except Exception as error:  # noqa: BLE001 - whatever it is, there is no answer, and a thread has nobody to raise to
            broken = isinstance(error, httpx.NetworkError | httpx.RemoteProtocolError)
            return NoAnswer(_words(error), reused=broken and not self._connected)

    def _late(self) -> NoAnswer:
        return NoAnswer(f"no whole answer within {self._timeout_s:.1f} s")

    def _send(self) -> Response:
        with self._connection.client.stream(
            self._request.method,
            self._url + self._request.path,
            params=self._request.params,
            content=self._request.body,
            headers={} if self._request.body is None else {"content-type": "application/json"},
            timeout=httpx.Timeout(self._timeout_s, connect=min(self._timeout_s, MAX_CONNECT_S)),
            extensions={"trace": self._trace},
        ) as response:
            body = bytearray()
            # Raw: what claims to be compressed is not ours, and is not unpacked.
            for chunk in response.iter_raw():
                body += chunk
                if len(body) > MAX_RESPONSE_BYTES:
                    raise _TooLong(f"the answer is longer than {MAX_RESPONSE_BYTES} bytes")
            return Response(status=response.status_code, headers=dict(response.headers), body=bytes(body))

    def _trace(self, event: str, info: dict[str, Any]) -> None:
        """Called by httpx at each stage of the call: keeps a new connection where the deadline can reach it."""
        if not event.endswith(("connect_tcp.complete", "start_tls.complete")):
            return
        self._connected = True
        with self._lock:
            self._connection.socket = info["return_value"].get_extra_info("socket")
            if self.abandoned:
                self._connection.abort()


class _TooLong(Exception):
    pass


def _trusted(verify: Any) -> Any:
    """Whom to trust, as httpx wants it said."""
    if verify is False:
        warnings.warn(
            "RemoteLR: verify=False trusts whoever answers, and shows them the token. Give the certificates of your "
            "service as verify='ca.pem' instead.",
            RemoteLRWarning,
            stacklevel=4,
        )
        trusting = ssl.create_default_context()
        trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
        return trusting
    if not isinstance(verify, str | os.PathLike):
        return verify
    path = Path(verify)
    if not path.exists():
        raise ValueError(f"verify={str(path)!r}: there is no such file or folder of certificates")
    return ssl.create_default_context(cafile=None if path.is_dir() else path, capath=path if path.is_dir() else None)


def _nobody() -> ssl.SSLContext:
    """What trusts nobody, for where nobody shows a certificate: to read whom to trust takes 30 ms."""
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def _words(error: Exception) -> str:
    """What happened, for people: some errors of httpx say nothing but their name."""
    if isinstance(error, _TooLong):
        return str(error)
    if isinstance(error, httpx.LocalProtocolError):
        # It shows the header it stumbles over, which may be the one nobody shall see.
        return "a header that cannot be sent"
    said = str(error)
    return f"{type(error).__name__}: {said}" if said else type(error).__name__
