"""Tokens, and what has to be remembered of those who used them after what they touched is gone.

Revision 0003. It adds, and takes nothing away: the release before can serve beside this one.
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

Whole = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
Moment = sa.DateTime(timezone=True).with_variant(sa.Text(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "tokens",
        sa.Column("id", Whole, sa.Identity(), primary_key=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("scope", sa.Text, nullable=False),
        sa.Column("experiment", sa.Text),
        sa.Column("run", sa.Text),
        sa.Column("digest", sa.Text, nullable=False),
        sa.Column("created_at", Moment, nullable=False),
        sa.Column("created_by", sa.Text),
        sa.Column("expires_at", Moment),
        sa.Column("last_used_at", Moment),
        sa.Column("revoked_at", Moment),
        sa.UniqueConstraint("digest", name="uq_tokens_digest"),
        sa.CheckConstraint("scope IN ('report', 'view', 'operate', 'admin')", name="ck_tokens_scope"),
        sa.CheckConstraint("(scope = 'report') = (experiment IS NOT NULL OR run IS NOT NULL)", name="ck_tokens_reach"),
        sqlite_strict=True,
    )
    live = sa.text("revoked_at IS NULL")
    op.create_index("uq_tokens_live_name", "tokens", ["name"], unique=True, sqlite_where=live, postgresql_where=live)
    op.create_table(
        "audit",
        sa.Column("id", Whole, sa.Identity(), primary_key=True),
        sa.Column("at", Moment, nullable=False),
        sa.Column("actor", sa.Text),
        sa.Column("action", sa.Text, nullable=False),
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("details", sa.Text, nullable=False),
        sqlite_strict=True,
    )


def downgrade() -> None:
    op.drop_table("audit")
    op.drop_table("tokens")
