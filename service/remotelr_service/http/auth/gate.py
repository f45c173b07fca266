"""The access gate: `AccessGate.authorize` identifies the caller of each request and checks its scope.

The routes (`route.py`, `fast_reports.py`) call it with the resolved call, so no second parser of the URL can disagree.
If the token cache is fresh, it needs no database query.
"""

import hmac
import ipaddress
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import lru_cache
from typing import Any, Final, NoReturn

import structlog
from starlette.concurrency import run_in_threadpool
from starlette.types import Scope as Connection

from remotelr_service.http.auth.callers import ANONYMOUS, Caller
from remotelr_service.http.auth.credentials import digest, is_token
from remotelr_service.http.auth.permissions import ADMIN, OPEN, RIGHTS
from remotelr_service.http.auth.run_access import ScopedWriter, check_access
from remotelr_service.http.auth.throttle import TokenBucket, retry_after
from remotelr_service.http.auth.token_cache import TokenCache
from remotelr_service.http.context import Context
from remotelr_service.http.fields import KEY_PATTERN
from remotelr_service.http.problems import Refusal
from remotelr_service.metrics import RefusalCode
from remotelr_service.settings import Settings

# The key of the caller in the request's scope.
CALLER: Final = "remotelr.caller"

# Invalid tokens from one address: the burst, and the seconds for one more.
_WRONG_BURST, _WRONG_EVERY_S = 20, 3.0
_RATE_WINDOW_S = 5
_CHALLENGE: Final = {"WWW-Authenticate": 'Bearer realm="remotelr"'}
_MAX_HEADER_BYTES = 512
# Logged rejections of one address: the burst, and the rate per second.
_LOG_BURST, _LOG_PER_S = 50, 1.0
# The caller with the token of the settings. Token names in the database contain no brackets.
_SETTINGS_ADMIN: Final = Caller(scope="admin", name="admin (settings)")

log = structlog.get_logger("remotelr")


class AccessGate:
    """Authorizes the requests of one process.

    settings: determine if tokens are required. ctx: the context of unrestricted callers.
    """

    def __init__(self, settings: Settings, ctx: Context) -> None:
        self.token_cache = TokenCache(ctx.reads, ctx.writer)
        self._auth = settings.auth
        self._insecure = settings.insecure
        self._is_exposed = not is_loopback(settings.host)
        self._admin_digest = None if settings.admin_token is None else digest(settings.admin_token)
        self._ctx = ctx
        self._wrong: TokenBucket[str] = TokenBucket(1 / _WRONG_EVERY_S, _WRONG_BURST)
        self._logged: TokenBucket[str] = TokenBucket(_LOG_PER_S, _LOG_BURST)
        limit = settings.rate_limit
        self._rates: TokenBucket[int] | None = TokenBucket(limit, limit * _RATE_WINDOW_S) if limit else None

    @property
    def has_settings_admin(self) -> bool:
        """Whether the settings contain an administrator's token."""
        return self._admin_digest is not None

    @property
    def is_always_open(self) -> bool:
        """Whether the settings disable tokens."""
        return self._auth == "off" or (self._auth == "auto" and self._insecure)

    @asynccontextmanager
    async def refreshing_tokens(self) -> AsyncIterator[None]:
        """Context manager: refresh the token cache periodically, if tokens are enabled."""
        if self.is_always_open:
            yield
            return
        async with self.token_cache.refreshing():
            yield

    def needs_token(self, connection: Connection) -> bool:
        """Whether the request needs a token. The token cache must be fresh."""
        if self.is_always_open:
            return False
        if self._auth == "on" or self._is_exposed or self.has_settings_admin or self.token_cache.has_tokens:
            return True
        # The server may be bound to another address than that of the settings.
        server = connection.get("server")
        return server is not None and server[1] is not None and not is_loopback(server[0])

    async def authorize(self, connection: Connection, call: str, *, checks_run: bool = True) -> Caller:
        """The caller of the request. Raises Refusal without permission, RunNotFound for an inaccessible run.

        checks_run: check access to the run here. False if the call reads the run only by the writer, which checks it.
        """
        rights = RIGHTS.get(call, ADMIN)
        if rights == OPEN:
            return self._accept(connection, ANONYMOUS)
        caller = await self._caller(connection)
        if caller.token is not None and self._rates is not None:
            wait_s = self._rates.take(caller.token)
            if wait_s:
                detail = "this token exceeds the request rate; retry later"
                self._refuse("rate_limited", detail, connection, call, caller, headers=retry_after(wait_s))
        if not caller.may(rights):
            needed = " or ".join(sorted(rights))
            detail = f"this call needs a token of the scope {needed}, got {caller.scope}; use another token"
            self._refuse("forbidden", detail, connection, call, caller)
        if caller.is_restricted:
            await self._check_run(connection, caller, checks_run=checks_run)
        return self._accept(connection, caller)

    def context_for(self, caller: Caller) -> Context:
        """The context of the caller. For a restricted caller it has a ScopedWriter."""
        return replace(self._ctx, writer=ScopedWriter(self._ctx.writer, caller)) if caller.is_restricted else self._ctx

    def is_still_authorized(self, connection: Connection) -> bool:
        """Whether the caller of a long request, such as a stream, is still authorized."""
        caller: Caller | None = connection.get(CALLER)
        if caller is None:
            return True
        return not self.needs_token(connection) if caller is ANONYMOUS else self.token_cache.is_valid(caller)

    async def recheck(self, connection: Connection) -> None:
        """Check the request again after it has waited: its token or its run may have changed.

        Raises Refusal for a token that is no longer valid, RunNotFound for an inaccessible run.
        """
        caller: Caller | None = connection.get(CALLER)
        if caller is None:
            return
        if not self.is_still_authorized(connection):
            self.record_refusal("unauthorized", connection, None, caller)
            raise Refusal("unauthorized", "this token is no longer valid; use another one", headers=_CHALLENGE)
        if caller.is_restricted:
            await self._check_run(connection, caller, checks_run=True)

    def record_refusal(
        self, code: RefusalCode, connection: Connection, call: str | None, caller: Caller | None = None
    ) -> None:
        """Count and log a rejected request, without secrets. The log of one address is rate-limited."""
        self._ctx.metrics.refusal(code)
        address = _address(connection)
        if self._logged.take(address):
            return
        log.warning(
            "refused",
            code=code,
            address=address,
            token=None if caller is None else caller.name,
            call=call,
            run=_run(connection),
        )

    def _accept(self, connection: Connection, caller: Caller) -> Caller:
        connection[CALLER] = caller
        return caller

    async def _caller(self, connection: Connection) -> Caller:
        if self.is_always_open:
            return ANONYMOUS
        await self.token_cache.ensure_fresh()
        if not self.needs_token(connection):
            return ANONYMOUS
        secret = _bearer(connection)
        found = None if secret is None else await self._find_caller(secret, connection)
        if found is None:
            self._reject_token(connection, had_token=secret is not None)
        self.token_cache.note_use(found)
        return found

    async def _find_caller(self, secret: str, connection: Connection) -> Caller | None:
        hashed = digest(secret)
        if self._admin_digest is not None and hmac.compare_digest(hashed, self._admin_digest):
            return _SETTINGS_ADMIN
        if not is_token(secret):
            return None
        # After many invalid tokens from an address, its unknown tokens cause no refresh. Cached ones are still found.
        return await self.token_cache.find(hashed, refresh_on_miss=not self._wrong.is_empty(_address(connection)))

    def _reject_token(self, connection: Connection, *, had_token: bool) -> NoReturn:
        wait_s = self._wrong.take(_address(connection))
        if wait_s and had_token:
            self._ctx.metrics.refusal("rate_limited")
            detail = "too many invalid tokens from this address; retry later"
            raise Refusal("rate_limited", detail, headers=retry_after(wait_s))
        self.record_refusal("unauthorized", connection, None)
        detail = "a valid token is required: send the header `Authorization: Bearer rlr_...`"
        raise Refusal("unauthorized", detail, headers=_CHALLENGE)

    async def _check_run(self, connection: Connection, caller: Caller, *, checks_run: bool) -> None:
        run = _run(connection)
        # The call itself rejects an invalid key.
        if run is None or re.fullmatch(KEY_PATTERN, run) is None or not checks_run:
            return
        await run_in_threadpool(check_access, self._ctx.reads, caller, run)

    def _refuse(
        self,
        code: RefusalCode,
        detail: str,
        connection: Connection,
        call: str | None,
        caller: Caller | None,
        *,
        headers: Mapping[str, str] | None = None,
    ) -> NoReturn:
        self.record_refusal(code, connection, call, caller)
        raise Refusal(code, detail, headers=headers)


@lru_cache(maxsize=64)
def is_loopback(host: str) -> bool:
    """Whether the address is reachable only from this host."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def holder_of(connection: Connection) -> str:
    """The caller, in words, as the holder of a share: its token; without one, its address."""
    caller: Caller | None = connection.get(CALLER)
    if caller is None or caller.name is None:
        return f"the address {_address(connection)}"
    return f"the token {caller.name}"


def _bearer(connection: Connection) -> str | None:
    """The token of a single `Authorization: Bearer` header; otherwise None."""
    found = [value for name, value in connection["headers"] if name == b"authorization"]
    if len(found) != 1 or len(found[0]) > _MAX_HEADER_BYTES:
        return None
    scheme, _, secret = found[0].partition(b" ")
    if scheme.lower() != b"bearer" or not secret.isascii():
        return None
    return str(secret.decode())


def _address(connection: Connection) -> str:
    client = connection.get("client")
    return "" if client is None else str(client[0])


def _run(connection: Connection) -> str | None:
    parameters: Mapping[str, Any] = connection.get("path_params", {})
    run = parameters.get("run")
    return run if isinstance(run, str) else None
