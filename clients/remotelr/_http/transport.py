"""The only module that imports httpx, or httpx2: sends one request and returns its response by a strict deadline.

httpx limits each operation on a socket, not the call: a body of one byte per 0.3 s took 11.8 s with `timeout=0.5`,
and a DNS lookup has no limit at all. Each call therefore runs in a thread of its own. At the deadline the caller
returns, the connection is shut down, and so the thread ends.
"""

import contextlib
import os
import socket
import ssl
import threading
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

try:
    import httpx
except ImportError:
    # The successor of httpx, with the same interface.
    import httpx2 as httpx  # type: ignore[no-redef]

from remotelr._http.requests import Request
from remotelr._http.responses import Response
from remotelr.errors import warn

# Far above the largest page that the service sends.
MAX_RESPONSE_BYTES = 1024 * 1024

# An idle connection is used again for this long. uvicorn closes it after 5 s, and a router that has dropped it would
# cost the next epoch its whole budget.
KEEP_ALIVE_S = 4.0

# A connection that takes longer fails as a rule; the rest of the budget is for another try.
MAX_CONNECT_S = 2.0

# How OpenSSL names an answer in plain HTTP, by release.
_NOT_TLS = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG", "HTTP_REQUEST")

# How long the caller waits for a thread whose connection it has shut down.
_JOIN_TIMEOUT_S = 0.2


class NoAnswer(Exception):
    """A request without a complete response. reused: its connection had been used before."""

    def __init__(self, reason: str, *, reused: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.reused = reused


class Transport(Protocol):
    """Sends requests to the service at `url`."""

    url: str

    def send(self, request: Request, timeout_s: float) -> Response:
        """The complete response to `request`, within `timeout_s`. Raises NoAnswer."""

    def close(self) -> None:
        """Close every connection. A later `send` opens a new one."""


class HttpTransport:
    """Sends over HTTP/1.1.
    url: the service's address; may have a path. headers: sent with every request.
    verify: a file or folder of certificates to trust, an `ssl.SSLContext`, or False to trust any server.
    proxy, trust_env: as in httpx (trust_env reads `HTTPS_PROXY`, `SSL_CERT_FILE`…).
    handler: an httpx transport that replaces the network, for tests.
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
        plain = verify is True and proxy is None and self.url.startswith("http://")
        verify = _trusting_no_server() if plain else _verification(verify)
        self._settings: dict[str, Any] = {
            "headers": headers,
            "proxy": proxy,
            "verify": verify,
            "trust_env": trust_env,
            "handler": handler,
        }

        def connect() -> httpx.Client:
            return httpx.Client(
                # identity: a short compressed body could expand to any size.
                headers={"accept": "application/json", "accept-encoding": "identity", **(headers or {})},
                follow_redirects=False,
                limits=httpx.Limits(max_keepalive_connections=1, keepalive_expiry=KEEP_ALIVE_S),
                proxy=proxy,
                verify=verify,
                trust_env=trust_env,
                transport=handler,
            )

        self._connections = _ConnectionHolder(connect)
        # A `fit` that raises does not call on_train_end: the connection closes with the last reference.
        self._finalizer = weakref.finalize(self, self._connections.close)

    def send(self, request: Request, timeout_s: float) -> Response:
        try:
            connection = self._connections.current()
            call = _Call(connection, self.url, request, timeout_s)
            answer = call.run()
        except Exception as error:
            # For example no thread left, or no certificates: the training must go on.
            raise NoAnswer(_description(error)) from error
        if call.abandoned:
            self._connections.drop(connection)
        if isinstance(answer, NoAnswer):
            raise answer
        return answer

    def close(self) -> None:
        self._connections.close()

    def clone(self) -> "HttpTransport":
        """A transport to the same service with connections of its own."""
        return HttpTransport(self.url, **self._settings)

    def abort(self) -> None:
        """Abort the call in progress, from another thread; that call raises NoAnswer."""
        self._connections.abort()


class _Connection:
    """An httpx client and the socket that it opened last."""

    def __init__(self, client: httpx.Client) -> None:
        self.client = client
        self.socket: socket.socket | None = None

    def abort(self) -> None:
        if self.socket is not None:
            # Unlike close, shutdown wakes a thread that reads from the socket.
            with contextlib.suppress(OSError):
                self.socket.shutdown(socket.SHUT_RDWR)


class _ConnectionHolder:
    """The current connection, made at its first use: building its TLS context takes 20 ms and more."""

    def __init__(self, connect: Callable[[], httpx.Client]) -> None:
        self._connect = connect
        self._begin()

    def _begin(self) -> None:
        self._owner = os.getpid()
        self._lock = threading.Lock()
        self._connection: _Connection | None = None

    def current(self) -> _Connection:
        if self._owner != os.getpid():
            # After a fork: parent and child would read each other's responses, and a thread that was not forked may
            # hold the lock.
            self._begin()
        with self._lock:
            if self._connection is None:
                self._connection = _Connection(self._connect())
            return self._connection

    def abort(self) -> None:
        # Without the lock: the garbage collector may call this in a thread that holds it.
        connection = self._connection
        if connection is not None:
            connection.abort()

    def drop(self, connection: _Connection) -> None:
        """Forget `connection`; the thread that still uses it closes it."""
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
        # A daemon: a DNS lookup cannot be aborted and must not delay the exit.
        thread = threading.Thread(target=self._work, name="remotelr-call", daemon=True)
        thread.start()
        thread.join(self._timeout_s)
        with self._lock:
            if self._answer is not None:
                return self._answer
            self.abandoned = True
            self._connection.abort()
        thread.join(_JOIN_TIMEOUT_S)
        return self._timed_out()

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
            return self._timed_out()
        except Exception as error:  # noqa: BLE001 - a thread has no caller to raise to
            broken = isinstance(error, httpx.NetworkError | httpx.RemoteProtocolError)
            return NoAnswer(_description(error), reused=broken and not self._connected)

    def _timed_out(self) -> NoAnswer:
        return NoAnswer(f"no complete response within {self._timeout_s:.1f} s")

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
            # Raw: a compressed response is not from the service and is not expanded.
            for chunk in response.iter_raw():
                body += chunk
                if len(body) > MAX_RESPONSE_BYTES:
                    raise _TooLong(f"the response is longer than {MAX_RESPONSE_BYTES} bytes")
            return Response(status=response.status_code, headers=dict(response.headers), body=bytes(body))

    def _trace(self, event: str, info: dict[str, Any]) -> None:
        """Called by httpx at each stage of the call: registers a new socket for `abort`."""
        if not event.endswith(("connect_tcp.complete", "start_tls.complete")):
            return
        self._connected = True
        with self._lock:
            self._connection.socket = info["return_value"].get_extra_info("socket")
            if self.abandoned:
                self._connection.abort()


class _TooLong(Exception):
    pass


def _verification(verify: Any) -> Any:
    if verify is False:
        warn(
            "verify=False trusts any server and sends it the token. Give the service's certificates as "
            "verify='ca.pem' instead."
        )
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return context
    if not isinstance(verify, str | os.PathLike):
        return verify
    path = Path(verify)
    if not path.exists():
        raise ValueError(f"verify={str(path)!r}: there is no such file or folder of certificates")
    return ssl.create_default_context(cafile=None if path.is_dir() else path, capath=path if path.is_dir() else None)


def _trusting_no_server() -> ssl.SSLContext:
    """A context without certificates, for plain http: reading the default certificates takes 30 ms."""
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def _description(error: Exception) -> str:
    """The error for the user: some errors of httpx have no text."""
    if isinstance(error, _TooLong):
        return str(error)
    if isinstance(error, httpx.LocalProtocolError):
        # Its text contains the header, which may be the token.
        return "a header that cannot be sent"
    text = str(error)
    if any(reason in text for reason in _NOT_TLS):
        return f"the server does not speak https there, but probably http: give the address with http:// ({text})"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
