"""What the reports of one transaction will ask the logs of their runs for, read in one statement.

Most ask nothing: the next epoch of a lone trainer cannot be stored yet. But when the database was slow, all trainers
send their last report again, and all ranks of a run ask for one point at once. With a statement for each of them, the
transaction would hold their runs for longer than they wait for an answer, and they would ask again, for ever.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection

from remotelr.rules import Event
from remotelr_service.db import driver
from remotelr_service.db.rows import event_from_row, to_text
from remotelr_service.db.store import Head
from remotelr_service.db.tables import events

# What a report is about: its epoch and its rank.
Point = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Ahead:
    """What was asked for of one run, as far as it is stored and counts.

    reports: by epoch and rank. decided: the events that decided these points, by epoch.
    """

    reports: dict[Point, Event] = field(default_factory=dict)
    decided: dict[int, Event] = field(default_factory=dict)


def read_ahead(connection: Connection, asked: Mapping[str, tuple[Head, Collection[Point]]]) -> dict[str, Ahead]:
    """What is stored of these reports, by the keys of their runs, in one statement."""
    keys = {head.id: key for key, (head, _) in asked.items()}
    reports = [(head.id, *point) for head, points in asked.values() for point in points]
    decided = {(head.id, epoch) for head, points in asked.values() for epoch, _ in points if epoch < head.run.epoch}
    parameters = (_documents(_REPORT, reports), _documents(_DECIDED, decided))
    ahead = {key: Ahead() for key in asked}
    known: dict[tuple[int, int], Event] = {}
    for of, *values in driver.fetch(connection, _STATEMENTS[connection.dialect.name], parameters):
        row: dict[str, Any] = dict(zip(_COLUMNS, values, strict=True))
        key, identity = keys[row["run_id"]], (row["run_id"], row["seq"])
        # A lone trainer's report is found twice: it decided its point.
        event = known[identity] = known.get(identity) or event_from_row(key, row)
        if of == "report":
            ahead[key].reports[row["epoch"], row["rank"]] = event
        else:
            ahead[key].decided[row["epoch"]] = event
    return ahead


def _documents(names: tuple[str, ...], rows: Collection[tuple[int, ...]]) -> str:
    return to_text([dict(zip(names, row, strict=True)) for row in rows])


_REPORT, _DECIDED = ("run_id", "epoch", "rank"), ("run_id", "epoch")
_COLUMNS = tuple(events.c.keys())


def _statement(dialect: str) -> str:
    """The reports asked for, and the events that decided their points, each by the index that keeps it single."""
    names = ", ".join(f"events.{name}" for name in _COLUMNS)
    return (
        f"SELECT 'report', {names} FROM {_asked(dialect, _REPORT)} "  # noqa: S608  # names of our tables
        f"WHERE kind = 'report' AND superseded_by IS NULL "
        f"UNION ALL SELECT 'decided', {names} FROM {_asked(dialect, _DECIDED)} "
        f"WHERE kind IN ('report', 'closing') AND learning_rate IS NOT NULL AND superseded_by IS NULL"
    )


def _asked(dialect: str, names: tuple[str, ...]) -> str:
    """The events with these values of these columns, given as a JSON document."""
    if dialect == "postgresql":
        typed = ", ".join(f"{name} bigint" for name in names)
        same = " AND ".join(f"events.{name} = asked.{name}" for name in names)
        return f"json_to_recordset(%s) AS asked({typed}) JOIN events ON {same}"
    same = " AND ".join(f"events.{name} = json_extract(asked.value, '$.{name}')" for name in names)
    # CROSS: what is asked for comes first, and each is looked up. SQLite does not change that order.
    return f"json_each(?) AS asked CROSS JOIN events ON {same}"


_STATEMENTS = {dialect: _statement(dialect) for dialect in ("postgresql", "sqlite")}
