"""The tables of the first release: runs and their events, experiments, commands, tokens, audit and streams.

The types are those of remotelr_service/db/tables.py, spelt out: a migration must not change when that file does.
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

# The tables whose rows get a position in the order of all streams.
POSITIONED = ("events", "stalls")


def upgrade() -> None:
    _create_runs()
    _create_events()
    _create_experiments()
    _create_bulk_commands()
    _create_tokens()
    _create_streams()
    _create_run_tags()


def downgrade() -> None:
    on_postgresql = _on_postgresql()
    if on_postgresql:
        op.execute("DROP TRIGGER runs_tagged ON runs")
        op.execute("DROP FUNCTION keep_run_tags()")
    for table in ("run_tags", "positions", "stalls", "audit", "tokens", "bulk_results", "bulk_commands", "experiments"):
        op.drop_table(table)
    op.drop_table("events")
    op.drop_table("runs")
    if on_postgresql:
        op.execute("DROP SEQUENCE stream_positions")


def _create_runs() -> None:
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
        sa.Column("deadline_at", Moment),
        sa.Column("override_expires_at", Moment),
        sa.Column("stalled_at", Moment),
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
    for column in ("deadline_at", "override_expires_at", "stalled_at"):
        _index(f"ix_runs_{column}", "runs", [column], f"{column} IS NOT NULL")


def _create_events() -> None:
    op.create_table(
        "events",
        sa.Column("run_id", Whole, sa.ForeignKey("runs.id", name="fk_events_run_id", ondelete="CASCADE")),
        sa.Column("seq", Whole),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("attempt", Whole, nullable=False),
        sa.Column("epoch", Whole),
        sa.Column("rank", Whole),
        sa.Column("key", sa.Text),
        sa.Column("effective_from", Whole, nullable=False),
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
        sa.Column("why", sa.Text),
        sa.Column("superseded_by", Whole),
        sa.Column("position", Whole),
        sa.Column("created_at", Moment, nullable=False),
        sa.PrimaryKeyConstraint("run_id", "seq", name="pk_events"),
        sa.CheckConstraint("seq >= 1", name="ck_events_seq"),
        sa.CheckConstraint(
            "kind IN ('created', 'attempt', 'report', 'timeout', 'command', 'policy', 'finished')",
            name="ck_events_kind",
        ),
        sa.CheckConstraint("kind <> 'report' OR (epoch IS NOT NULL AND rank IS NOT NULL)", name="ck_events_report"),
        sa.CheckConstraint(
            "kind <> 'timeout' OR (epoch IS NOT NULL AND learning_rate IS NOT NULL)", name="ck_events_timeout"
        ),
        sa.CheckConstraint(
            "(learning_rate IS NULL) = (reason IS NULL) AND (learning_rate IS NULL) = (action IS NULL)",
            name="ck_events_decision",
        ),
        sqlite_strict=True,
    )
    _unique("uq_events_report", "events", ["run_id", "epoch", "rank", "attempt"], "kind = 'report'")
    _unique(
        "uq_events_decision",
        "events",
        ["run_id", "epoch"],
        "kind IN ('report', 'timeout') AND learning_rate IS NOT NULL AND superseded_by IS NULL",
    )
    _unique("uq_events_key", "events", ["run_id", "kind", "key"], "key IS NOT NULL")
    _index("ix_events_position", "events", ["position"], "position IS NOT NULL")


def _create_experiments() -> None:
    op.create_table(
        "experiments",
        sa.Column("name", sa.Text),
        sa.Column("policy", sa.Text),
        sa.Column("tags", sa.Text, nullable=False),
        sa.Column("limits", sa.Text),
        sa.Column("created_at", Moment, nullable=False),
        sa.Column("updated_at", Moment, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_experiments"),
        sqlite_strict=True,
    )


def _create_bulk_commands() -> None:
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
        sa.Column("heartbeat_at", Moment, nullable=False),
        sa.Column("created_at", Moment, nullable=False),
        sa.Column("finished_at", Moment),
        sa.UniqueConstraint("key", name="uq_bulk_commands_key"),
        sqlite_strict=True,
    )
    _index("ix_bulk_commands_unfinished", "bulk_commands", ["heartbeat_at"], "finished_at IS NULL")
    op.create_table(
        "bulk_results",
        sa.Column(
            "bulk_id", Whole, sa.ForeignKey("bulk_commands.id", name="fk_bulk_results_bulk_id", ondelete="CASCADE")
        ),
        sa.Column("place", Whole),
        sa.Column("run", sa.Text, nullable=False),
        sa.Column("seq", Whole),
        sa.Column("effective_from", Whole),
        sa.Column("rate_before", Number),
        sa.Column("rate_after", Number),
        sa.Column("code", sa.Text),
        sa.Column("detail", sa.Text),
        sa.PrimaryKeyConstraint("bulk_id", "place", name="pk_bulk_results"),
        sa.CheckConstraint("(seq IS NULL) <> (code IS NULL)", name="ck_bulk_results_outcome"),
        sqlite_strict=True,
    )


def _create_tokens() -> None:
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
        sa.CheckConstraint(
            "(scope = 'report') = (experiment IS NOT NULL OR run IS NOT NULL)", name="ck_tokens_restriction"
        ),
        sqlite_strict=True,
    )
    _unique("uq_tokens_live_name", "tokens", ["name"], "revoked_at IS NULL")
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


def _create_streams() -> None:
    """One order for the events of all runs. The database assigns the positions: replicas share nothing else."""
    op.create_table(
        "stalls",
        sa.Column("run_id", Whole, sa.ForeignKey("runs.id", name="fk_stalls_run_id", ondelete="CASCADE")),
        sa.Column("seq", Whole),
        sa.Column("position", Whole),
        sa.Column("attempt", Whole, nullable=False),
        sa.Column("epoch", Whole, nullable=False),
        sa.Column("reported_at", Moment, nullable=False),
        sa.Column("typical_epoch_s", Number, nullable=False),
        sa.Column("created_at", Moment, nullable=False),
        sa.PrimaryKeyConstraint("run_id", "seq", name="pk_stalls"),
        sqlite_strict=True,
    )
    op.create_index("ix_stalls_position", "stalls", ["position"])
    op.create_table("positions", sa.Column("last", Whole, nullable=False), sqlite_strict=True)
    op.execute("INSERT INTO positions (last) VALUES (0)")
    if _on_postgresql():
        op.execute("CREATE SEQUENCE stream_positions")
        for table in POSITIONED:
            op.execute(f"ALTER TABLE {table} ALTER COLUMN position SET DEFAULT nextval('stream_positions')")
        return
    for table in POSITIONED:
        op.execute(
            f"CREATE TRIGGER {table}_position AFTER INSERT ON {table} BEGIN "  # noqa: S608  # names of our tables
            f"UPDATE positions SET last = last + 1; "
            f"UPDATE {table} SET position = (SELECT last FROM positions) WHERE rowid = NEW.rowid; END"
        )


_TAG_ROWS = "INSERT INTO run_tags (name, value, key, run_id) SELECT tag.key, tag.value, new.key, new.id"
_TAG_TRIGGERS_SQLITE = (
    f"CREATE TRIGGER runs_tagged AFTER INSERT ON runs BEGIN {_TAG_ROWS} FROM json_each(new.tags) AS tag; END",
    f"""CREATE TRIGGER runs_retagged AFTER UPDATE OF tags ON runs BEGIN
        DELETE FROM run_tags WHERE run_id = new.id;
        {_TAG_ROWS} FROM json_each(new.tags) AS tag;
    END""",  # noqa: S608  # nothing in it comes from outside
)
_TAG_TRIGGERS_POSTGRESQL = (
    f"""CREATE FUNCTION keep_run_tags() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        DELETE FROM run_tags WHERE run_id = new.id;
        {_TAG_ROWS} FROM json_each_text(new.tags::json) AS tag;
        RETURN NULL;
    END $$""",  # noqa: S608
    """CREATE TRIGGER runs_tagged AFTER INSERT OR UPDATE OF tags ON runs
        FOR EACH ROW EXECUTE FUNCTION keep_run_tags()""",
)


def _create_run_tags() -> None:
    """The tags of runs as rows, so that the few runs of a tag are found without reading the others."""
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
    for statement in _TAG_TRIGGERS_POSTGRESQL if _on_postgresql() else _TAG_TRIGGERS_SQLITE:
        op.execute(statement)


def _on_postgresql() -> bool:
    return op.get_bind().dialect.name == "postgresql"


def _unique(name: str, table: str, columns: list[str], where: str) -> None:
    _index(name, table, columns, where, unique=True)


def _index(name: str, table: str, columns: list[str], where: str, *, unique: bool = False) -> None:
    op.create_index(name, table, columns, unique=unique, sqlite_where=sa.text(where), postgresql_where=sa.text(where))
