"""The tables: columns, constraints, indexes. Constraints repeat invariants of the rules, so that a bug is an error.

Whole numbers have 64 bits and rates are doubles on both databases; SQLite's tables are STRICT. Documents are canonical
JSON text: a JSON column would change the order of members and the digits of numbers.
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

# STRICT tables accept the type names INTEGER, REAL and TEXT only.
Whole = BigInteger().with_variant(Integer(), "sqlite")
Number: TypeEngine[float] = Double().with_variant(REAL(), "sqlite")
Flag = Boolean().with_variant(Integer(), "sqlite")


class Moment(TypeDecorator[datetime]):
    """TIMESTAMP WITH TIME ZONE; on SQLite ISO 8601 text in UTC."""

    impl = DateTime
    cache_ok = True

    # typing.override is younger than the oldest Python that runs this.
    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:  # type: ignore[explicit-override]
        return dialect.type_descriptor(Text() if dialect.name == "sqlite" else DateTime(timezone=True))

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> Any:  # type: ignore[explicit-override]
        if value is None or dialect.name != "sqlite":
            return value
        return value.astimezone(UTC).isoformat(timespec="microseconds")

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:  # type: ignore[explicit-override]
        return datetime.fromisoformat(value) if isinstance(value, str) else value


def _partial_index(name: str, condition: str, *columns: Column[Any], unique: bool = False) -> None:
    where = text(condition)
    Index(name, *columns, unique=unique, sqlite_where=where, postgresql_where=where)


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
    # When the waiting point is decided without the missing ranks.
    Column("deadline_at", Moment),
    # When the next timed override ends.
    Column("override_expires_at", Moment),
    # When the service noticed that the trainer had stopped reporting.
    Column("stalled_at", Moment),
    Column("created_at", Moment, nullable=False),
    Column("updated_at", Moment, nullable=False),
    CheckConstraint("status IN ('running', 'completed', 'failed', 'stopped')", name="status"),
    CheckConstraint("decided_seq BETWEEN 1 AND seq", name="decided_seq"),
    sqlite_strict=True,
    # A run is updated with every report: free space on its page saves PostgreSQL the index updates.
    postgresql_with={"fillfactor": 50},
)
Index("ix_runs_experiment_key", runs.c.experiment, runs.c.key)
# Finds the few runs of one status without reading the many of another.
Index("ix_runs_status_key", runs.c.status, runs.c.key)
_partial_index("ix_runs_deadline_at", "deadline_at IS NOT NULL", runs.c.deadline_at)
_partial_index("ix_runs_override_expires_at", "override_expires_at IS NOT NULL", runs.c.override_expires_at)
_partial_index("ix_runs_stalled_at", "stalled_at IS NOT NULL", runs.c.stalled_at)

# The members of `runs.tags`, written by triggers. The primary key lists the runs of a tag in order of key.
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
    # The order among all runs. Taken in the transaction, so a higher position may be committed first.
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

_partial_index("ix_events_position", "position IS NOT NULL", events.c.position)

# The trainer stopped reporting after the event `seq`; at most one row for an event, from any replica.
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

# One row with the newest position, which triggers increment. SQLite only: PostgreSQL has a sequence.
positions = Table("positions", metadata, Column("last", Whole, nullable=False), sqlite_strict=True)

# One report for a point of a rank: a retry cannot count twice (invariants 2 and 3).
IS_REPORT = "kind = 'report'"
_partial_index(
    "uq_events_report", IS_REPORT, events.c.run_id, events.c.epoch, events.c.rank, events.c.attempt, unique=True
)

# One decision for a point (invariant 9).
IS_DECIDED = "kind IN ('report', 'timeout') AND learning_rate IS NOT NULL AND superseded_by IS NULL"
_partial_index("uq_events_decision", IS_DECIDED, events.c.run_id, events.c.epoch, unique=True)

# One attempt, and one command, for a key.
_partial_index("uq_events_key", "key IS NOT NULL", events.c.run_id, events.c.kind, events.c.key, unique=True)

# A named group of runs, with the defaults and limits of its runs.
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

# One command to many runs. `runs`: their keys, fixed when the command is created. `heartbeat_at`: when a replica last
# worked on it; another replica continues after a crash.
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
_partial_index("ix_bulk_commands_unfinished", "finished_at IS NULL", bulk_commands.c.heartbeat_at)

# The result of a bulk command for one run, written with the event of the run, once. `place`: index of the run's key.
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

# `digest`: the SHA-256 of the token, which is not stored. A revoked token stays: the audit names it as an actor.
tokens = Table(
    "tokens",
    metadata,
    Column("id", Whole, Identity(), primary_key=True),
    Column("name", Text, nullable=False),
    Column("scope", Text, nullable=False),
    # The only experiment or run that the token may access; both NULL: all.
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
_partial_index("uq_tokens_live_name", "revoked_at IS NULL", tokens.c.name, unique=True)

# Rows are never changed. The log of a run is deleted with the run; the audit of it stays.
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
