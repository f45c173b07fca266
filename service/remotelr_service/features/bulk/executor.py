"""Executes bulk commands in this process: those sent to it, and abandoned ones of other processes."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from functools import partial

from sqlalchemy import Engine

from remotelr_service.db.engine import run_query
from remotelr_service.db.queries import bulk_commands
from remotelr_service.db.writer.writer import Writer
from remotelr_service.errors import ServiceError
from remotelr_service.features.bulk.bulk import execute_bulk

log = logging.getLogger(__name__)

# Seconds without progress after which a command is abandoned, by the database's clock; the interval of the check.
ABANDONED_S = 3.0
CHECK_S = 1.0
# The interval in which a waiting request checks if another replica has finished its command.
_POLL_S = 0.2


class BulkExecutor:
    """Executes each bulk command once in this process. Not thread-safe: use it in the event loop."""

    def __init__(self, writer: Writer, engine: Engine, *, abandoned_s: float = ABANDONED_S) -> None:
        self._writer = writer
        self._engine = engine
        self._abandoned = timedelta(seconds=abandoned_s)
        self._work: dict[int, asyncio.Task[None]] = {}

    def begin(self, bulk_id: int) -> None:
        """Start a task that executes the command."""
        if bulk_id not in self._work:
            task = asyncio.get_running_loop().create_task(self._execute(bulk_id))
            self._work[bulk_id] = task
            task.add_done_callback(lambda _: self._work.pop(bulk_id, None))

    async def wait(self, bulk_id: int, wait_s: float) -> None:
        """Wait up to `wait_s` seconds until any replica has finished the command."""
        with suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                while True:
                    task = self._work.get(bulk_id)
                    if task is not None:
                        # A disconnected caller must not cancel the execution.
                        await asyncio.shield(task)
                    if await run_query(self._engine, partial(bulk_commands.is_finished, bulk_id=bulk_id)):
                        return
                    await asyncio.sleep(_POLL_S)

    async def take_abandoned(self) -> int | None:
        """Start to execute an abandoned command. Returns: its id, or None. Raises what the writer raises."""
        if not await run_query(self._engine, partial(bulk_commands.has_abandoned, after=self._abandoned)):
            return None
        bulk_id = await self._writer.submit(lambda tx: bulk_commands.take_abandoned(tx.writing(), self._abandoned))
        if bulk_id is not None:
            log.info("the abandoned bulk command is executed here now", extra={"bulk": bulk_id})
            self.begin(bulk_id)
        return bulk_id

    async def end(self) -> None:
        """Cancel all executions. Another replica, or the next start, continues them."""
        work = list(self._work.values())
        for task in work:
            task.cancel()
        await asyncio.gather(*work, return_exceptions=True)

    async def _execute(self, bulk_id: int) -> None:
        try:
            await execute_bulk(self._writer, self._engine, bulk_id)
        except ServiceError as error:
            log.warning("the bulk command is abandoned", extra={"bulk": bulk_id, "error": str(error)})
        except Exception:
            log.exception("the bulk command failed", extra={"bulk": bulk_id})


@asynccontextmanager
async def bulk_executor(writer: Writer, engine: Engine) -> AsyncIterator[BulkExecutor]:
    """Context manager: an executor that also checks for abandoned commands."""
    executor = BulkExecutor(writer, engine)
    task = asyncio.get_running_loop().create_task(_check_periodically(executor))
    try:
        yield executor
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await executor.end()


async def _check_periodically(executor: BulkExecutor) -> None:
    while True:
        await asyncio.sleep(CHECK_S)
        try:
            while await executor.take_abandoned() is not None:
                pass
        except ServiceError as error:
            log.debug("the check for abandoned bulk commands failed", extra={"error": str(error)})
        except Exception:
            log.exception("the check for abandoned bulk commands failed")
