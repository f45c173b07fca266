"""The tokens as this process knows them: all of them in memory, so that letting somebody in asks no database.

A task looks every `REFRESH_S` whether any was added or revoked, which is one short query, and only then reads them.
Nobody is let in by what was seen longer than `MAX_AGE_S` ago, so a revoked token is refused within that time by every
process, whatever has become of its task. One that is not known here may have been made by another replica a moment
ago: then it is looked once more, and not more often than every `MISS_REFRESH_S`, however many ask with wrong ones.
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
# Who asks is not kept waiting longer for a database that does not answer: it may have been paused.
REFRESH_TIMEOUT_S = 2.0
# When a token was last used is told to the minute.
USES_S = 60.0


class TokenCache:
    """Who has which token. Used from one event loop.

    engine: `Database.reads`. writer: to note when tokens were used.
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
        # A thread of its own: the others may all be busy reading for whoever is in already.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="remotelr-tokens")

    @property
    def has_tokens(self) -> bool:
        """Whether there ever was one: then nobody gets in without."""
        return self._version is not None and self._version.added > 0

    async def ensure_fresh(self) -> None:
        """What is known here is known to be true. Raises DatabaseUnavailable."""
        if time.monotonic() - self._seen > MAX_AGE_S:
            await self._refresh_at_most_every(MISS_REFRESH_S)

    async def find(self, digest: str, *, patient: bool) -> Caller | None:
        """Whose token this is; None for one that is not known, revoked or expired. Raises DatabaseUnavailable.

        patient: look again when it is not known, in case it is new.
        """
        await self.ensure_fresh()
        found = self._valid(digest)
        if found is None and patient:
            with suppress(DatabaseUnavailable):
                await self._refresh_at_most_every(MISS_REFRESH_S)
            found = self._valid(digest)
        return found

    def is_valid(self, caller: Caller) -> bool:
        """Whether the token that let `caller` in is still good, as far as is known."""
        if caller.token is None:
            return True
        return caller.token in self._live and not self._is_over(self._live[caller.token])

    def note_use(self, caller: Caller) -> None:
        if caller.token is not None:
            self._used[caller.token] = time.monotonic()

    async def refresh(self) -> None:
        """See what there is now. Several who ask at once share one look. Raises DatabaseUnavailable."""
        if self._loading is None or self._loading.done():
            self._loading = asyncio.get_running_loop().create_task(self._load())
            self._loading.add_done_callback(_heard)
        try:
            async with asyncio.timeout(REFRESH_TIMEOUT_S):
                await asyncio.shield(self._loading)
        except TimeoutError:
            raise DatabaseUnavailable("the database does not answer: ask again") from None

    async def reload(self) -> None:
        """See what was just committed here. Where the database is away by now, the next look sees it."""
        with suppress(DatabaseUnavailable):
            if self._loading is not None and not self._loading.done():
                # It may have begun before the commit.
                await self.refresh()
            await self.refresh()

    @asynccontextmanager
    async def refreshing(self) -> AsyncIterator[None]:
        """Within this block it is looked every now and then, and uses are noted."""
        ended = asyncio.Event()
        with suppress(ServiceError):
            await self.refresh()
        keeping = asyncio.create_task(self._refresh_periodically(ended))
        try:
            yield
        finally:
            ended.set()
            await keeping
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
        """As `look`; who comes soon after the last one waits, or is told what came of it."""
        since = time.monotonic() - max(self._seen, self._failed)
        if since < pause_s and self._failed > self._seen:
            raise DatabaseUnavailable("the database cannot be reached: ask again")
        seen = self._seen
        if since < pause_s:
            await asyncio.sleep(pause_s - since)
        # Whoever waited beside us may have looked for all.
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
        return None if found is None or self._is_over(found[1]) else found[0]

    def _is_over(self, expires_at: datetime | None) -> bool:
        return expires_at is not None and expires_at <= self._time()

    def _time(self) -> datetime:
        """Now, by the database's clock."""
        return self._now + timedelta(seconds=time.monotonic() - self._seen)

    async def _save_uses(self) -> None:
        used, self._used = self._used, {}
        if not used:
            return
        moments = {token: self._now + timedelta(seconds=at - self._seen) for token, at in used.items()}
        with suppress(ServiceError):
            await self._writer.submit(lambda tx: stored.save_uses(tx.writing(), moments))


def _heard(looking: asyncio.Task[None]) -> None:
    """What came of a look that nobody waits for any more is no news."""
    if not looking.cancelled():
        looking.exception()


def _caller(token: StoredToken) -> Caller:
    return Caller(
        scope=cast("Scope", token.scope), name=token.name, token=token.id, experiment=token.experiment, run=token.run
    )
