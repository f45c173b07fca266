"""The audit of actions on tokens and on deleted runs. Entries are added and never changed."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from sqlalchemy import Engine

from remotelr_service.db.engine import reading
from remotelr_service.db.queries import tokens
from remotelr_service.db.queries.bulk_commands import BulkCommand
from remotelr_service.db.queries.events import list_dated_events
from remotelr_service.db.queries.runs import StoredRun
from remotelr_service.db.queries.tokens import AuditEntry
from remotelr_service.db.writer.transaction import WriteTransaction

# The maximum number of commands in the entry of a deleted run, oldest first.
MAX_COMMANDS: Final = 1_000


def list_audit(engine: Engine, after: int = 0, limit: int = 100) -> tuple[Sequence[AuditEntry], int | None]:
    """Up to `limit` entries with an id above `after`, oldest first, and the `after` of the next page."""
    with reading(engine) as connection:
        found = tokens.list_audit(connection, after=after, limit=limit + 1)
    shown = found[:limit]
    return shown, shown[-1].id if len(found) > limit else None


def note(tx: WriteTransaction, action: str, subject: str, details: Mapping[str, Any], by: str | None) -> None:
    """Add an entry in the transaction. by: the caller's name."""
    tokens.add_audit(tx.writing(), at=tx.now, actor=by, action=action, subject=subject, details=details)


def note_deletion(tx: WriteTransaction, stored: StoredRun, by: str | None) -> None:
    """Add an entry for a deleted run: its position and its commands with actors and times."""
    tx.flush()
    commands = list_dated_events(tx.connection, stored, after=0, limit=MAX_COMMANDS, kind="command")
    run = stored.run
    details = {
        "experiment": stored.experiment,
        "status": run.status,
        "attempt": run.attempt,
        "epoch": run.epoch,
        "learning_rate": run.learning_rate,
        "seq": run.seq,
        "commands": [
            {"seq": event.seq, "at": at.isoformat(), "effective_from": event.effective_from, **event.payload}
            for event, at in commands
        ],
    }
    note(tx, "run_deleted", run.key, details, by)


def note_bulk_deletion(tx: WriteTransaction, bulk: BulkCommand, by: str | None) -> None:
    """Add an entry for a deleted bulk command."""
    details = {
        "selector": bulk.selector,
        "command": bulk.command,
        "actor": bulk.actor,
        "reason": bulk.reason,
        "runs": len(bulk.runs),
        "created_at": bulk.created_at.isoformat(),
    }
    note(tx, "bulk_command_deleted", str(bulk.id), details, by)
