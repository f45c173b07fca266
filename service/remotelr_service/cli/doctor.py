"""`remotelr doctor`: everything between this terminal and a service that works, one check after another.

Each check says what it found, and where something is wrong, the way out.
"""

import ipaddress
import os
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import typer

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
)
from remotelr_service.cli.support.options import AsJson, Url
from remotelr_service.errors import UserError

if TYPE_CHECKING:
    import httpx

# Clocks that differ by less disturb nobody: times bear on `--until-time` alone.
MAX_SKEW_S = 5.0

# A job that lives writes at each epoch: a file at rest for longer belongs to one that does not.
SPOOL_REST_S = 24 * 3600.0

# How many runs are looked at for what trainers commonly do wrong.
_LOOKED_AT = 200

State = Literal["ok", "warning", "wrong"]


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at. do: what to do about it."""

    name: str
    state: State
    said: str
    do: str | None = None


def doctor(url: Url = None, as_json: AsJson = False) -> None:
    """Look for what stands between you and a service that works."""
    checks = list(_checks(url))
    worst = "wrong" if any(check.state == "wrong" for check in checks) else "ok"
    output.show({"ok": worst == "ok", "checks": [asdict(check) for check in checks]}, as_json, lambda: _page(checks))
    if worst == "wrong":
        raise typer.Exit(UNREACHABLE if any(_is_line(check) for check in checks) else REFUSED)


def _is_line(check: Check) -> bool:
    return check.state == "wrong" and check.name in ("name", "service")


def _checks(given: str | None) -> Iterator[Check]:
    """Each check after those it needs: what cannot work any more is not looked at."""
    yield from _environment()
    try:
        url, source = address(given)
    except UserError as error:
        yield Check("address", "wrong", str(error), "set REMOTELR_URL=http://host:8000, or give --url")
        return
    yield _address(url, source)
    try:
        headers = credentials(url)
    except UserError as error:
        yield Check("token", "wrong", str(error), "make one with `remotelr token create`, and set REMOTELR_TOKEN to it")
        return
    proxy = _proxy(url)
    if proxy is not None:
        yield _proxied(url, proxy)
    name = _resolved(url)
    yield name
    if name.state == "wrong":
        return
    with ServiceClient(url, headers) as desk:
        try:
            answer = desk.answer("/livez")
        except ServiceUnreachable as error:
            yield _unreachable(url, error, proxy)
            return
        if not _ours(answer):
            yield _stranger(answer)
            return
        yield Check("service", "ok", f"answers in {answer.elapsed.total_seconds() * 1000:.0f} ms")
        yield _clock(answer)
        yield from _asked(desk, token_source())


def _environment() -> Iterator[Check]:
    """What this shell would tell a trainer that is started from it."""
    mode = os.environ.get("REMOTELR_MODE")
    if mode in ("local", "disabled"):
        yield Check(
            "environment",
            "warning",
            f"REMOTELR_MODE={mode}: a trainer that is started from here asks no service",
            "unset REMOTELR_MODE",
        )
    yield from _spools()


def _spools() -> Iterator[Check]:
    """Files in which jobs on this machine keep what a service has yet to hear, and that nobody writes any more."""
    directory = default_directory(os.environ)
    left = []
    # A job may end, and take its file away, while we look.
    with suppress(OSError):
        left = sorted(
            each.name for each in directory.glob("*.spool") if time.time() - each.stat().st_mtime > SPOOL_REST_S
        )
    if left:
        yield Check(
            "spools",
            "warning",
            f"{_named(left)} in {directory}: these jobs have not ended, and nobody writes for them any more",
            "start them again, and they tell what the service has not heard; or delete the files",
        )


def _address(url: str, source: str) -> Check:
    said = f"{url} ({source})"
    if urlsplit(url).path.rstrip("/").endswith(("/v1", "/docs")):
        return Check("address", "warning", f"{said}: the address ends before /v1", f"use {url.rpartition('/')[0]}")
    return Check("address", "ok", said)


def _proxy(url: str) -> str | None:
    """The proxy that requests to the service go through, as httpx chooses it."""
    parts = urlsplit(url)
    proxies = getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    return None if proxy is None or proxy_bypass(parts.hostname or "") else _without_password(proxy)


def _proxied(url: str, proxy: str) -> Check:
    host = urlsplit(url).hostname or ""
    said = f"requests to {host} go through {proxy}"
    if not _is_local(host):
        return Check("proxy", "ok", said)
    return Check("proxy", "warning", said, f"NO_PROXY={host} keeps them from it; trainers need that, too")


def _without_password(proxy: str) -> str:
    """The address of a proxy as it may be shown."""
    return f"{urlsplit(proxy).scheme}://{urlsplit(proxy).netloc.rpartition('@')[2]}"


def _resolved(url: str) -> Check:
    host = urlsplit(url).hostname or ""
    try:
        found = sorted({str(each[4][0]) for each in socket.getaddrinfo(host, None)})
    except (OSError, UnicodeError) as error:
        said = f"{host!r} has no address: {getattr(error, 'strerror', None) or error}"
        return Check("name", "wrong", said, "look for a misspelt host in REMOTELR_URL, or a missing VPN")
    return Check("name", "ok", f"{host} is {', '.join(found[:3])}")


def _unreachable(url: str, error: ServiceUnreachable, proxy: str | None) -> Check:
    reason = error.reason
    place = urlsplit(url).netloc
    low = reason.lower()
    if proxy is not None:
        do = f"the proxy {proxy} stands in between: does it answer, and should it be asked? NO_PROXY names exceptions"
    elif "refused" in low:
        do = f"nothing listens at {place}: start `remotelr serve` there, or set REMOTELR_URL"
    elif "certificate" in low:
        do = "the certificate is not trusted here: SSL_CERT_FILE=/path/to/ca.pem names one that is"
    elif "ssl" in low or "wrong version number" in low:
        do = "the other side does not speak TLS: try http:// in place of https://"
    elif "timed out" in low or "timeout" in low:
        do = f"a firewall may swallow what is sent to {place}, or the service may be overloaded"
    else:
        do = f"look at what stands between here and {place}: proxy, firewall, load balancer"
    return Check("service", "wrong", reason, do)


def _ours(answer: "httpx.Response") -> bool:
    try:
        return answer.is_success and answer.json()["status"] == "ok"
    except (KeyError, TypeError, ValueError):
        return False


def _stranger(answer: "httpx.Response") -> Check:
    kind = answer.headers.get("content-type", "no content type")
    said = f"HTTP {answer.status_code} ({kind}): this does not come from RemoteLR"
    if answer.is_redirect:
        where = output.safe(answer.headers.get("location", "")[:100])
        return Check("service", "wrong", f"{said}; it points to {where}", "use that address, if it is the service's")
    do = "another server has this port, or a proxy answers in the service's place"
    return Check("service", "wrong", said, do)


def _clock(answer: "httpx.Response") -> Check:
    try:
        theirs = parsedate_to_datetime(answer.headers["date"])
    except (KeyError, ValueError):
        return Check("clock", "ok", "the service does not say its time")
    # The header has whole seconds, and the answer took its time.
    skew_s = (datetime.now(UTC) - theirs.astimezone(UTC)).total_seconds() - 0.5
    if abs(skew_s) <= MAX_SKEW_S + answer.elapsed.total_seconds():
        return Check("clock", "ok", "the same here and there")
    way = "ahead of" if skew_s > 0 else "behind"
    said = f"this machine is {abs(skew_s):.0f} s {way} the service"
    return Check("clock", "warning", said, "`--until-time` goes by the service's clock: let NTP set both")


def _asked(desk: ServiceClient, found_in: str) -> Iterator[Check]:
    yield from _versions(desk)
    yield from _readiness(desk)
    try:
        runs = desk.get("/v1/runs", status="running", limit=_LOOKED_AT)["runs"]
    except ServiceRefused as error:
        yield _token_refused(error, found_in)
        return
    except NotUnderstood as error:
        yield Check("service", "wrong", str(error), "look at what serves this address: GET /version says")
        return
    except ServiceUnreachable as error:
        yield Check("runs", "wrong", error.reason, "the database may be away: see the service's log")
        return
    said = "no token is needed" if found_in == NOT_SET else f"taken ({found_in})"
    yield Check("token", "ok", said)
    yield from _habits(runs)


def _versions(desk: ServiceClient) -> Iterator[Check]:
    from remotelr.rules import RULES_VERSION

    try:
        there = desk.get("/version")
    except RemoteLRError as error:
        yield Check("version", "warning", str(error))
        return
    ours = version("remotelr-service")
    if there.get("rules_version") != RULES_VERSION:
        yield Check(
            "version",
            "warning",
            f"{there.get('version')} there has rules {there.get('rules_version')}, {ours} here has {RULES_VERSION}",
            "what is decided here while the service is away may differ: install the same release",
        )
    elif there.get("version") != ours:
        yield Check("version", "ok", f"{there.get('version')} there, {ours} here; their rules are the same")
    else:
        yield Check("version", "ok", f"{ours}, here and there")


def _readiness(desk: ServiceClient) -> Iterator[Check]:
    try:
        answer = desk.answer("/readyz?verbose")
        checks = answer.json().get("checks") or {}
    except (ServiceUnreachable, ValueError, AttributeError) as error:
        yield Check("ready", "wrong", str(error), "see the service's log")
        return
    failing = {name: said for name, said in checks.items() if said != "ok"}
    if answer.is_success and not failing:
        yield Check("ready", "ok", ", ".join(checks) or "yes")
    for name, said in failing.items():
        yield Check("ready", "wrong", output.safe(f"{name}: {said}"), _WAYS_OUT.get(name, "see the service's log"))


_WAYS_OUT = {
    "database": "is the database up, and does REMOTELR_DATABASE_URL of the service name it?",
    "schema": "run `remotelr db upgrade` where the service runs",
    "writes": "the service cannot write: a full disk, or a database that only reads; see its log",
    "serving": "the service is stopping: another one should be ready",
}


def _token_refused(error: ServiceRefused, source: str) -> Check:
    if error.status == 401:
        missing = source == NOT_SET
        do = "set REMOTELR_TOKEN, or REMOTELR_TOKEN_FILE" if missing else f"{source}: is it whole, expired or revoked?"
        return Check("token", "wrong", error.detail, do)
    if error.status == 403:
        return Check(
            "token", "warning", error.detail, "this token may do other things: `remotelr token list` says which"
        )
    return Check("token", "wrong", str(error), "is this address the service's own?")


def _habits(runs: list[Json]) -> Iterator[Check]:
    """What trainers commonly do wrong, as it shows in the runs."""
    drifting = [run["run"] for run in runs if run["decision"].get("drift") is not None]
    if drifting:
        yield Check(
            "runs",
            "warning",
            f"{_named(drifting)} trained with another rate than they were told",
            "does another callback or scheduler set the rate as well? Take it out; see docs/keras.md",
        )
    stalled = [run["run"] for run in runs if run.get("stalled")]
    if stalled:
        yield Check(
            "runs",
            "warning",
            f"{_named(stalled)} have not been heard of for long",
            "look after their trainers, or tell how they ended: remotelr runs finish",
        )
    if not drifting and not stalled:
        yield Check("runs", "ok", f"{len(runs)} running, all as they should" if runs else "none is running")


def _named(keys: list[str]) -> str:
    return ", ".join(keys[:5]) + (f" and {len(keys) - 5} more" if len(keys) > 5 else "")


def _is_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


_MARKS = {"ok": ("✓", "+", "green"), "warning": ("!", "!", "yellow"), "wrong": ("✗", "x", "red")}


def _page(checks: list[Check]) -> Any:
    from rich.table import Table
    from rich.text import Text

    page = Table.grid(padding=(0, 2, 0, 0))
    for check in checks:
        mark, plain, style = _MARKS[check.state]
        page.add_row(Text(mark if output.shows(mark) else plain, style), check.name, output.safe(check.said))
        if check.do is not None:
            page.add_row("", "", Text(output.safe(check.do), "bold"))
    return page
