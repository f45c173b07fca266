"""The context of the actions: database, writer, waiters, metrics and streams of one process."""

from dataclasses import dataclass
from typing import Self

from sqlalchemy import Engine

from remotelr_service.db.engine import Database, open_database
from remotelr_service.db.writer.writer import Writer
from remotelr_service.evaluation.evaluator import Evaluator
from remotelr_service.live.hub import Streams
from remotelr_service.live.waiters import RunWaiters
from remotelr_service.metrics import Metrics


@dataclass(frozen=True, slots=True)
class Context:
    """Opened when the service starts, closed when it stops."""

    database: Database
    writer: Writer
    waiters: RunWaiters
    metrics: Metrics
    streams: Streams
    evaluator: Evaluator

    @property
    def reads(self) -> Engine:
        return self.database.reads

    @classmethod
    def open(cls, url: str) -> Self:
        """Open the database at `url` and start the writer. Raises what `open_database` raises."""
        database = open_database(url)
        waiters, streams = RunWaiters(database.reads), Streams(database.reads)
        metrics = Metrics()

        def committed(keys: frozenset[str]) -> None:
            waiters.publish(keys)
            streams.committed(keys)

        writer = Writer(
            database.writes, threads=database.write_connections, committed=committed, measured=metrics.group
        )
        metrics.watch("remotelr_writer_queue_length", "Actions that wait to be written.", lambda: writer.waiting)
        metrics.watch("remotelr_writer_failing", "1 while writing fails.", lambda: writer.failing is not None)
        metrics.watch("remotelr_streams", "Streams that are open.", lambda: streams.count)
        writer.start()
        return cls(database, writer, waiters, metrics, streams, Evaluator())

    def close(self) -> None:
        """Commit the queued actions, then close the database."""
        self.writer.close()
        self.database.close()
