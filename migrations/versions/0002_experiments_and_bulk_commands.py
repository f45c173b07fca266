"""Why a decision was taken, pins that end at a time, experiments, and commands to many runs.

Revision 0002. It adds, and takes nothing away: the release before can serve beside this one.
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

Whole = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
Number = sa.Double().with_variant(sa.REAL(), "sqlite")
Moment = sa.DateTime(timezone=True).with_variant(sa.Text(), "sqlite")


def upgrade() -> None:
    op.add_column("events", sa.Column("why", sa.Text))
    op.add_column("runs", sa.Column("release_at", Moment))
    _index("ix_runs_release_at", "runs", ["release_at"], "release_at IS NOT NULL")
    op.create_table(
        "experiments",
        sa.Column("name", sa.Text),
        sa.Column("policy", sa.Text),
        sa.Column("tags", sa.Text, nullable=False),
        sa.Column("rails", sa.Text),
        sa.Column("created_at", Moment, nullable=False),
        sa.Column("updated_at", Moment, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_experiments"),
        sqlite_strict=True,
    )
    # An experiment was only a word on its runs.
    op.execute(
        "INSERT INTO experiments (name, tags, created_at, updated_at) "
        "SELECT experiment, '{}', min(created_at), min(created_at) FROM runs "
        "WHERE experiment IS NOT NULL GROUP BY experiment"
    )
    op.create_table(
        "bulk_commands",
        sa.Column("id", Whole, sa.Identity(), primary_key=True),
        sa.Column("key", sa.Text),
        sa.Column("selector", sa.Text, nullable=False),
        sa.Column("command", sa.Text, nullable=False),
        sa.Column("actor", sa.Text),
        sa.Column("reason", sa.Text),
        sa.Column("runs", sa.Text, nullable=False),
        sa.Column("count", Whole, nullable=False),
        sa.Column("worked_at", Moment, nullable=False),
        sa.Column("created_at", Moment, nullable=False),
        sa.Column("finished_at", Moment),
        sa.UniqueConstraint("key", name="uq_bulk_commands_key"),
        sqlite_strict=True,
    )
    _index("ix_bulk_commands_unfinished", "bulk_commands", ["worked_at"], "finished_at IS NULL")
    op.create_table(
        "bulk_results",
        sa.Column(
            "bulk_id", Whole, sa.ForeignKey("bulk_commands.id", name="fk_bulk_results_bulk_id", ondelete="CASCADE")
        ),
        sa.Column("place", Whole),
        sa.Column("run", sa.Text, nullable=False),
        sa.Column("seq", Whole),
        sa.Column("holds_from", Whole),
        sa.Column("rate_before", Number),
        sa.Column("rate_after", Number),
        sa.Column("code", sa.Text),
        sa.Column("detail", sa.Text),
        sa.PrimaryKeyConstraint("bulk_id", "place", name="pk_bulk_results"),
        sa.CheckConstraint("(seq IS NULL) <> (code IS NULL)", name="ck_bulk_results_outcome"),
        sqlite_strict=True,
    )


def downgrade() -> None:
    op.drop_table("bulk_results")
    op.drop_table("bulk_commands")
    op.drop_table("experiments")
    op.drop_index("ix_runs_release_at", "runs")
    op.drop_column("runs", "release_at")
    op.drop_column("events", "why")


def _index(name: str, table: str, columns: list[str], where: str) -> None:
    op.create_index(name, table, columns, sqlite_where=sa.text(where), postgresql_where=sa.text(where))
