"""The service as the terminal asks it: JSON there, JSON back, whatever the call.

Every order carries an `Idempotency-Key`, so that asking again counts once. httpx is imported when somebody is asked:
`remotelr --help` and `remotelr serve` begin sooner for it.
"""

import json
import os
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote, urlsplit

from remotelr._http import credentials as _token
from remotelr.errors import ServiceRefused, ServiceUnreachable
from remotelr_service.errors import UserError

if TYPE_CHECKING:
    import httpx

# Where a setting comes from that nobody made.
NOT_SET = "not set"

DEFAULT_URL = "http://127.0.0.1:8000"

# A person waits for it: long enough for a service that is busy, and not so long for one that is not there.
TIMEOUT_S = 30.0
_CONNECT_S = 10.0

# The largest page the service gives.
PAGE = 200

# Statuses after which the same request may succeed, when the service says after how long.
_BUSY = (429, 503)

Json = dict[str, Any]


class NotUnderstood(UserError):
    """The answer lacks what every answer of this release has."""


class _Answer(Json):
    """A JSON object of the service; a member that it lacks is somebody's mistake, and not a programmer's."""

    def __missing__(self, name: str) -> Any:
        raise NotUnderstood(f"the answer has no {name!r}: is this a RemoteLR service, and of this release?")


def address(given: str | None = None) -> tuple[str, str]:
    """The address of the service, and where it was found. Raises Mistake for what is none."""
    named = os.environ.get("REMOTELR_URL")
    url, source = (given, "--url") if given else (named, "REMOTELR_URL") if named else (DEFAULT_URL, "default")
    try:
        found = _token.address(url).rstrip("/")
    except ValueError as error:
        raise UserError(f"{source}: {error}") from None
    if not urlsplit(found).hostname:
        raise UserError(f"{source}: the service's address names a host, as in http://127.0.0.1:8000; {url!r} does not")
    return found, source


def token_source() -> str:
    """Where the token is found, or NOT_SET.

    It is no option: what is typed stands in the list of processes and in the shell's history.
    """
    return next((name for name in ("REMOTELR_TOKEN", "REMOTELR_TOKEN_FILE") if os.environ.get(name)), NOT_SET)


def credentials(url: str) -> dict[str, str]:
    """The header that carries the token, as every client sends it; none where there is no token.

    Raises Mistake for what can be no token, and where others could read it on its way.
    """
    try:
        return _token.bearer(url)
    except ValueError as error:
        raise UserError(str(error)) from None


class NotSent(ServiceUnreachable):
    """There was nobody to send it to: nothing can have come of it."""


class ServiceClient:
    """A service at an address. A context manager: at its end the connection is closed.

    Every call raises ServiceRefused and ServiceUnreachable, and takes at most `timeout_s` seconds
    with its tries.
    """

    def __init__(self, url: str, headers: Mapping[str, str] | None = None, *, timeout_s: float = TIMEOUT_S) -> None:
        import httpx

        self.url = url
        self.timeout_s = timeout_s
        sent = {"accept": "application/json", **(headers or {})}
        # Without TLS there is nothing to verify, and reading all certificates takes longer than the rest of a command.
        with_tls = url.startswith("https://")
        self._http = httpx.Client(headers=sent, timeout=_timeout(timeout_s), verify=with_tls, follow_redirects=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def get(self, path: str, **params: object) -> Json:
        return self.ask("GET", path, params=params)

    def post(self, path: str, body: Mapping[str, Any]) -> Json:
        return self.ask("POST", path, body=body)

    def order(self, path: str, body: Mapping[str, Any], key: str | None) -> Json:
        """What came of an order; asked once more where its answer was lost.

        key: the same key is the same order; random when not given. When the second answer is lost, too,
        ServiceUnreachable names it: nobody knows then whether the order was noted.
        """
        headers = {"idempotency-key": key or uuid.uuid4().hex}
        began = time.monotonic()
        try:
            return self.ask("POST", path, body=body, headers=headers)
        except NotSent:
            raise
        except ServiceUnreachable:
            pass
        try:
            return self.ask("POST", path, body=body, headers=headers)
        except ServiceUnreachable as error:
            said = f"{error.reason}; to say it again so that it counts once, add --key {headers['idempotency-key']}"
            raise self._unreachable(said, 2, began) from None

    def put(self, path: str, body: Mapping[str, Any]) -> Json:
        return self.ask("PUT", path, body=body)

    def delete(self, path: str) -> Json:
        return self.ask("DELETE", path)

    def pages(self, path: str, member: str, *, after: object = None, **params: object) -> Iterator[Json]:
        """The items of a list, fetched page by page as they are asked for."""
        while True:
            page = self.get(path, **{"limit": PAGE, **params, "after": after})
            yield from page[member]
            after = page.get("next")
            if after is None:
                return

    def ask(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, object] | None = None,
        body: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Json:
        """The answer's JSON object; an empty one where there is none to read."""
        began, tries = time.monotonic(), 0
        while True:
            tries += 1
            response = self._send(method, path, began=began, params=_given(params or {}), body=body, headers=headers)
            pause_s = _retry_after_s(response)
            if pause_s is None or time.monotonic() - began + pause_s > self.timeout_s:
                return self._read(response, tries, began)
            time.sleep(pause_s)

    def text(self, method: str, path: str, kind: str, *, body: Mapping[str, Any] | None = None) -> str:
        """An answer that is no JSON but of this media type."""
        began = time.monotonic()
        response = self._send(method, path, began=began, body=body, headers={"accept": kind})
        if not response.headers.get("content-type", "").startswith(kind):
            self._read(response, 1, began)
            raise self._unreachable(f"there is no {kind} to be had: is the service of an older release?", 1, began)
        return response.text

    def answer(self, path: str) -> "httpx.Response":
        """The bare answer to a GET, whatever it is. Raises ServiceUnreachable."""
        return self._send("GET", path, began=time.monotonic())

    @contextmanager
    def stream(self, path: str, **params: object) -> Iterator[Iterator[str]]:
        """The lines of an event stream, as they come. Raises ServiceRefused and ServiceUnreachable.

        Every quarter of a minute at least a line comes, if only to say that the line is open.
        """
        import httpx

        began = time.monotonic()
        accept = {"accept": "text/event-stream"}
        try:
            with self._http.stream(
                "GET", self.url + path, params=_given(params), headers=accept, timeout=_timeout(60.0)
            ) as response:
                if not response.is_success:
                    response.read()
                    self._read(response, 1, began)
                yield response.iter_lines()
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise self._unreachable(_words(error), 1, began) from None

    def _send(
        self,
        method: str,
        path: str,
        *,
        began: float,
        params: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> "httpx.Response":
        import httpx

        try:
            content = None if body is None else json.dumps(body, allow_nan=False)
        except ValueError:
            raise UserError("nan and inf are no numbers that can be ordered") from None
        typed = {} if body is None else {"content-type": "application/json"}
        try:
            return self._http.request(
                method, self.url + path, params=params, content=content, headers={**typed, **(headers or {})}
            )
        except httpx.ConnectError as error:
            raise NotSent(self.url, 1, _words(error), time.monotonic() - began) from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise self._unreachable(_words(error), 1, began) from None

    def _read(self, response: "httpx.Response", tries: int, began: float) -> Json:
        if response.status_code == 204:
            return {}
        document = _document(response)
        if document is None:
            kind = response.headers.get("content-type", "no content type")
            said = f"HTTP {response.status_code} ({kind}), where JSON was expected: is this a RemoteLR service?"
            raise self._unreachable(said, tries, began)
        if response.is_success:
            return document
        detail = str(document.get("detail") or document.get("title") or f"HTTP {response.status_code}")
        if response.status_code in _BUSY:
            raise self._unreachable(detail, tries, began)
        raise ServiceRefused(str(document.get("code", "unknown")), detail, response.status_code, document)

    def _unreachable(self, reason: str, tries: int, began: float) -> ServiceUnreachable:
        return ServiceUnreachable(self.url, tries, reason, time.monotonic() - began)


def _timeout(seconds: float) -> "httpx.Timeout":
    import httpx

    return httpx.Timeout(seconds, connect=min(seconds, _CONNECT_S))


def connect(url: str | None, *, timeout_s: float = TIMEOUT_S) -> ServiceClient:
    """The service that the option or the environment names. Raises Mistake."""
    found, _ = address(url)
    return ServiceClient(found, credentials(found), timeout_s=timeout_s)


def run_path(run: str, *more: str) -> str:
    """Raises Mistake for what would be the path of something else; the service says what else is no key."""
    if run in ("", ".", ".."):
        raise UserError(f"{run!r} is no run's key")
    return "/".join(["/v1/runs", quote(run, safe=""), *more])


def _given(params: Mapping[str, object]) -> dict[str, str]:
    words = {True: "true", False: "false"}
    return {
        name: words[value] if isinstance(value, bool) else str(value)
        for name, value in params.items()
        if value is not None
    }


def _retry_after_s(response: "httpx.Response") -> float | None:
    """The pause to make before the same request is worth another try; None when it is not."""
    header = response.headers.get("retry-after", "")
    return float(header) if response.status_code in _BUSY and header.isdecimal() else None


def _document(response: "httpx.Response") -> Json | None:
    kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in ("application/json", "application/problem+json"):
        return None
    try:
        document = json.loads(response.content, object_hook=_Answer)
    except ValueError:
        return None
    return document if isinstance(document, dict) else None


def _words(error: Exception) -> str:
    """What happened, for people: some errors of httpx say nothing but their name."""
    return str(error) or type(error).__name__
