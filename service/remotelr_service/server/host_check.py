"""Checks of the headers Host and Origin.

A page in an operator's browser can send requests to this service, which matters if no token is needed. So the Host must
be a name of this service (against DNS rebinding), and a request that changes data must not have the Origin of another
site. CORS is off, so no page of another site can read a response.
"""

import ipaddress
import re

from starlette.types import ASGIApp, Receive, Scope, Send

from remotelr_service.http.auth.gate import AccessGate
from remotelr_service.http.problems import problem
from remotelr_service.settings import Settings

# Probes often use another host name.
_EXEMPT = frozenset({"/livez", "/readyz", "/metrics"})
_READING = frozenset({"GET", "HEAD", "OPTIONS"})
_HOST = re.compile(rb"(\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9._-]{1,253})(?::[0-9]{1,5})?")


class HostCheck:
    """Rejects requests with another service's Host, and changes with another site's Origin."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._names = frozenset(name for name in settings.allowed_hosts if not name.startswith("*."))
        self._endings = tuple(name[1:] for name in settings.allowed_hosts if name.startswith("*."))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in _EXEMPT:
            return await self._app(scope, receive, send)
        gate: AccessGate = scope["app"].state.gate
        hosts = [value for name, value in scope["headers"] if name == b"host"]
        found = _HOST.fullmatch(hosts[0]) if len(hosts) == 1 else None
        if found is None:
            detail = "a request must have exactly one valid Host header"
            return await problem("malformed_request", detail)(scope, receive, send)
        if not self._is_own_name(found[1].decode().lower(), gate, scope):
            gate.record_refusal("misdirected_request", scope, None)
            detail = "the Host header is not a name of this service; add it to REMOTELR_ALLOWED_HOSTS"
            return await problem("misdirected_request", detail)(scope, receive, send)
        if scope["method"] not in _READING and not self._is_same_site(hosts[0], scope):
            gate.record_refusal("cross_origin", scope, None)
            detail = "requests from pages of another site (Origin header) must not change data"
            return await problem("cross_origin", detail)(scope, receive, send)
        return await self._app(scope, receive, send)

    def _is_own_name(self, name: str, gate: AccessGate, scope: Scope) -> bool:
        if name in ("localhost", "127.0.0.1", "[::1]") or self._is_listed(name):
            return True
        if self._names or self._endings:
            return False
        # If a token is needed, a page under another name cannot send one.
        return _is_address(name) or gate.needs_token(scope)

    def _is_listed(self, name: str) -> bool:
        return name in self._names or name.endswith(self._endings)

    def _is_same_site(self, host: bytes, scope: Scope) -> bool:
        origins = [value for name, value in scope["headers"] if name == b"origin"]
        if not origins:
            return True
        site = origins[0].lower().removeprefix(b"https://").removeprefix(b"http://")
        if len(origins) > 1 or b"://" not in origins[0]:
            return False
        found = _HOST.fullmatch(site)
        return site == host.lower() or (found is not None and self._is_listed(found[1].decode()))


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True
