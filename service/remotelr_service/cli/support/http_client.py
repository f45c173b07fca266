"""The HTTP client of the command line: it sends and reads JSON.

Commands carry an `Idempotency-Key`, so a repeated command counts once. httpx is imported with the first client, not
with this module: `remotelr --help` and `remotelr serve` start sooner.
"""

import json
import os
import re
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote, urlsplit

from remotelr._http import credentials as _token
from remotelr._http.retry import retry_after_s
from remotelr.errors import ServiceRefused, ServiceUnreachable
from remotelr_service.errors import UserError

if TYPE_CHECKING:
    import httpx

# The source of a setting that has no value.
NOT_SET = "not set"

DEFAULT_URL = "http://127.0.0.1:8000"

# An operator waits for the response: longer than a busy service takes, shorter than a missing one is worth.
TIMEOUT_S = 30.0
_CONNECT_S = 10.0

# The service's largest page.
PAGE = 200

# With `Retry-After`, the same request may succeed later.
_BUSY = (429, 503)

Json = dict[str, Any]


class NotUnderstood(UserError):
    """A response lacks a member that this release requires."""


class _Answer(Json):
    """A JSON object of a response. A missing member is a UserError instead of a KeyError with a traceback."""

    def __missing__(self, name: str) -> Any:
        raise NotUnderstood(f"the response has no {name!r}; check that this is a RemoteLR service of this release")


def address(given: str | None = None) -> tuple[str, str]:
    """The service's URL and its source. Raises UserError for an invalid URL."""
    named = os.environ.get("REMOTELR_URL")
    url, source = (given, "--url") if given else (named, "REMOTELR_URL") if named else (DEFAULT_URL, "default")
    try:
        found = _token.address(url).rstrip("/")
    except ValueError as error:
        raise UserError(f"{source}: {error}") from None
    if not urlsplit(found).hostname:
        raise UserError(f"{source}: the URL must name a host, as in http://127.0.0.1:8000, got {url!r}")
    return found, source


def token_source() -> str:
    """The variable that holds the token or the path of its file, or NOT_SET.

    There is no option for it: arguments are visible in the process list and in the shell's history.
    """
    return next((name for name in ("REMOTELR_TOKEN", "REMOTELR_TOKEN_FILE") if os.environ.get(name)), NOT_SET)


def credentials(url: str) -> dict[str, str]:
    """The authorization header; empty without a token.

    Raises UserError for an invalid token, and for a URL that would send it unencrypted to another machine.
    """
    try:
        return _token.bearer(url)
    except ValueError as error:
        raise UserError(str(error)) from None


def without_user(url: str) -> str:
    """The URL of a proxy, which may have no scheme, without its user and password."""
    return re.sub(r"^(?:(\w+://).*|[^/]*)@", r"\1", url)


def without_none(**members: Any) -> Json:
    """The members that are not None."""
    return {name: value for name, value in members.items() if value is not None}


class NotSent(ServiceUnreachable):
    """No connection was made, so the service did not receive the request."""


class ServiceClient:
    """A client of the service at `url`; a context manager that closes its connection.

    timeout_s: limit of a call in seconds, retries included.

    Every call raises ServiceRefused and ServiceUnreachable.
    """

    def __init__(self, url: str, headers: Mapping[str, str] | None = None, *, timeout_s: float = TIMEOUT_S) -> None:
        import httpx

        self.url = url
        self.timeout_s = timeout_s
        # Loading the certificates takes longer than the rest of a command; plain http needs none.
        with_tls = url.startswith("https://")
        self._http = httpx.Client(
            headers={"accept": "application/json", **(headers or {})},
            timeout=_timeout(timeout_s),
            verify=with_tls,
            follow_redirects=False,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def get(self, path: str, **params: object) -> Json:
        return self.request("GET", path, params=params)

    def send_command(self, path: str, body: Mapping[str, Any], key: str | None) -> Json:
        """POST a command; if the response is lost, send the command once more.

        key: the idempotency key; random if None. If the second response is lost too, the error names the key, because
        the command may have been stored.
        """
        headers = {"idempotency-key": key or uuid.uuid4().hex}
        began = time.monotonic()
        try:
            return self.request("POST", path, body=body, headers=headers)
        except NotSent:
            raise
        except ServiceUnreachable:
            pass
        try:
            return self.request("POST", path, body=body, headers=headers)
        except ServiceUnreachable as error:
            reason = f"{error.reason}; to repeat the command without a second effect, add --key "
            raise self._unreachable(reason + headers["idempotency-key"], 2, began) from None

    def pages(self, path: str, member: str, *, after: object = None, **params: object) -> Iterator[Json]:
        """The items of a list; each page is fetched when it is needed."""
        while True:
            page = self.get(path, **{"limit": PAGE, **params, "after": after})
            yield from page[member]
            after = page.get("next")
            if after is None:
                return

    def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, object] | None = None,
        body: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Json:
        """The response's JSON object; empty for 204. A busy service is retried after its `Retry-After`."""
        began, tries = time.monotonic(), 0
        while True:
            tries += 1
            response = self._send(method, path, began=began, params=params, body=body, headers=headers)
            pause_s = retry_after_s(response.headers.get("retry-after")) if response.status_code in _BUSY else None
            if pause_s is None or time.monotonic() - began + pause_s > self.timeout_s:
                return self._read(response, tries, began)
            time.sleep(pause_s)

    def text(self, method: str, path: str, media_type: str, *, body: Mapping[str, Any] | None = None) -> str:
        """The response's text in this media type."""
        began = time.monotonic()
        response = self._send(method, path, began=began, body=body, headers={"accept": media_type})
        if not response.headers.get("content-type", "").startswith(media_type):
            self._read(response, 1, began)
            raise self._unreachable(f"the service does not offer {media_type}; update the service", 1, began)
        return response.text

    def response(self, path: str) -> "httpx.Response":
        """The raw response to a GET, of any status. Raises ServiceUnreachable."""
        return self._send("GET", path, began=time.monotonic())

    @contextmanager
    def stream(self, path: str, **params: object) -> Iterator[Iterator[str]]:
        """The lines of an event stream as they arrive. Raises ServiceRefused and ServiceUnreachable."""
        import httpx

        began = time.monotonic()
        # The service sends at least a comment every 15 s.
        timeout, headers = _timeout(60.0), {"accept": "text/event-stream"}
        query = without_none(**params)
        try:
            with self._http.stream("GET", self.url + path, params=query, headers=headers, timeout=timeout) as response:
                if not response.is_success:
                    response.read()
                    self._read(response, 1, began)
                yield response.iter_lines()
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise self._unreachable(_message(error), 1, began) from None

    def _send(
        self,
        method: str,
        path: str,
        *,
        began: float,
        params: Mapping[str, object] | None = None,
        body: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> "httpx.Response":
        import httpx

        try:
            content = None if body is None else json.dumps(body, allow_nan=False)
        except ValueError:
            raise UserError("numbers must be finite, got nan or inf") from None
        sent = {} if body is None else {"content-type": "application/json"}
        query = without_none(**params) if params else None
        try:
            return self._http.request(
                method, self.url + path, params=query, content=content, headers={**sent, **(headers or {})}
            )
        except httpx.ConnectError as error:
            raise NotSent(self.url, 1, _message(error), time.monotonic() - began) from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise self._unreachable(_message(error), 1, began) from None

    def _read(self, response: "httpx.Response", tries: int, began: float) -> Json:
        if response.status_code == 204:
            return {}
        document = _document(response)
        if document is None:
            kind = response.headers.get("content-type", "no content type")
            reason = f"expected JSON, got HTTP {response.status_code} ({kind}); check that this is a RemoteLR service"
            raise self._unreachable(reason, tries, began)
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
    """A client of the service that the option or the environment names. Raises UserError."""
    found, _ = address(url)
    return ServiceClient(found, credentials(found), timeout_s=timeout_s)


def run_path(run: str, *more: str) -> str:
    """The path of a run. Raises UserError for a key that would change the path; the service checks the rest."""
    if run in ("", ".", ".."):
        raise UserError(f"a run's key must not be empty, '.' or '..', got {run!r}")
    return "/".join(["/v1/runs", quote(run, safe=""), *more])


def _document(response: "httpx.Response") -> Json | None:
    kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in ("application/json", "application/problem+json"):
        return None
    try:
        document = json.loads(response.content, object_hook=_Answer)
    except ValueError:
        return None
    return document if isinstance(document, dict) else None


def _message(error: Exception) -> str:
    """The error's text; some errors of httpx have only a name."""
    return str(error) or type(error).__name__
