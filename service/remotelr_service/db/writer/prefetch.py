"""What the reports of one transaction will ask the logs of their runs, asked for all of them at once.

Most ask nothing: what a lone trainer reports next cannot be stored yet. But when the database was slow, all trainers
send their last report again, and all ranks of a run ask for one point at once. With a statement for each of them, the
transaction would hold their runs for longer than they wait for an answer, and they would ask again, for ever.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection

from remotelr_service.db import driver
from remotelr_service.db.rows import Row, to_text
from remotelr_service.db.tables import IS_DECIDED, IS_REPORT, events

# What a report is about: its epoch and its rank.
Point = tuple[int, int]


def list_reported(connection: Connection, asked: Mapping[int, Collection[Point]]) -> list[Row]:
    """The events in which these points of these runs, by their ids, were reported, and those that decided them."""
    points = [(run_id, *point) for run_id, of_run in asked.items() for point in of_run]
    epochs = list(dict.fromkeys((run_id, epoch) for run_id, epoch, _ in points))
    given = (*_parameters(connection, points, 3), *_parameters(connection, epochs, 2))
    found = driver.fetch(connection, _READ[connection.dialect.name], given)
    return [dict(zip(_NAMES, values, strict=True)) for values in found]


def list_counts(connection: Connection, asked: Mapping[int, Collection[int]]) -> list[tuple[int, int, int]]:
    """The run, the epoch, and how many ranks have reported it, for these epochs of these runs, by their ids."""
    epochs = [(run_id, epoch) for run_id, of_run in asked.items() for epoch in of_run]
    found: list[Any] = driver.fetch(connection, _COUNT[connection.dialect.name], _parameters(connection, epochs, 2))
    return found


def _parameters(connection: Connection, rows: Sequence[tuple[int, ...]], width: int) -> list[Any]:
    if connection.dialect.name == "postgresql":
        return [[row[place] for row in rows] for place in range(width)]
    return [to_text(rows)]


def _asked(dialect: str, *names: str) -> str:
    """The table of what is asked for, out of `_parameters`."""
    if dialect == "postgresql":
        return f"unnest({', '.join('%s::bigint[]' for _ in names)}) AS asked({', '.join(names)})"
    columns = ", ".join(f"json_extract(value, '$[{place}]') AS {name}" for place, name in enumerate(names))
    return f"(SELECT {columns} FROM json_each(?)) AS asked"  # noqa: S608


_NAMES = tuple(events.c.keys())
_COLUMNS = ", ".join(f"events.{name}" for name in _NAMES)
_OF_POINT = "events.run_id = asked.run_id AND events.epoch = asked.epoch AND superseded_by IS NULL"


def _read(dialect: str) -> str:
    # CROSS JOIN: what is asked for comes first, and SQLite keeps to that order. Each is looked up by the indexes
    # `uq_events_report` and `uq_events_decision`, whose conditions these are.
    return (
        f"SELECT {_COLUMNS} FROM {_asked(dialect, 'run_id', 'epoch', 'rank')} CROSS JOIN events "  # noqa: S608  # no names but our own
        f"WHERE {_OF_POINT} AND events.rank = asked.rank AND {IS_REPORT} AND learning_rate IS NULL "
        f"UNION ALL SELECT {_COLUMNS} FROM {_asked(dialect, 'run_id', 'epoch')} CROSS JOIN events "
        f"WHERE {_OF_POINT} AND {IS_DECIDED}"
    )


def _count(dialect: str) -> str:
    return (
        f"SELECT run_id, epoch, (SELECT count(*) FROM events WHERE {_OF_POINT} AND {IS_REPORT}) "  # noqa: S608
        f"FROM {_asked(dialect, 'run_id', 'epoch')}"
    )


_READ = {dialect: _read(dialect) for dialect in ("postgresql", "sqlite")}
_COUNT = {dialect: _count(dialect) for dialect in ("postgresql", "sqlite")}
