"""Between replicas on PostgreSQL: "something was committed", by LISTEN and NOTIFY.

A signal says no more than to look, and may be lost: whoever waits for one looks once in a while all the same. It is
not sent in the transaction it tells of, which would make the commits of all replicas wait for each other, but a moment
later and at most a few times a second, by the one connection a process has for it.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

from sqlalchemy import Engine

log = logging.getLogger(__name__)

CHANNEL = "remotelr"
# A signal goes out so long after its commit at most, and another one not before.
PAUSE_S = 0.1
TRY_AGAIN_S = 2.0


class ReplicaSignals:
    """Tells the other replicas of our commits, and us of theirs. On SQLite there are no others, and it does nothing.

    heard: called in the event loop when another replica has committed something.
    """

    def __init__(self, engine: Engine, heard: Callable[[], None]) -> None:
        self._url = engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
        self._is_postgresql = engine.dialect.name == "postgresql"
        self._heard = heard
        self._has_news = False

    def committed(self) -> None:
        """Something was committed here; from any thread."""
        self._has_news = True

    @asynccontextmanager
    async def kept(self) -> AsyncIterator[None]:
        """Within this block signals go out and come in."""
        if not self._is_postgresql:
            yield
            return
        talking = asyncio.create_task(self._talk())
        try:
            yield
        finally:
            talking.cancel()
            with suppress(asyncio.CancelledError):
                await talking

    async def _talk(self) -> None:
        # Importing it takes longer than all the rest of a start, and SQLite has no use for it.
        import psycopg  # noqa: PLC0415

        while True:
            try:
                await self._listen()
            except psycopg.Error as error:
                log.debug("no signals from other replicas, because: %s", error)
            await asyncio.sleep(TRY_AGAIN_S)

    async def _listen(self) -> None:
        from psycopg import AsyncConnection  # noqa: PLC0415  # as above

        connection = await AsyncConnection.connect(
            self._url, autocommit=True, prepare_threshold=None, connect_timeout=2, application_name="remotelr signals"
        )
        async with connection:
            await connection.execute(f"LISTEN {CHANNEL}")
            # Nobody knows what was missed before.
            self._heard()
            own = connection.info.backend_pid
            while True:
                async for signal in connection.notifies(timeout=PAUSE_S):
                    if signal.pid != own:
                        self._heard()
                if self._has_news:
                    # First, for more may be committed while it is said.
                    self._has_news = False
                    try:
                        await connection.execute(f"NOTIFY {CHANNEL}")
                    except Exception:
                        self._has_news = True
                        raise
