"""The feed: what happens to all runs, in one order, for those who follow it live and must not miss anything.

Within a run the order is that of its log. Among runs it is that of `position`, a number that every event gets in the
transaction that appends it. On PostgreSQL several replicas commit at once, and numbers are not committed in their
order: 7 may be seen before 6, and 6 may never come, because its transaction failed. So whoever follows the feed does
not remember how far they are, but what they have: a `Cursor`, all up to a position but for the holes below it.

A hole is closed when its event comes, or when no transaction is left that could bring it. That one had a transaction
id before it took its number, because every writer locks or inserts the head of a run first. So an id taken after the
hole was seen is above it, and when all transactions below that id are over, the hole stays empty.

SQLite has one writer. There a position that is missing was never committed, or its run was deleted.
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
# At a start nobody knows the holes. Transactions last for seconds: theirs are among the newest so many.
LOOKBACK = 20_000

_CURSOR = re.compile(r"(?P<high>[0-9]{1,18})(!(?P<holes>[0-9]{1,18}-[0-9]{1,18}(,[0-9]{1,18}-[0-9]{1,18}){0,63}))?")


@dataclass(frozen=True, slots=True)
class Cursor:
    """What of the feed somebody has: all up to `high`, but for what may still come in the holes (first, last)."""

    high: int
    holes: tuple[Hole, ...] = ()

    def has(self, position: int) -> bool:
        return position <= self.high and not any(first <= position <= last for first, last in self.holes)

    def passed(self, position: int, known: "Cursor | None" = None) -> "Cursor":
        """With one position more. What lies between it and all before is a hole, as far as `known` has not seen it."""
        if position > self.high:
            between = (self.high + 1, position - 1)
            found = [] if between[0] > between[1] else [between] if known is None else known.still_open(between)
            return Cursor(position, (*self.holes, *found))
        parts = [part for hole in self.holes for part in _without(hole, position)]
        return Cursor(self.high, tuple(parts))

    def settled_by(self, other: "Cursor") -> "Cursor":
        """Without the holes in which nothing will come, as another one knows that has seen all up to its own `high`."""
        if not self.holes:
            return self
        return Cursor(self.high, tuple(part for hole in self.holes for part in other.still_open(hole)))

    def still_open(self, hole: Hole) -> list[Hole]:
        """The parts of a hole in which, as far as this one knows, something may come."""
        first, last = hole
        parts = [(max(first, begin), min(last, end)) for begin, end in self.holes]
        parts.append((max(first, self.high + 1), last))
        return [part for part in parts if part[0] <= part[1]]

    def closed(self, hole: Hole) -> "Cursor":
        """Without what is left of that hole."""
        first, last = hole
        return Cursor(self.high, tuple(each for each in self.holes if not first <= each[0] <= each[1] <= last))

    def written(self) -> str:
        """As `read` reads it. Of many holes the newest: the others have been waited for long enough."""
        holes = ",".join(f"{first}-{last}" for first, last in self.holes[-MAX_HOLES:])
        return f"{self.high}!{holes}" if holes else str(self.high)

    @classmethod
    def read(cls, written: str) -> "Cursor | None":
        """The cursor that was written like this; None for what is none."""
        found = _CURSOR.fullmatch(written)
        if found is None:
            return None
        named = (found["holes"] or "").split(",") if found["holes"] else []
        holes = tuple((int(first), int(last)) for first, _, last in (each.partition("-") for each in named))
        return cls(int(found["high"]), holes) if all(first <= last for first, last in holes) else None


@dataclass(frozen=True, slots=True)
class Stall:
    """A run fell silent behind its event `seq`. typical_epoch_s: the usual seconds between two epochs."""

    seq: int
    attempt: int
    epoch: int
    reported_at: datetime
    typical_epoch_s: float


@dataclass(slots=True, kw_only=True, eq=False)
class Entry:
    """One thing that happened to a run. The event comes without its state, which is long.

    position: None for events from before there were positions.
    frame: for who sends the same to many, and makes it once.
    """

    run_id: int
    run: str
    experiment: str | None
    tags: str
    status: str
    position: int | None
    what: Event | Stall
    created_at: datetime
    frame: bytes | None = None

    @property
    def place(self) -> tuple[int, int]:
        """Where it stands in its run: a stall stands behind the event of the same number."""
        return self.what.seq, int(isinstance(self.what, Stall))


# What an entry is made of.
_NAMES = {table: [name for name in table.c.keys() if name != "state"] for table in (events, stalls)}  # noqa: SIM118


def list_feed(connection: Connection, cursor: Cursor, limit: int) -> list[Entry]:
    """Up to `limit` entries that `cursor` has not, in order of their positions."""
    found: list[Entry] = []
    for table in (events, stalls):
        query = _selection(table).where(_missing(table, cursor)).order_by(table.c.position).limit(limit)
        found += [_entry(table, row) for row in connection.execute(query).mappings()]
    return sorted(found, key=_position)[:limit]


def list_of_runs(connection: Connection, behind: Mapping[int, tuple[int, int]], limit: int) -> list[Entry]:
    """Up to `limit` entries of these runs (by id) that stand behind these places, run by run and in their order."""
    found: list[Entry] = []
    for table in (events, stalls):
        first = {each: seq + (is_stall if table is stalls else 1) for each, (seq, is_stall) in behind.items()}
        query = _of_runs(connection, table, first, limit)
        found += [_entry(table, row) for row in connection.execute(query).mappings()]
    return sorted(found, key=lambda entry: (entry.run_id, entry.place))[:limit]


def has_stall(connection: Connection, run_id: int, seq: int) -> bool:
    """Whether the run fell silent behind its event `seq`."""
    found = select(stalls.c.seq).where(stalls.c.run_id == run_id, stalls.c.seq == seq)
    return connection.execute(found).first() is not None


def newest_position(connection: Connection) -> int:
    """The highest position that is to be seen; 0 when there is none."""
    newest = [
        connection.execute(
            select(table.c.position).where(table.c.position.is_not(None)).order_by(table.c.position.desc()).limit(1)
        ).scalar()
        for table in (events, stalls)
    ]
    return max(position or 0 for position in newest)


def handed_out(connection: Connection) -> int:
    """The highest position that was ever taken, also by what is gone."""
    if connection.dialect.name == "sqlite":
        last: int = connection.execute(select(positions.c.last)).scalar_one()
        return last
    taken: int = connection.execute(text("SELECT last_value FROM stream_positions")).scalar_one()
    return taken


def holes_below(connection: Connection, high: int) -> tuple[Hole, ...]:
    """What is missing among the newest positions up to `high`."""
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


def oldest_running(connection: Connection) -> int | None:
    """The id below which every transaction is over; None on SQLite, where none runs but ours."""
    if connection.dialect.name == "sqlite":
        return None
    found: int = connection.execute(text("SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint")).scalar_one()
    return found


def take_transaction_id(connection: Connection) -> int | None:
    """An id above that of every transaction that has one; None on SQLite."""
    if connection.dialect.name == "sqlite":
        return None
    found: int = connection.execute(text("SELECT pg_current_xact_id()::text::bigint")).scalar_one()
    return found


def list_present(connection: Connection, run_ids: list[int]) -> set[int]:
    """Those of these runs that are still there."""
    return set(connection.execute(select(runs.c.id).where(runs.c.id.in_(run_ids))).scalars())


def tags_of(entry: Entry) -> Mapping[str, str]:
    tags: dict[str, str] = from_text(entry.tags)
    return tags


def _selection(table: Table, rows: FromClause | None = None, beside: FromClause | None = None) -> Select[Any]:
    """What entries are made of: from all rows of the table, or from these, which are found for each row beside."""
    source = table if rows is None else rows
    named = [source.c[name] for name in _NAMES[table]]
    run = (runs.c.key.label("run_key"), runs.c.experiment, runs.c.tags, runs.c.status)
    found = source if beside is None else beside.join(source, true())
    return select(*named, *run).select_from(found.join(runs, runs.c.id == source.c.run_id))


def _of_runs(connection: Connection, table: Table, first: Mapping[int, int], limit: int) -> Select[Any]:
    """The rows of these runs from these numbers on, up to `limit` of each run."""
    if len(first) == 1:
        # It may be long, and is read in the order of its index.
        ((run_id, seq),) = first.items()
        of_one = _selection(table).where(table.c.run_id == run_id, table.c.seq >= seq)
        return of_one.order_by(table.c.seq).limit(limit)
    # As a document: the statement is the same for however many.
    document = func.json(literal(to_text({str(run_id): seq for run_id, seq in first.items()})))
    is_sqlite = connection.dialect.name == "sqlite"
    members = func.json_each if is_sqlite else func.json_each_text
    wanted = members(document).table_valued("key", "value")
    run, least = (cast(column, BigInteger) for column in (wanted.c.key, wanted.c.value))
    is_wanted = and_(table.c.run_id == run, table.c.seq >= least)
    if is_sqlite:
        return _selection(table).join(wanted, is_wanted).order_by(table.c.run_id, table.c.seq).limit(limit)
    # LATERAL, or PostgreSQL may read the whole log of each run to have it in order.
    behind = select(table).where(is_wanted).order_by(table.c.seq).limit(limit).correlate(wanted).lateral()
    return _selection(table, behind, wanted)


def _missing(table: Table, cursor: Cursor) -> ColumnElement[bool]:
    # The first condition is for the index: the second would have it read from its beginning.
    lowest = min((first - 1 for first, _ in cursor.holes), default=cursor.high)
    holes = [table.c.position.between(first, last) for first, last in cursor.holes]
    return and_(table.c.position > min(lowest, cursor.high), or_(table.c.position > cursor.high, *holes))


def _entry(table: Table, row: Row) -> Entry:
    what: Event | Stall
    if table is events:
        what = event_from_row(row["run_key"], {**row, "state": None})
    else:
        what = Stall(row["seq"], row["attempt"], row["epoch"], row["reported_at"], row["typical_epoch_s"])
    return Entry(
        run_id=row["run_id"],
        run=row["run_key"],
        experiment=row["experiment"],
        tags=row["tags"],
        status=row["status"],
        position=row["position"],
        what=what,
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
