"""The tables: columns, constraints, indexes. The rules are kept by `remotelr.rules`; where a constraint can
hold one of their promises too, it does, so that a bug becomes an error and not a wrong rate.

Whole numbers are 64 bit and rates double on both databases; SQLite's tables are STRICT. Documents are
canonical JSON text: a database's own JSON type would reorder and renumber what has to come back as it was.
"""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    REAL,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Dialect,
    Double,
    ForeignKey,
    Identity,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    TypeDecorator,
    text,
)
from sqlalchemy.types import TypeEngine

metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
    }
)

# STRICT tables know INTEGER, REAL and TEXT, and no other name for them.
Whole = BigInteger().with_variant(Integer(), "sqlite")
Number: TypeEngine[float] = Double().with_variant(REAL(), "sqlite")
Flag = Boolean().with_variant(Integer(), "sqlite")


class Moment(TypeDecorator[datetime]):
    """TIMESTAMP WITH TIME ZONE, and on SQLite its ISO 8601 text in UTC."""

    impl = DateTime
    cache_ok = True

    # typing.override is younger than the oldest Python that runs this.
    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:  # type: ignore[explicit-override]
        return dialect.type_descriptor(Text() if dialect.name == "sqlite" else DateTime(timezone=True))

    def process_bind_param(  # type: ignore[explicit-override]
        self, value: datetime | None, dialect: Dialect
    ) -> Any:
        if value is None or dialect.name != "sqlite":
            return value
        return value.astimezone(UTC).isoformat(timespec="microseconds")

    def process_result_value(  # type: ignore[explicit-override]
        self, value: Any, dialect: Dialect
    ) -> datetime | None:
        return datetime.fromisoformat(value) if isinstance(value, str) else value


runs = Table(
    "runs",
    metadata,
    Column("id", Whole, Identity(), primary_key=True),
    Column("key", Text, nullable=False, unique=True),
    Column("experiment", Text),
    Column("tags", Text, nullable=False),
    Column("spec", Text, nullable=False),
    Column("policy_version", Whole, nullable=False),
    Column("rules_version", Whole, nullable=False),
    Column("seq", Whole, nullable=False),
    Column("attempt", Whole, nullable=False),
    Column("epoch", Whole, nullable=False),
    Column("step", Whole),
    Column("learning_rate", Number, nullable=False),
    Column("state", Text, nullable=False),
    Column("decided_seq", Whole, nullable=False),
    Column("status", Text, nullable=False),
    # When the point that waits for ranks has to be decided without them.
    Column("deadline_at", Moment),
    # When the rate that an operator holds until a time is let go.
    Column("override_expires_at", Moment),
    # Since when it is known that its trainer is too quiet.
    Column("stalled_at", Moment),
    Column("created_at", Moment, nullable=False),
    Column("updated_at", Moment, nullable=False),
    CheckConstraint("status IN ('running', 'completed', 'failed', 'stopped')", name="status"),
    CheckConstraint("decided_seq BETWEEN 1 AND seq", name="decided_seq"),
    sqlite_strict=True,
    # A head is updated with every report: room on its page keeps PostgreSQL from touching the indexes.
    postgresql_with={"fillfactor": 50},
)
Index("ix_runs_experiment_key", runs.c.experiment, runs.c.key)
# The few runs of a status are found without reading the many of another.
Index("ix_runs_status_key", runs.c.status, runs.c.key)
_waiting = text("deadline_at IS NOT NULL")
Index("ix_runs_deadline_at", runs.c.deadline_at, sqlite_where=_waiting, postgresql_where=_waiting)
_held = text("override_expires_at IS NOT NULL")
Index("ix_runs_override_expires_at", runs.c.override_expires_at, sqlite_where=_held, postgresql_where=_held)
_stalled = text("stalled_at IS NOT NULL")
Index("ix_runs_stalled_at", runs.c.stalled_at, sqlite_where=_stalled, postgresql_where=_stalled)

# The members of `runs.tags`, kept by triggers. A list by tag goes along the primary key, in order of the runs' keys.
run_tags = Table(
    "run_tags",
    metadata,
    Column("name", Text, primary_key=True),
    Column("value", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("run_id", Whole, ForeignKey("runs.id", ondelete="CASCADE"), nullable=False),
    sqlite_strict=True,
)
Index("ix_run_tags_run_id", run_tags.c.run_id)

# The decision of an event; all NULL if it has none.
DECISION_COLUMNS: tuple[Column[Any], ...] = (
    Column("learning_rate", Number),
    Column("momentum", Number),
    Column("step", Whole),
    Column("reason", Text),
    Column("changed", Flag),
    Column("action", Text),
    Column("plateau", Text),
    Column("why", Text),
)

events = Table(
    "events",
    metadata,
    Column("run_id", Whole, ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True),
    Column("seq", Whole, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("attempt", Whole, nullable=False),
    Column("epoch", Whole),
    Column("rank", Whole),
    Column("key", Text),
    Column("effective_from", Whole, nullable=False),
    Column("payload", Text, nullable=False),
    Column("notes", Text),
    Column("state", Text),
    *DECISION_COLUMNS,
    Column("superseded_by", Whole),
    # Its place among the events of all runs: handed out in the transaction, so a higher one may be committed first.
    Column("position", Whole),
    Column("created_at", Moment, nullable=False),
    CheckConstraint("seq >= 1", name="seq"),
    CheckConstraint(
        "kind IN ('created', 'attempt', 'report', 'timeout', 'command', 'policy', 'finished')",
        name="kind",
    ),
    CheckConstraint("kind <> 'report' OR (epoch IS NOT NULL AND rank IS NOT NULL)", name="report"),
    CheckConstraint("kind <> 'timeout' OR (epoch IS NOT NULL AND learning_rate IS NOT NULL)", name="timeout"),
    CheckConstraint(
        "(learning_rate IS NULL) = (reason IS NULL) AND (learning_rate IS NULL) = (action IS NULL)",
        name="decision",
    ),
    sqlite_strict=True,
)

_placed = text("position IS NOT NULL")
Index("ix_events_position", events.c.position, sqlite_where=_placed, postgresql_where=_placed)

# A run fell silent behind its event `seq`, and was noticed. At most once for an event, whoever notices.
stalls = Table(
    "stalls",
    metadata,
    Column("run_id", Whole, ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True),
    Column("seq", Whole, primary_key=True),
    Column("position", Whole),
    Column("attempt", Whole, nullable=False),
    Column("epoch", Whole, nullable=False),
    Column("reported_at", Moment, nullable=False),
    Column("typical_epoch_s", Number, nullable=False),
    Column("created_at", Moment, nullable=False),
    sqlite_strict=True,
)
Index("ix_stalls_position", stalls.c.position)

# The newest position on SQLite, in one row: triggers count there. On PostgreSQL a sequence is the columns' default.
positions = Table("positions", metadata, Column("last", Whole, nullable=False), sqlite_strict=True)

# One report for a point: a retry can never count twice (invariants 2 and 3).
IS_REPORT = "kind = 'report'"
Index(
    "uq_events_report",
    events.c.run_id,
    events.c.epoch,
    events.c.rank,
    events.c.attempt,
    unique=True,
    sqlite_where=text(IS_REPORT),
    postgresql_where=text(IS_REPORT),
)

# One decision for a point, whatever its ranks send (invariant 9).
IS_DECIDED = "kind IN ('report', 'timeout') AND learning_rate IS NOT NULL AND superseded_by IS NULL"
Index(
    "uq_events_decision",
    events.c.run_id,
    events.c.epoch,
    unique=True,
    sqlite_where=text(IS_DECIDED),
    postgresql_where=text(IS_DECIDED),
)

# One attempt, and one command, for a key.
_keyed = text("key IS NOT NULL")
Index(
    "uq_events_key",
    events.c.run_id,
    events.c.kind,
    events.c.key,
    unique=True,
    sqlite_where=_keyed,
    postgresql_where=_keyed,
)

# A named group of runs, and what is set for it: all of it as runs of it begin with.
experiments = Table(
    "experiments",
    metadata,
    Column("name", Text, primary_key=True),
    Column("policy", Text),
    Column("tags", Text, nullable=False),
    Column("limits", Text),
    Column("created_at", Moment, nullable=False),
    Column("updated_at", Moment, nullable=False),
    sqlite_strict=True,
)

# One command to many runs. `runs` are their keys, fixed when it was ordered; `heartbeat_at` is when somebody last
# worked on it, so that another replica goes on when that one has died.
bulk_commands = Table(
    "bulk_commands",
    metadata,
    Column("id", Whole, Identity(), primary_key=True),
    Column("key", Text, unique=True),
    Column("selector", Text, nullable=False),
    Column("command", Text, nullable=False),
    Column("actor", Text),
    Column("reason", Text),
    Column("runs", Text, nullable=False),
    Column("count", Whole, nullable=False),
    Column("heartbeat_at", Moment, nullable=False),
    Column("created_at", Moment, nullable=False),
    Column("finished_at", Moment),
    sqlite_strict=True,
)
_unfinished = text("finished_at IS NULL")
Index(
    "ix_bulk_commands_unfinished",
    bulk_commands.c.heartbeat_at,
    sqlite_where=_unfinished,
    postgresql_where=_unfinished,
)

# What came of it for each run, written with the run's own event: what has a row here was done, once.
# `place` is that of the run among the keys.
bulk_results = Table(
    "bulk_results",
    metadata,
    Column("bulk_id", Whole, ForeignKey("bulk_commands.id", ondelete="CASCADE"), primary_key=True),
    Column("place", Whole, primary_key=True),
    Column("run", Text, nullable=False),
    Column("seq", Whole),
    Column("effective_from", Whole),
    Column("rate_before", Number),
    Column("rate_after", Number),
    Column("code", Text),
    Column("detail", Text),
    CheckConstraint("(seq IS NULL) <> (code IS NULL)", name="outcome"),
    sqlite_strict=True,
)

# Of a token its SHA-256 is kept, nothing else. A revoked one stays: it says who an actor was.
tokens = Table(
    "tokens",
    metadata,
    Column("id", Whole, Identity(), primary_key=True),
    Column("name", Text, nullable=False),
    Column("scope", Text, nullable=False),
    # What it is kept to; both NULL is everything.
    Column("experiment", Text),
    Column("run", Text),
    Column("digest", Text, nullable=False, unique=True),
    Column("created_at", Moment, nullable=False),
    Column("created_by", Text),
    Column("expires_at", Moment),
    Column("last_used_at", Moment),
    Column("revoked_at", Moment),
    CheckConstraint("scope IN ('report', 'view', 'operate', 'admin')", name="scope"),
    CheckConstraint("(scope = 'report') = (experiment IS NOT NULL OR run IS NOT NULL)", name="restriction"),
    sqlite_strict=True,
)
_live = text("revoked_at IS NULL")
Index("uq_tokens_live_name", tokens.c.name, unique=True, sqlite_where=_live, postgresql_where=_live)

# Rows are added and never changed. A run's own log goes with the run; what people did to it stays here.
audit = Table(
    "audit",
    metadata,
    Column("id", Whole, Identity(), primary_key=True),
    Column("at", Moment, nullable=False),
    Column("actor", Text),
    Column("action", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("details", Text, nullable=False),
    sqlite_strict=True,
)
