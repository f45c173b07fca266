"""All tokens in memory, so that authorizing a request needs no database query.

A task checks every `REFRESH_S` with one short query for new and revoked tokens, and reads the tokens only after a
change. Data older than `MAX_AGE_S` authorizes no request. So every process rejects a revoked token within that time,
even if its task fails. An unknown token may have been created by another replica a moment ago: it causes a further
check, at most every `MISS_REFRESH_S`, however many requests have invalid tokens.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import cast

from sqlalchemy import Engine

from remotelr_service.db.engine import reading
from remotelr_service.db.queries import tokens as stored
from remotelr_service.db.queries.tokens import StoredToken, Version
from remotelr_service.db.writer.writer import Writer
from remotelr_service.errors import DatabaseUnavailable, ServiceError
from remotelr_service.http.auth.callers import Caller, Scope

REFRESH_S = 1.5
MAX_AGE_S = 4.5
MISS_REFRESH_S = 0.25
# The maximum time in seconds that a request waits for a check: the database may be paused.
REFRESH_TIMEOUT_S = 2.0
# The interval in seconds in which uses of tokens are stored.
USES_S = 60.0


class TokenCache:
    """The tokens and their callers. Not thread-safe: use it in one event loop.

    engine: `Database.reads`. writer: stores when tokens were used.
    """

    def __init__(self, engine: Engine, writer: Writer) -> None:
        self._engine = engine
        self._writer = writer
        self._callers: Mapping[str, tuple[Caller, datetime | None]] = {}
        self._live: Mapping[int, datetime | None] = {}
        self._version: Version | None = None
        self._now = datetime.min.replace(tzinfo=UTC)
        self._seen = self._failed = -float("inf")
        self._loading: asyncio.Task[None] | None = None
        self._used: dict[int, float] = {}
        # A separate thread, because authorized requests may occupy all others.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="remotelr-tokens")

    @property
    def has_tokens(self) -> bool:
        """Whether the database has, or had, a token. Then every request needs one."""
        return self._version is not None and self._version.added > 0

    async def ensure_fresh(self) -> None:
        """Refresh the cache if it is older than MAX_AGE_S. Raises DatabaseUnavailable."""
        if time.monotonic() - self._seen > MAX_AGE_S:
            await self._refresh_at_most_every(MISS_REFRESH_S)

    async def find(self, digest: str, *, refresh_on_miss: bool) -> Caller | None:
        """The caller with this token; None for an unknown, revoked or expired one. Raises DatabaseUnavailable.

        refresh_on_miss: refresh the cache for an unknown token, which may be new.
        """
        await self.ensure_fresh()
        found = self._valid(digest)
        if found is None and refresh_on_miss:
            with suppress(DatabaseUnavailable):
                await self._refresh_at_most_every(MISS_REFRESH_S)
            found = self._valid(digest)
        return found

    def is_valid(self, caller: Caller) -> bool:
        """Whether the caller's token is still valid, according to the cache."""
        if caller.token is None:
            return True
        return caller.token in self._live and not self._is_expired(self._live[caller.token])

    def note_use(self, caller: Caller) -> None:
        if caller.token is not None:
            self._used[caller.token] = time.monotonic()

    async def refresh(self) -> None:
        """Check for changes. Concurrent calls share one query. Raises DatabaseUnavailable."""
        if self._loading is None or self._loading.done():
            self._loading = asyncio.get_running_loop().create_task(self._load())
            self._loading.add_done_callback(_retrieve_error)
        try:
            async with asyncio.timeout(REFRESH_TIMEOUT_S):
                await asyncio.shield(self._loading)
        except TimeoutError:
            raise DatabaseUnavailable("the database does not answer; retry the request") from None

    async def reload(self) -> None:
        """Load a change that this process has committed. Without a database the next check loads it."""
        with suppress(DatabaseUnavailable):
            if self._loading is not None and not self._loading.done():
                # A running query may have begun before the commit.
                await self.refresh()
            await self.refresh()

    @asynccontextmanager
    async def refreshing(self) -> AsyncIterator[None]:
        """Context manager: refresh the cache and store uses of tokens periodically."""
        ended = asyncio.Event()
        with suppress(ServiceError):
            await self.refresh()
        task = asyncio.create_task(self._refresh_periodically(ended))
        try:
            yield
        finally:
            ended.set()
            await task
            await self._save_uses()
            self._thread.shutdown(wait=False)

    async def _refresh_periodically(self, ended: asyncio.Event) -> None:
        saved = time.monotonic()
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(REFRESH_S):
                    await ended.wait()
                    return
            with suppress(ServiceError):
                await self.refresh()
            if time.monotonic() - saved >= USES_S:
                saved = time.monotonic()
                await self._save_uses()

    async def _refresh_at_most_every(self, pause_s: float) -> None:
        """As `refresh`, at most once every `pause_s`. A call within that time waits, or uses the result of another."""
        since = time.monotonic() - max(self._seen, self._failed)
        if since < pause_s and self._failed > self._seen:
            raise DatabaseUnavailable("the database cannot be reached: ask again")
        seen = self._seen
        if since < pause_s:
            await asyncio.sleep(pause_s - since)
        # A concurrent call may have refreshed the cache.
        if self._seen == seen:
            await self.refresh()

    async def _load(self) -> None:
        began = time.monotonic()
        try:
            found = await asyncio.get_running_loop().run_in_executor(self._thread, self._read, self._version)
        except DatabaseUnavailable:
            self._failed = time.monotonic()
            raise
        version, now, tokens = found
        self._now, self._seen = now, began
        if tokens is not None:
            self._callers = {token.digest: (_caller(token), token.expires_at) for token in tokens}
            self._live = {token.id: token.expires_at for token in tokens}
        self._version = version

    def _read(self, known: Version | None) -> tuple[Version, datetime, list[StoredToken] | None]:
        with reading(self._engine) as connection:
            version, now = stored.token_version(connection)
            return version, now, None if version == known else stored.list_live_tokens(connection)

    def _valid(self, digest: str) -> Caller | None:
        found = self._callers.get(digest)
        return None if found is None or self._is_expired(found[1]) else found[0]

    def _is_expired(self, expires_at: datetime | None) -> bool:
        return expires_at is not None and expires_at <= self._time()

    def _time(self) -> datetime:
        return self._now + timedelta(seconds=time.monotonic() - self._seen)

    async def _save_uses(self) -> None:
        used, self._used = self._used, {}
        if not used:
            return
        moments = {token: self._now + timedelta(seconds=at - self._seen) for token, at in used.items()}
        with suppress(ServiceError):
            await self._writer.submit(lambda tx: stored.save_uses(tx.writing(), moments))


def _retrieve_error(task: asyncio.Task[None]) -> None:
    """Mark the error of a task without waiters as retrieved, so that asyncio does not log it."""
    if not task.cancelled():
        task.exception()


def _caller(token: StoredToken) -> Caller:
    return Caller(
        scope=cast("Scope", token.scope), name=token.name, token=token.id, experiment=token.experiment, run=token.run
    )
