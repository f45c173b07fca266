"""Runs, and the append-only log of their events.

Revision 0001, the first. The types are those of remotelr_service/db/tables.py, spelt out: what a migration
made must not change when that file does.
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

Whole = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
Number = sa.Double().with_variant(sa.REAL(), "sqlite")
Flag = sa.Boolean().with_variant(sa.Integer(), "sqlite")
Moment = sa.DateTime(timezone=True).with_variant(sa.Text(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "runs",
        sa.Column("id", Whole, sa.Identity(), primary_key=True),
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("experiment", sa.Text),
        sa.Column("tags", sa.Text, nullable=False),
        sa.Column("spec", sa.Text, nullable=False),
        sa.Column("policy_version", Whole, nullable=False),
        sa.Column("rules_version", Whole, nullable=False),
        sa.Column("seq", Whole, nullable=False),
        sa.Column("attempt", Whole, nullable=False),
        sa.Column("epoch", Whole, nullable=False),
        sa.Column("step", Whole),
        sa.Column("learning_rate", Number, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("decided_seq", Whole, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("due_at", Moment),
        sa.Column("created_at", Moment, nullable=False),
        sa.Column("updated_at", Moment, nullable=False),
        sa.UniqueConstraint("key", name="uq_runs_key"),
        sa.CheckConstraint("status IN ('running', 'completed', 'failed', 'stopped')", name="ck_runs_status"),
        sa.CheckConstraint("decided_seq BETWEEN 1 AND seq", name="ck_runs_decided_seq"),
        sqlite_strict=True,
        postgresql_with={"fillfactor": 50},
    )
    op.create_index("ix_runs_experiment_key", "runs", ["experiment", "key"])
    op.create_index("ix_runs_status_key", "runs", ["status", "key"])
    _index("ix_runs_due_at", "runs", ["due_at"], "due_at IS NOT NULL")
    op.create_table(
        "events",
        sa.Column("run_id", Whole, sa.ForeignKey("runs.id", name="fk_events_run_id", ondelete="CASCADE")),
        sa.Column("seq", Whole),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("attempt", Whole, nullable=False),
        sa.Column("epoch", Whole),
        sa.Column("rank", Whole),
        sa.Column("key", sa.Text),
        sa.Column("holds_from", Whole, nullable=False),
        sa.Column("payload", sa.Text, nullable=False),
        sa.Column("notes", sa.Text),
        sa.Column("state", sa.Text),
        sa.Column("learning_rate", Number),
        sa.Column("momentum", Number),
        sa.Column("step", Whole),
        sa.Column("reason", sa.Text),
        sa.Column("changed", Flag),
        sa.Column("action", sa.Text),
        sa.Column("plateau", sa.Text),
        sa.Column("superseded_by", Whole),
        sa.Column("created_at", Moment, nullable=False),
        sa.PrimaryKeyConstraint("run_id", "seq", name="pk_events"),
        sa.CheckConstraint("seq >= 1", name="ck_events_seq"),
        sa.CheckConstraint(
            "kind IN ('created', 'attempt', 'report', 'closing', 'command', 'policy', 'finished')",
            name="ck_events_kind",
        ),
        sa.CheckConstraint("kind <> 'report' OR (epoch IS NOT NULL AND rank IS NOT NULL)", name="ck_events_report"),
        sa.CheckConstraint(
            "kind <> 'closing' OR (epoch IS NOT NULL AND learning_rate IS NOT NULL)", name="ck_events_closing"
        ),
        sa.CheckConstraint(
            "(learning_rate IS NULL) = (reason IS NULL) AND (learning_rate IS NULL) = (action IS NULL)",
            name="ck_events_decision",
        ),
        sqlite_strict=True,
    )
    _unique("uq_events_report", ["run_id", "epoch", "rank", "attempt"], "kind = 'report'")
    _unique(
        "uq_events_decision",
        ["run_id", "epoch"],
        "kind IN ('report', 'closing') AND learning_rate IS NOT NULL AND superseded_by IS NULL",
    )
    _unique("uq_events_key", ["run_id", "kind", "key"], "key IS NOT NULL")


def downgrade() -> None:
    op.drop_table("events")
    op.drop_table("runs")


def _unique(name: str, columns: list[str], where: str) -> None:
    _index(name, "events", columns, where, unique=True)


def _index(name: str, table: str, columns: list[str], where: str, *, unique: bool = False) -> None:
    op.create_index(name, table, columns, unique=unique, sqlite_where=sa.text(where), postgresql_where=sa.text(where))
