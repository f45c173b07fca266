"""Signals between replicas on PostgreSQL that something was committed, by LISTEN and NOTIFY.

A signal has no content and may be lost, so its receivers also poll. It is not sent in the transaction that it
announces, because the commits of all replicas would then wait for each other. It follows a moment later, at most once
in `PAUSE_S`, on a connection of its own.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

from sqlalchemy import Engine

log = logging.getLogger(__name__)

CHANNEL = "remotelr"
# The longest delay of a signal, and the shortest pause between two.
PAUSE_S = 0.1
RECONNECT_S = 2.0


class ReplicaSignals:
    """Sends a signal after this replica's commits, and receives those of the others. On SQLite it does nothing.

    received: called in the event loop after a commit of another replica.
    """

    def __init__(self, engine: Engine, received: Callable[[], None]) -> None:
        _, self._connect_args = engine.dialect.create_connect_args(engine.url)
        self._is_postgresql = engine.dialect.name == "postgresql"
        self._received = received
        self._is_pending = False

    def committed(self) -> None:
        """Send a signal soon; from any thread."""
        self._is_pending = True

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Send and receive signals within this block."""
        if not self._is_postgresql:
            yield
            return
        task = asyncio.create_task(self._run())
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def _run(self) -> None:
        # The import takes longer than the rest of the start, and SQLite does not need it.
        import psycopg  # noqa: PLC0415

        while True:
            try:
                await self._exchange()
            except psycopg.Error as error:
                log.debug("the connection for signals between replicas failed", extra={"error": str(error)})
            await asyncio.sleep(RECONNECT_S)

    async def _exchange(self) -> None:
        from psycopg import AsyncConnection  # noqa: PLC0415  # as above

        connection = await AsyncConnection.connect(
            **{
                **self._connect_args,
                "autocommit": True,
                "prepare_threshold": None,
                "connect_timeout": 2,
                "application_name": "remotelr signals",
            }
        )
        async with connection:
            await connection.execute(f"LISTEN {CHANNEL}")
            # Signals before LISTEN are lost.
            self._received()
            own = connection.info.backend_pid
            while True:
                async for signal in connection.notifies(timeout=PAUSE_S):
                    if signal.pid != own:
                        self._received()
                if self._is_pending:
                    # Reset first: another commit may follow during NOTIFY.
                    self._is_pending = False
                    try:
                        await connection.execute(f"NOTIFY {CHANNEL}")
                    except Exception:
                        self._is_pending = True
                        raise
