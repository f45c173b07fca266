"""Who carries out commands to many runs in this process: those ordered here, and others that are left lying."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import timedelta

from sqlalchemy import Engine

from remotelr_service.db.engine import reading
from remotelr_service.db.queries import bulk_commands
from remotelr_service.db.writer.writer import Writer
from remotelr_service.errors import ServiceError
from remotelr_service.features.bulk.bulk import execute_bulk

log = logging.getLogger(__name__)

# A command that nobody has worked on for so long is left lying, by the database's clock; how often a replica looks.
ABANDONED_S = 3.0
LOOK_S = 1.0
# How often who waits for a command looks whether another replica has finished it.
_POLL_S = 0.2


class BulkExecutor:
    """Carries out commands to many runs, each once in this process; used from its event loop alone."""

    def __init__(self, writer: Writer, engine: Engine, *, abandoned_s: float = ABANDONED_S) -> None:
        self._writer = writer
        self._engine = engine
        self._abandoned = timedelta(seconds=abandoned_s)
        self._work: dict[int, asyncio.Task[None]] = {}

    def begin(self, bulk_id: int) -> None:
        """Carry it out from now on, whoever waits."""
        if bulk_id not in self._work:
            task = asyncio.get_running_loop().create_task(self._carry_out(bulk_id))
            self._work[bulk_id] = task
            task.add_done_callback(lambda _: self._work.pop(bulk_id, None))

    async def wait(self, bulk_id: int, wait_s: float) -> None:
        """Until it is finished, here or by another replica, or `wait_s` are over."""
        with suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                while True:
                    task = self._work.get(bulk_id)
                    if task is not None:
                        # Who waits may go; the work goes on.
                        await asyncio.shield(task)
                    if await asyncio.to_thread(self._is_finished, bulk_id):
                        return
                    await asyncio.sleep(_POLL_S)

    async def take_abandoned(self) -> int | None:
        """Begin with a command that was left lying, and give its number. Raises what the writer does."""
        if not await asyncio.to_thread(self._has_abandoned):
            return None
        bulk_id = await self._writer.submit(lambda tx: bulk_commands.take_abandoned(tx.writing(), self._abandoned))
        if bulk_id is not None:
            log.info("the command %d was left lying: it is carried out here now", bulk_id)
            self.begin(bulk_id)
        return bulk_id

    async def end(self) -> None:
        """Let go of all that is under way: whoever finds it lying goes on."""
        work = list(self._work.values())
        for task in work:
            task.cancel()
        await asyncio.gather(*work, return_exceptions=True)

    async def _carry_out(self, bulk_id: int) -> None:
        try:
            await execute_bulk(self._writer, self._engine, bulk_id)
        except ServiceError as error:
            log.warning("the command %d is left lying, because: %s", bulk_id, error)
        except Exception:
            log.exception("the command %d failed", bulk_id)

    def _has_abandoned(self) -> bool:
        with reading(self._engine) as connection:
            return bulk_commands.has_abandoned(connection, self._abandoned)

    def _is_finished(self, bulk_id: int) -> bool:
        with reading(self._engine) as connection:
            return bulk_commands.is_finished(connection, bulk_id)


@asynccontextmanager
async def bulk_executor(writer: Writer, engine: Engine) -> AsyncIterator[BulkExecutor]:
    """Within this block there is somebody who carries out commands, and looks for those left lying."""
    executor = BulkExecutor(writer, engine)
    looking = asyncio.get_running_loop().create_task(_look_out(executor))
    try:
        yield executor
    finally:
        looking.cancel()
        await asyncio.gather(looking, return_exceptions=True)
        await executor.end()


async def _look_out(executor: BulkExecutor) -> None:
    while True:
        await asyncio.sleep(LOOK_S)
        try:
            while await executor.take_abandoned() is not None:
                pass
        except ServiceError as error:
            log.debug("no look for commands left lying, because: %s", error)
        except Exception:
            # One look that fails must not be the last.
            log.exception("the look for commands left lying failed")
