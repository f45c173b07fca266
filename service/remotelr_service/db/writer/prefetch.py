"""Reads the log lookups of all reports of a transaction in one statement.

Most reports need none: the next report of a single trainer cannot be stored yet. After a slow transaction, all
trainers send their last report again; and all ranks of a run report one point at once. With one statement for each
report, the transaction would hold the locks for longer than the trainers' timeout, and they would retry for ever.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection

from remotelr_service.db import driver
from remotelr_service.db.rows import Row, to_text
from remotelr_service.db.tables import IS_DECIDED, IS_REPORT, events

# Epoch and rank of a report.
Point = tuple[int, int]


def list_reported(connection: Connection, points: Mapping[int, Collection[Point]]) -> list[Row]:
    """The events that report these points or decide their epochs. points: by run id."""
    reported = [(run_id, *point) for run_id, of_run in points.items() for point in of_run]
    decided = list(dict.fromkeys((run_id, epoch) for run_id, epoch, _ in reported))
    parameters = (*_parameters(connection, reported, 3), *_parameters(connection, decided, 2))
    found = driver.fetch(connection, _READ[connection.dialect.name], parameters)
    return [dict(zip(_NAMES, values, strict=True)) for values in found]


def list_counts(connection: Connection, epochs: Mapping[int, Collection[int]]) -> list[tuple[int, int, int]]:
    """(run id, epoch, number of ranks that have reported it). epochs: by run id."""
    rows = [(run_id, epoch) for run_id, of_run in epochs.items() for epoch in of_run]
    found: list[Any] = driver.fetch(connection, _COUNT[connection.dialect.name], _parameters(connection, rows, 2))
    return found


def _parameters(connection: Connection, rows: Sequence[tuple[int, ...]], width: int) -> list[Any]:
    if connection.dialect.name == "postgresql":
        return [[row[index] for row in rows] for index in range(width)]
    return [to_text(rows)]


def _requested(dialect: str, *names: str) -> str:
    """The table of `_parameters`, with these columns."""
    if dialect == "postgresql":
        return f"unnest({', '.join('%s::bigint[]' for _ in names)}) AS requested({', '.join(names)})"
    columns = ", ".join(f"json_extract(value, '$[{index}]') AS {name}" for index, name in enumerate(names))
    return f"(SELECT {columns} FROM json_each(?)) AS requested"  # noqa: S608


_NAMES = tuple(events.c.keys())
_COLUMNS = ", ".join(f"events.{name}" for name in _NAMES)
_OF_POINT = "events.run_id = requested.run_id AND events.epoch = requested.epoch AND superseded_by IS NULL"


def _read(dialect: str) -> str:
    # CROSS JOIN fixes the order on SQLite: each requested row is found by the indexes `uq_events_report` and
    # `uq_events_decision`, which have these conditions.
    return (
        f"SELECT {_COLUMNS} FROM {_requested(dialect, 'run_id', 'epoch', 'rank')} CROSS JOIN events "  # noqa: S608  # constant names
        f"WHERE {_OF_POINT} AND events.rank = requested.rank AND {IS_REPORT} AND learning_rate IS NULL "
        f"UNION ALL SELECT {_COLUMNS} FROM {_requested(dialect, 'run_id', 'epoch')} CROSS JOIN events "
        f"WHERE {_OF_POINT} AND {IS_DECIDED}"
    )


def _count(dialect: str) -> str:
    return (
        f"SELECT run_id, epoch, (SELECT count(*) FROM events WHERE {_OF_POINT} AND {IS_REPORT}) "  # noqa: S608
        f"FROM {_requested(dialect, 'run_id', 'epoch')}"
    )


_READ = {dialect: _read(dialect) for dialect in ("postgresql", "sqlite")}
_COUNT = {dialect: _count(dialect) for dialect in ("postgresql", "sqlite")}
