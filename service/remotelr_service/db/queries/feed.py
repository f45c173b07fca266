"""The feed: the events of all runs in one order, for subscribers that must not miss any.

Within a run the order is that of its log. Across runs it is that of `position`, a number that an event gets in the
transaction that appends it. On PostgreSQL several replicas commit at once, so positions are not committed in order: 7
may be visible before 6, and 6 may never come, because its transaction failed. A subscriber therefore has a `Cursor`:
all positions up to `high`, except the holes below it.

A hole is closed when its event comes, or when no open transaction can fill it. Such a transaction had its id before it
took the position, because every writer first locks or inserts a run. An id that is taken after the hole was seen is
therefore higher. When all transactions below that id have ended, the hole stays empty.

SQLite has one writer. There a missing position was never committed, or its run was deleted.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    Connection,
    Select,
    Table,
    and_,
    cast,
    func,
    literal,
    or_,
    select,
    text,
    true,
)
from sqlalchemy.sql import ColumnElement, FromClause

from remotelr.rules import Event
from remotelr_service.db.rows import Row, event_from_row, from_text, to_text
from remotelr_service.db.tables import events, positions, runs, stalls

Hole = tuple[int, int]

MAX_HOLES = 64
# The holes of a new poller: transactions last for seconds, so their positions are among the newest ones.
LOOKBACK = 20_000

_CURSOR = re.compile(r"(?P<high>[0-9]{1,18})(!(?P<holes>[0-9]{1,18}-[0-9]{1,18}(,[0-9]{1,18}-[0-9]{1,18}){0,63}))?")


@dataclass(frozen=True, slots=True)
class Cursor:
    """The positions that a subscriber has: all up to `high`, except the holes (first, last)."""

    high: int
    holes: tuple[Hole, ...] = ()

    def contains(self, position: int) -> bool:
        return position <= self.high and not any(first <= position <= last for first, last in self.holes)

    def advance(self, position: int, known: "Cursor | None" = None) -> "Cursor":
        """Add a position. The positions skipped below it are a hole, except those that `known` has."""
        if position > self.high:
            between = (self.high + 1, position - 1)
            found = [] if between[0] > between[1] else [between] if known is None else known.open_parts(between)
            return Cursor(position, (*self.holes, *found))
        parts = [part for hole in self.holes for part in _without(hole, position)]
        return Cursor(self.high, tuple(parts))

    def settle(self, other: "Cursor") -> "Cursor":
        """Remove the holes that `other` has closed."""
        if not self.holes:
            return self
        return Cursor(self.high, tuple(part for hole in self.holes for part in other.open_parts(hole)))

    def open_parts(self, hole: Hole) -> list[Hole]:
        """The parts of a hole that this cursor lacks."""
        first, last = hole
        parts = [(max(first, begin), min(last, end)) for begin, end in self.holes]
        parts.append((max(first, self.high + 1), last))
        return [part for part in parts if part[0] <= part[1]]

    def close(self, hole: Hole) -> "Cursor":
        """Remove the rest of the hole."""
        first, last = hole
        return Cursor(self.high, tuple(each for each in self.holes if not first <= each[0] <= each[1] <= last))

    def to_text(self) -> str:
        """The text for `parse`, with the newest `MAX_HOLES` holes; older ones have been waited for."""
        holes = ",".join(f"{first}-{last}" for first, last in self.holes[-MAX_HOLES:])
        return f"{self.high}!{holes}" if holes else str(self.high)

    @classmethod
    def parse(cls, written: str) -> "Cursor | None":
        """The cursor of a text of `to_text`; None for another text."""
        found = _CURSOR.fullmatch(written)
        if found is None:
            return None
        named = (found["holes"] or "").split(",") if found["holes"] else []
        holes = tuple((int(first), int(last)) for first, _, last in (each.partition("-") for each in named))
        return cls(int(found["high"]), holes) if all(first <= last for first, last in holes) else None


@dataclass(frozen=True, slots=True)
class Stall:
    """The trainer stopped reporting after the event `seq`. typical_epoch_s: the usual seconds between two epochs."""

    seq: int
    attempt: int
    epoch: int
    reported_at: datetime
    typical_epoch_s: float


@dataclass(slots=True, kw_only=True, eq=False)
class Entry:
    """An event or a stall of a run. The event is without its state, which is long.

    position: None for events of releases without positions.
    frame: cache for the encoded entry, which goes to many subscribers.
    """

    run_id: int
    run: str
    experiment: str | None
    tags: str
    status: str
    position: int | None
    content: Event | Stall
    created_at: datetime
    frame: bytes | None = None

    @property
    def place(self) -> tuple[int, int]:
        """The position in its run: a stall follows the event of the same seq."""
        return self.content.seq, int(isinstance(self.content, Stall))


_NAMES = {table: [name for name in table.c.keys() if name != "state"] for table in (events, stalls)}  # noqa: SIM118


def list_feed(connection: Connection, cursor: Cursor, limit: int) -> list[Entry]:
    """Up to `limit` entries that `cursor` lacks, in order of position."""
    found: list[Entry] = []
    for table in (events, stalls):
        query = _selection(table).where(_missing(table, cursor)).order_by(table.c.position).limit(limit)
        found += [_entry(table, row) for row in connection.execute(query).mappings()]
    return sorted(found, key=_position)[:limit]


def list_run_entries(connection: Connection, after: Mapping[int, tuple[int, int]], limit: int) -> list[Entry]:
    """Up to `limit` entries of these runs after these places, by run id, in order of run and place."""
    found: list[Entry] = []
    for table in (events, stalls):
        first = {each: seq + (is_stall if table is stalls else 1) for each, (seq, is_stall) in after.items()}
        query = _of_runs(connection, table, first, limit)
        found += [_entry(table, row) for row in connection.execute(query).mappings()]
    return sorted(found, key=lambda entry: (entry.run_id, entry.place))[:limit]


def has_stall(connection: Connection, run_id: int, seq: int) -> bool:
    """Whether the run has a stall after its event `seq`."""
    found = select(stalls.c.seq).where(stalls.c.run_id == run_id, stalls.c.seq == seq)
    return connection.execute(found).first() is not None


def newest_position(connection: Connection) -> int:
    """The highest visible position; 0 if there is none."""
    newest = [
        connection.execute(
            select(table.c.position).where(table.c.position.is_not(None)).order_by(table.c.position.desc()).limit(1)
        ).scalar()
        for table in (events, stalls)
    ]
    return max(position or 0 for position in newest)


def highest_position_taken(connection: Connection) -> int:
    """The highest position ever taken, also by deleted or failed events."""
    if connection.dialect.name == "sqlite":
        last: int = connection.execute(select(positions.c.last)).scalar_one()
        return last
    taken: int = connection.execute(text("SELECT last_value FROM stream_positions")).scalar_one()
    return taken


def list_holes(connection: Connection, high: int) -> tuple[Hole, ...]:
    """The missing positions among the newest `LOOKBACK` up to `high`."""
    lowest = max(high - LOOKBACK, 0)
    there: set[int] = set()
    for table in (events, stalls):
        within = select(table.c.position).where(table.c.position > lowest, table.c.position <= high)
        there.update(connection.execute(within).scalars())
    holes: list[Hole] = []
    for position in range(lowest + 1, high):
        if position in there:
            continue
        if holes and holes[-1][1] == position - 1:
            holes[-1] = (holes[-1][0], position)
        else:
            holes.append((position, position))
    return tuple(holes[-MAX_HOLES:])


def oldest_open_transaction(connection: Connection) -> int | None:
    """The id below which every transaction has ended; None on SQLite."""
    return _transaction_id(connection, "pg_snapshot_xmin(pg_current_snapshot())")


def take_transaction_id(connection: Connection) -> int | None:
    """A new id, above that of every transaction so far; None on SQLite."""
    return _transaction_id(connection, "pg_current_xact_id()")


def _transaction_id(connection: Connection, function: str) -> int | None:
    if connection.dialect.name == "sqlite":
        return None
    return int(connection.execute(text(f"SELECT {function}::text")).scalar_one())


def list_existing(connection: Connection, run_ids: list[int]) -> set[int]:
    """The ids of those runs that exist."""
    return set(connection.execute(select(runs.c.id).where(runs.c.id.in_(run_ids))).scalars())


def tags_of(entry: Entry) -> Mapping[str, str]:
    tags: dict[str, str] = from_text(entry.tags)
    return tags


def _selection(table: Table, rows: FromClause | None = None, beside: FromClause | None = None) -> Select[Any]:
    """A SELECT of entries from the table, or from `rows`, joined laterally to `beside` if given."""
    source = table if rows is None else rows
    named = [source.c[name] for name in _NAMES[table]]
    run = (runs.c.key.label("run_key"), runs.c.experiment, runs.c.tags, runs.c.status)
    found = source if beside is None else beside.join(source, true())
    return select(*named, *run).select_from(found.join(runs, runs.c.id == source.c.run_id))


def _of_runs(connection: Connection, table: Table, first: Mapping[int, int], limit: int) -> Select[Any]:
    """The rows of these runs with a seq of at least `first`, up to `limit` of each run."""
    if len(first) == 1:
        # A long log is read in the order of its index.
        ((run_id, seq),) = first.items()
        of_one = _selection(table).where(table.c.run_id == run_id, table.c.seq >= seq)
        return of_one.order_by(table.c.seq).limit(limit)
    # One JSON parameter: the statement is the same for every number of runs.
    document = func.json(literal(to_text({str(run_id): seq for run_id, seq in first.items()})))
    is_sqlite = connection.dialect.name == "sqlite"
    members = func.json_each if is_sqlite else func.json_each_text
    requested = members(document).table_valued("key", "value")
    run, least = (cast(column, BigInteger) for column in (requested.c.key, requested.c.value))
    is_requested = and_(table.c.run_id == run, table.c.seq >= least)
    if is_sqlite:
        return _selection(table).join(requested, is_requested).order_by(table.c.run_id, table.c.seq).limit(limit)
    # LATERAL, or PostgreSQL may read the whole log of each run to have it in order.
    later = select(table).where(is_requested).order_by(table.c.seq).limit(limit).correlate(requested).lateral()
    return _selection(table, later, requested)


def _missing(table: Table, cursor: Cursor) -> ColumnElement[bool]:
    # The first condition bounds the index scan, which would else read the whole index.
    lowest = min((first - 1 for first, _ in cursor.holes), default=cursor.high)
    holes = [table.c.position.between(first, last) for first, last in cursor.holes]
    return and_(table.c.position > min(lowest, cursor.high), or_(table.c.position > cursor.high, *holes))


def _entry(table: Table, row: Row) -> Entry:
    content: Event | Stall
    if table is events:
        content = event_from_row(row["run_key"], {**row, "state": None})
    else:
        content = Stall(row["seq"], row["attempt"], row["epoch"], row["reported_at"], row["typical_epoch_s"])
    return Entry(
        run_id=row["run_id"],
        run=row["run_key"],
        experiment=row["experiment"],
        tags=row["tags"],
        status=row["status"],
        position=row["position"],
        content=content,
        created_at=row["created_at"],
    )


def _position(entry: Entry) -> int:
    assert entry.position is not None
    return entry.position


def _without(hole: Hole, position: int) -> list[Hole]:
    first, last = hole
    if not first <= position <= last:
        return [hole]
    return [part for part in ((first, position - 1), (position + 1, last)) if part[0] <= part[1]]
