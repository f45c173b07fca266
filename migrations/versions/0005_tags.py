"""The tags of runs as rows of their own, so that the few runs of a tag are found without reading the many others.

Revision 0005. It adds, and takes nothing away: the release before can serve beside this one. The rows are kept by the
database itself, so runs that the release before makes or tags meanwhile are found as well.
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

Whole = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

_ROWS = "INSERT INTO run_tags (name, value, key, run_id) SELECT tag.key, tag.value, {run}.key, {run}.id"
_ON_SQLITE = [
    _ROWS.format(run="runs") + " FROM runs, json_each(runs.tags) AS tag",
    f"""CREATE TRIGGER runs_tagged AFTER INSERT ON runs BEGIN
        {_ROWS.format(run="new")} FROM json_each(new.tags) AS tag;
    END""",
    f"""CREATE TRIGGER runs_retagged AFTER UPDATE OF tags ON runs BEGIN
        DELETE FROM run_tags WHERE run_id = new.id;
        {_ROWS.format(run="new")} FROM json_each(new.tags) AS tag;
    END""",  # noqa: S608  # nothing in it comes from outside
]
# The trigger first: its lock on the table keeps writers out, so nothing comes between it and what is there already.
_ON_POSTGRESQL = [
    f"""CREATE FUNCTION keep_run_tags() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        DELETE FROM run_tags WHERE run_id = new.id;
        {_ROWS.format(run="new")} FROM json_each_text(new.tags::json) AS tag;
        RETURN NULL;
    END $$""",  # noqa: S608
    """CREATE TRIGGER runs_tagged AFTER INSERT OR UPDATE OF tags ON runs
        FOR EACH ROW EXECUTE FUNCTION keep_run_tags()""",
    _ROWS.format(run="runs") + " FROM runs, json_each_text(runs.tags::json) AS tag",
]


def upgrade() -> None:
    op.create_table(
        "run_tags",
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("value", sa.Text, nullable=False),
        sa.Column("key", sa.Text, nullable=False),
        sa.Column(
            "run_id", Whole, sa.ForeignKey("runs.id", name="fk_run_tags_run_id", ondelete="CASCADE"), nullable=False
        ),
        sa.PrimaryKeyConstraint("name", "value", "key", name="pk_run_tags"),
        sqlite_strict=True,
    )
    op.create_index("ix_run_tags_run_id", "run_tags", ["run_id"])
    for statement in _ON_POSTGRESQL if op.get_bind().dialect.name == "postgresql" else _ON_SQLITE:
        op.execute(statement)


def downgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP TRIGGER runs_tagged ON runs")
        op.execute("DROP FUNCTION keep_run_tags()")
    else:
        op.execute("DROP TRIGGER runs_tagged")
        op.execute("DROP TRIGGER runs_retagged")
    op.drop_table("run_tags")
