"""The gate: every call comes through `Door.admit`, which finds out who calls and whether they may.

It is asked by the routes themselves (`route.py`, `plain.py`) with the call that was found, so there is no second
reading of an address that could understand it differently; and nothing it asks waits for a database, as long as
the register of tokens is fresh.
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

# Where the door notes who came in, in the request's scope.
CALLER: Final = "remotelr.caller"

# Wrong tokens from one address: so many at once, and one more every so many seconds.
_WRONG_BURST, _WRONG_EVERY_S = 20, 3.0
_RATE_WINDOW_S = 5
_CHALLENGE: Final = {"WWW-Authenticate": 'Bearer realm="remotelr"'}
_MAX_HEADER_BYTES = 512
# Refusals of one address that are written down: so many at once, and so many a second.
_TOLD_BURST, _TOLD_PER_S = 50, 1.0
# Who has the token of the settings. No token of the database can have this name: they have no brackets.
_OWN_ADMIN: Final = Caller(scope="admin", name="admin (settings)")

log = structlog.get_logger("remotelr")


class AccessGate:
    """One for a service process.

    settings: whether tokens are needed. ctx: what callers are given to work with.
    """

    def __init__(self, settings: Settings, ctx: Context) -> None:
        self.token_cache = TokenCache(ctx.reads, ctx.writer)
        self._auth = settings.auth
        self._insecure = settings.insecure
        self._is_exposed = not is_loopback(settings.host)
        self._admin_digest = None if settings.admin_token is None else digest(settings.admin_token)
        self._ctx = ctx
        self._wrong: TokenBucket[str] = TokenBucket(1 / _WRONG_EVERY_S, _WRONG_BURST)
        self._told: TokenBucket[str] = TokenBucket(_TOLD_PER_S, _TOLD_BURST)
        limit = settings.rate_limit
        self._rates: TokenBucket[int] | None = TokenBucket(limit, limit * _RATE_WINDOW_S) if limit else None

    @property
    def has_settings_admin(self) -> bool:
        """Whether there is an administrator whose token is a setting."""
        return self._admin_digest is not None

    @property
    def is_always_open(self) -> bool:
        """Whether nobody will ever be asked for a token."""
        return self._auth == "off" or (self._auth == "auto" and self._insecure)

    @asynccontextmanager
    async def refreshing_tokens(self) -> AsyncIterator[None]:
        """Within this block the register of tokens is kept up to date."""
        if self.is_always_open:
            yield
            return
        async with self.token_cache.refreshing():
            yield

    def needs_token(self, connection: Connection) -> bool:
        """Whether nobody gets in without one. (The register is asked, and has to be `trusted`.)"""
        if self.is_always_open:
            return False
        if self._auth == "on" or self._is_exposed or self.has_settings_admin or self.token_cache.has_tokens:
            return True
        # Whoever started us may have bound another address than the settings say.
        server = connection.get("server")
        return server is not None and server[1] is not None and not is_loopback(server[0])

    async def authorize(self, connection: Connection, call: str, *, checks_run: bool = True) -> Caller:
        """Who makes this call. Raises Refusal for who may not, RunNotFound for a run that is not there for them.

        checks_run: whether the call may look at its run without the writer, which looks who may by itself.
        """
        rights = RIGHTS.get(call, ADMIN)
        if rights == OPEN:
            return self._let_in(connection, ANONYMOUS)
        caller = await self._caller(connection)
        if caller.token is not None and self._rates is not None:
            wait_s = self._rates.take(caller.token)
            if wait_s:
                detail = "more is asked with this token than the service takes: ask again later"
                self._refuse("rate_limited", detail, connection, call, caller, headers=retry_after(wait_s))
        if not caller.may(rights):
            needed = " or ".join(sorted(rights))
            detail = f"this call needs a token of the scope {needed}; this one's is {caller.scope}"
            self._refuse("forbidden", detail, connection, call, caller)
        if caller.is_restricted:
            await self._keep(connection, caller, checks_run=checks_run)
        return self._let_in(connection, caller)

    def context_for(self, caller: Caller) -> Context:
        """What the caller is given to work with."""
        return replace(self._ctx, writer=ScopedWriter(self._ctx.writer, caller)) if caller.is_restricted else self._ctx

    def is_still_authorized(self, connection: Connection) -> bool:
        """Whether who makes this call would be let in again: a stream that is open for long has to ask."""
        caller: Caller | None = connection.get(CALLER)
        if caller is None:
            return True
        return not self.needs_token(connection) if caller is ANONYMOUS else self.token_cache.is_valid(caller)

    async def recheck(self, connection: Connection) -> None:
        """For a call that has waited, before it tells anything: its caller and its run may be others by now.

        Raises Refusal where the token is good no more, RunNotFound for a run that is not there for its caller.
        """
        caller: Caller | None = connection.get(CALLER)
        if caller is None:
            return
        if not self.is_still_authorized(connection):
            self.record_refusal("unauthorized", connection, None, caller)
            raise Refusal("unauthorized", "this call needs a token that is still good", headers=_CHALLENGE)
        if caller.is_restricted:
            await self._keep(connection, caller, checks_run=True)

    def record_refusal(
        self, code: RefusalCode, connection: Connection, call: str | None, caller: Caller | None = None
    ) -> None:
        """Write down that somebody was refused; nothing secret, and not more often than a log can bear."""
        self._ctx.metrics.refusal(code)
        address = _address(connection)
        if self._told.take(address):
            return
        log.warning(
            "refused",
            code=code,
            address=address,
            token=None if caller is None else caller.name,
            call=call,
            run=_run(connection),
        )

    def _let_in(self, connection: Connection, caller: Caller) -> Caller:
        connection[CALLER] = caller
        return caller

    async def _caller(self, connection: Connection) -> Caller:
        if self.is_always_open:
            return ANONYMOUS
        await self.token_cache.ensure_fresh()
        if not self.needs_token(connection):
            return ANONYMOUS
        secret = _bearer(connection)
        found = None if secret is None else await self._known(secret, connection)
        if found is None:
            self._turn_away(connection, had_token=secret is not None)
        self.token_cache.note_use(found)
        return found

    async def _known(self, secret: str, connection: Connection) -> Caller | None:
        hashed = digest(secret)
        if self._admin_digest is not None and hmac.compare_digest(hashed, self._admin_digest):
            return _OWN_ADMIN
        if not is_token(secret):
            return None
        # Who has sent many wrong ones is not looked up again: the right ones are found without.
        return await self.token_cache.find(hashed, patient=not self._wrong.is_empty(_address(connection)))

    def _turn_away(self, connection: Connection, *, had_token: bool) -> NoReturn:
        wait_s = self._wrong.take(_address(connection))
        if wait_s and had_token:
            self._ctx.metrics.refusal("rate_limited")
            detail = "too many requests with tokens that are not good came from this address: ask again later"
            raise Refusal("rate_limited", detail, headers=retry_after(wait_s))
        self.record_refusal("unauthorized", connection, None)
        detail = "send a token of this service that is good: `Authorization: Bearer rlr_...`"
        raise Refusal("unauthorized", detail, headers=_CHALLENGE)

    async def _keep(self, connection: Connection, caller: Caller, *, checks_run: bool) -> None:
        run = _run(connection)
        # What is no key at all is for the call to refuse.
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
    """Whether only this machine reaches the address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _bearer(connection: Connection) -> str | None:
    """What stands behind `Bearer`, where it stands there once."""
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
