"""`remotelr doctor`: checks the path from this terminal to a working service, and suggests fixes."""

import os
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import typer

from remotelr._http.credentials import is_local
from remotelr._session.spool import default_directory
from remotelr.errors import RemoteLRError, ServiceRefused, ServiceUnreachable
from remotelr_service.cli.support import output
from remotelr_service.cli.support.exit_codes import REFUSED, UNREACHABLE
from remotelr_service.cli.support.http_client import (
    NOT_SET,
    Json,
    NotUnderstood,
    ServiceClient,
    address,
    credentials,
    token_source,
    without_user,
)
from remotelr_service.cli.support.options import AsJson, Url
from remotelr_service.errors import UserError

if TYPE_CHECKING:
    import httpx

# A smaller difference does no harm: only `--until-time` compares clocks.
MAX_SKEW_S = 5.0

# A running job writes its spool after each epoch. A file without changes for longer has no running job.
MAX_SPOOL_AGE_S = 24 * 3600.0

# Runs that are checked for common mistakes of trainers.
_CHECKED_RUNS = 200

State = Literal["ok", "warning", "wrong"]


@dataclass(frozen=True, slots=True)
class Check:
    """The result of one check. fix: what the operator can do."""

    name: str
    state: State
    message: str
    fix: str | None = None

    def to_json(self) -> Json:
        return {"name": self.name, "state": self.state, "said": self.message, "do": self.fix}


def doctor(url: Url = None, as_json: AsJson = False) -> None:
    """Find out why the service cannot be used."""
    checks = list(_checks(url))
    worst = "wrong" if any(check.state == "wrong" for check in checks) else "ok"
    output.show({"ok": worst == "ok", "checks": [check.to_json() for check in checks]}, as_json, lambda: _page(checks))
    if worst == "wrong":
        raise typer.Exit(UNREACHABLE if any(_is_connection(check) for check in checks) else REFUSED)


def _is_connection(check: Check) -> bool:
    return check.state == "wrong" and check.name in ("name", "service")


def _checks(given: str | None) -> Iterator[Check]:
    """The checks in order; a check is left out if one that it needs has failed."""
    yield from _environment()
    try:
        url, source = address(given)
    except UserError as error:
        yield Check("address", "wrong", str(error), "set REMOTELR_URL=http://host:8000, or use --url")
        return
    yield _address(url, source)
    try:
        headers = credentials(url)
    except UserError as error:
        yield Check("token", "wrong", str(error), "create one with `remotelr token create`, and set REMOTELR_TOKEN")
        return
    proxy = _proxy(url)
    if proxy is not None:
        yield _proxied(url, proxy)
    name = _resolved(url)
    yield name
    if name.state == "wrong":
        return
    with ServiceClient(url, headers) as service:
        try:
            response = service.response("/livez")
        except ServiceUnreachable as error:
            yield _unreachable(url, error, proxy)
            return
        if not _is_remotelr(response):
            yield _other_server(response)
            return
        yield Check("service", "ok", f"responds in {response.elapsed.total_seconds() * 1000:.0f} ms")
        yield _clock(response)
        yield from _with_token(service, token_source())


def _environment() -> Iterator[Check]:
    """Variables of this shell that affect a trainer, and its spools."""
    mode = os.environ.get("REMOTELR_MODE")
    if mode in ("local", "disabled"):
        yield Check(
            "environment",
            "warning",
            f"REMOTELR_MODE={mode}: a trainer started from this shell uses no service",
            "unset REMOTELR_MODE",
        )
    yield from _spools()


def _spools() -> Iterator[Check]:
    """Spools of jobs that are not running: files with reports that the service has not acknowledged."""
    directory = default_directory(os.environ)
    old = []
    # A job may delete its file during the check.
    with suppress(OSError):
        old = sorted(
            each.name for each in directory.glob("*.spool") if time.time() - each.stat().st_mtime > MAX_SPOOL_AGE_S
        )
    if old:
        yield Check(
            "spools",
            "warning",
            f"{_named(old)} in {directory}: these jobs did not finish and are not running",
            "restart the jobs to send the reports in these files, or delete the files",
        )


def _address(url: str, source: str) -> Check:
    message = f"{url} ({source})"
    if urlsplit(url).path.rstrip("/").endswith(("/v1", "/docs")):
        return Check(
            "address",
            "warning",
            f"{message}: the address must not include /v1 or /docs",
            f"use {url.rpartition('/')[0]}",
        )
    return Check("address", "ok", message)


def _proxy(url: str) -> str | None:
    """The proxy of requests to the service, chosen as httpx does; None without one."""
    parts = urlsplit(url)
    proxies = getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    return None if proxy is None or proxy_bypass(parts.hostname or "") else without_user(proxy)


def _proxied(url: str, proxy: str) -> Check:
    host = urlsplit(url).hostname or ""
    message = f"requests to {host} go through {proxy}"
    if not is_local(host):
        return Check("proxy", "ok", message)
    return Check("proxy", "warning", message, f"set NO_PROXY={host}, for trainers too")


def _resolved(url: str) -> Check:
    host = urlsplit(url).hostname or ""
    try:
        found = sorted({str(each[4][0]) for each in socket.getaddrinfo(host, None)})
    except (OSError, UnicodeError) as error:
        message = f"{host!r} has no address: {getattr(error, 'strerror', None) or error}"
        return Check("name", "wrong", message, "check the host in REMOTELR_URL, and the VPN")
    return Check("name", "ok", f"{host} is {', '.join(found[:3])}")


def _unreachable(url: str, error: ServiceUnreachable, proxy: str | None) -> Check:
    reason = error.reason
    server = urlsplit(url).netloc
    low = reason.lower()
    if proxy is not None:
        fix = f"requests go through the proxy {proxy}: check that it responds, or exclude this host with NO_PROXY"
    elif "refused" in low:
        fix = f"nothing listens at {server}: start `remotelr serve` there, or set REMOTELR_URL"
    elif "certificate" in low:
        fix = "the certificate is not trusted: set SSL_CERT_FILE=/path/to/ca.pem"
    elif "ssl" in low or "wrong version number" in low:
        fix = "the server does not use TLS: try http:// instead of https://"
    elif "timed out" in low or "timeout" in low:
        fix = f"check for a firewall before {server}, and whether the service is overloaded"
    else:
        fix = f"check proxy, firewall and load balancer between this machine and {server}"
    return Check("service", "wrong", reason, fix)


def _is_remotelr(response: "httpx.Response") -> bool:
    try:
        return response.is_success and response.json()["status"] == "ok"
    except (KeyError, TypeError, ValueError):
        return False


def _other_server(response: "httpx.Response") -> Check:
    kind = response.headers.get("content-type", "no content type")
    message = f"HTTP {response.status_code} ({kind}): this is not a response of RemoteLR"
    if response.is_redirect:
        target = output.safe(response.headers.get("location", "")[:100])
        return Check("service", "wrong", f"{message}; it redirects to {target}", "use that address if it is right")
    return Check("service", "wrong", message, "check for another server on this port, and for a proxy that responds")


def _clock(response: "httpx.Response") -> Check:
    try:
        server_time = parsedate_to_datetime(response.headers["date"])
    except (KeyError, ValueError):
        return Check("clock", "ok", "unknown: the response has no Date header")
    # The header has whole seconds; on average it is 0.5 s behind.
    skew_s = (datetime.now(UTC) - server_time.astimezone(UTC)).total_seconds() - 0.5
    if abs(skew_s) <= MAX_SKEW_S + response.elapsed.total_seconds():
        return Check("clock", "ok", "same as the service's")
    direction = "ahead of" if skew_s > 0 else "behind"
    message = f"this machine is {abs(skew_s):.0f} s {direction} the service"
    return Check("clock", "warning", message, "`--until-time` uses the service's clock: synchronise both with NTP")


def _with_token(service: ServiceClient, source: str) -> Iterator[Check]:
    yield from _versions(service)
    yield from _readiness(service)
    try:
        runs = service.get("/v1/runs", status="running", limit=_CHECKED_RUNS)["runs"]
    except ServiceRefused as error:
        yield _token_refused(error, source)
        return
    except NotUnderstood as error:
        yield Check("service", "wrong", str(error), "check which server has this address: GET /version")
        return
    except ServiceUnreachable as error:
        yield Check("runs", "wrong", error.reason, "the database may be unavailable: see the service's log")
        return
    yield Check("token", "ok", "not needed" if source == NOT_SET else f"accepted ({source})")
    yield from _trainers(runs)


def _versions(service: ServiceClient) -> Iterator[Check]:
    from remotelr.rules import RULES_VERSION

    try:
        remote = service.get("/version")
    except RemoteLRError as error:
        yield Check("version", "warning", str(error))
        return
    local = version("remotelr-service")
    if remote.get("rules_version") != RULES_VERSION:
        yield Check(
            "version",
            "warning",
            f"rules {remote.get('rules_version')} ({remote.get('version')}) there, {RULES_VERSION} ({local}) here",
            "local decisions may differ from the service's: install the same release",
        )
    elif remote.get("version") != local:
        yield Check("version", "ok", f"the service has {remote.get('version')}, {local} here, with the same rules")
    else:
        yield Check("version", "ok", f"{local}, same as the service's")


def _readiness(service: ServiceClient) -> Iterator[Check]:
    try:
        response = service.response("/readyz?verbose")
        checks = response.json().get("checks") or {}
    except (ServiceUnreachable, ValueError, AttributeError) as error:
        yield Check("ready", "wrong", str(error), "see the service's log")
        return
    failing = {name: state for name, state in checks.items() if state != "ok"}
    if response.is_success and not failing:
        yield Check("ready", "ok", ", ".join(checks) or "yes")
    for name, state in failing.items():
        yield Check("ready", "wrong", output.safe(f"{name}: {state}"), _FIXES.get(name, "see the service's log"))


_FIXES = {
    "database": "check that the database is up, and the service's REMOTELR_DATABASE_URL",
    "schema": "run `remotelr db upgrade` on the service's machine",
    "writes": "check for a full disk or a read-only database; see the service's log",
    "serving": "the service is shutting down: use another replica",
}


def _token_refused(error: ServiceRefused, source: str) -> Check:
    if error.status == 401:
        missing = source == NOT_SET
        fix = (
            "set REMOTELR_TOKEN or REMOTELR_TOKEN_FILE"
            if missing
            else f"check {source}: truncated, expired or revoked?"
        )
        return Check("token", "wrong", error.detail, fix)
    if error.status == 403:
        return Check("token", "warning", error.detail, "see this token's scope with `remotelr token list`")
    return Check("token", "wrong", str(error), "check that the address is the service's")


def _trainers(runs: list[Json]) -> Iterator[Check]:
    """Common mistakes of trainers that their runs show."""
    drifting = [run["run"] for run in runs if run["decision"].get("drift") is not None]
    if drifting:
        yield Check(
            "runs",
            "warning",
            f"{_named(drifting)} used another rate than the decided one",
            "remove other callbacks and schedulers that set the rate; see docs/keras.md",
        )
    stalled = [run["run"] for run in runs if run.get("stalled")]
    if stalled:
        yield Check(
            "runs",
            "warning",
            f"{_named(stalled)} stopped reporting",
            "check the trainers, or end the runs with `remotelr runs finish`",
        )
    if not drifting and not stalled:
        yield Check("runs", "ok", f"{len(runs)} running, no problems" if runs else "none is running")


def _named(keys: list[str]) -> str:
    return ", ".join(keys[:5]) + (f" and {len(keys) - 5} more" if len(keys) > 5 else "")


_MARKS = {"ok": ("✓", "+", "green"), "warning": ("!", "!", "yellow"), "wrong": ("✗", "x", "red")}


def _page(checks: list[Check]) -> Any:
    from rich.table import Table
    from rich.text import Text

    page = Table.grid(padding=(0, 2, 0, 0))
    for check in checks:
        mark, plain, style = _MARKS[check.state]
        page.add_row(Text(mark if output.shows(mark) else plain, style), check.name, output.safe(check.message))
        if check.fix is not None:
            page.add_row("", "", Text(output.safe(check.fix), "bold"))
    return page
