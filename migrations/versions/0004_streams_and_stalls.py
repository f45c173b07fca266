"""One order for the events of all runs, to stream them by, and runs that have fallen silent.

Revision 0004. It adds, and takes nothing away: the release before can serve beside this one. The database gives out
the numbers, so that release's events have them too; events from before have none.
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

Whole = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
Number = sa.Double().with_variant(sa.REAL(), "sqlite")
Moment = sa.DateTime(timezone=True).with_variant(sa.Text(), "sqlite")

TABLES = ("events", "stalls")


def upgrade() -> None:
    op.add_column("runs", sa.Column("stalled_at", Moment))
    _index("ix_runs_stalled_at", "runs", ["stalled_at"], "stalled_at IS NOT NULL")
    op.add_column("events", sa.Column("position", Whole))
    _index("ix_events_position", "events", ["position"], "position IS NOT NULL")
    op.create_table(
        "stalls",
        sa.Column("run_id", Whole, sa.ForeignKey("runs.id", name="fk_stalls_run_id", ondelete="CASCADE")),
        sa.Column("seq", Whole),
        sa.Column("position", Whole),
        sa.Column("attempt", Whole, nullable=False),
        sa.Column("epoch", Whole, nullable=False),
        sa.Column("reported_at", Moment, nullable=False),
        sa.Column("usual_s", Number, nullable=False),
        sa.Column("created_at", Moment, nullable=False),
        sa.PrimaryKeyConstraint("run_id", "seq", name="pk_stalls"),
        sqlite_strict=True,
    )
    op.create_index("ix_stalls_position", "stalls", ["position"])
    op.create_table(
        "positions",
        sa.Column("last", Whole, nullable=False),
        sqlite_strict=True,
    )
    op.execute("INSERT INTO positions (last) VALUES (0)")
    if _on_postgresql():
        op.execute("CREATE SEQUENCE stream_positions")
        for table in TABLES:
            op.execute(f"ALTER TABLE {table} ALTER COLUMN position SET DEFAULT nextval('stream_positions')")
        return
    for table in TABLES:
        op.execute(
            f"CREATE TRIGGER {table}_position AFTER INSERT ON {table} BEGIN "  # noqa: S608  # names of our tables
            f"UPDATE positions SET last = last + 1; "
            f"UPDATE {table} SET position = (SELECT last FROM positions) WHERE rowid = NEW.rowid; END"
        )


def downgrade() -> None:
    if not _on_postgresql():
        for table in TABLES:
            op.execute(f"DROP TRIGGER {table}_position")
    op.drop_table("positions")
    op.drop_table("stalls")
    op.drop_index("ix_events_position", "events")
    op.drop_column("events", "position")
    if _on_postgresql():
        op.execute("DROP SEQUENCE stream_positions")
    op.drop_index("ix_runs_stalled_at", "runs")
    op.drop_column("runs", "stalled_at")


def _on_postgresql() -> bool:
    return op.get_bind().dialect.name == "postgresql"


def _index(name: str, table: str, columns: list[str], where: str) -> None:
    op.create_index(name, table, columns, sqlite_where=sa.text(where), postgresql_where=sa.text(where))
