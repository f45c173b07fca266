"""The audit: what people did to tokens, and to runs whose own log is gone. Rows are added and never changed."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from sqlalchemy import Engine

from remotelr_service.db.engine import reading
from remotelr_service.db.queries import tokens
from remotelr_service.db.queries.bulk_commands import BulkCommand
from remotelr_service.db.queries.events import list_dated_events
from remotelr_service.db.queries.runs import StoredRun
from remotelr_service.db.queries.tokens import AuditEntry as AuditView
from remotelr_service.db.writer.transaction import WriteTransaction

__all__ = ["AuditView", "list_audit", "note", "note_bulk_deletion", "note_deletion"]

# Of a run that is deleted so many commands are kept, the oldest ones.
MAX_COMMANDS: Final = 1_000


def list_audit(engine: Engine, after: int = 0, limit: int = 100) -> tuple[Sequence[AuditView], int | None]:
    """Up to `limit` entries, oldest first, from the first one behind `after` on; and what to ask for the next with."""
    with reading(engine) as connection:
        found = tokens.list_audit(connection, after=after, limit=limit + 1)
    shown = found[:limit]
    return shown, shown[-1].id if len(found) > limit else None


def note(tx: WriteTransaction, action: str, subject: str, details: Mapping[str, Any], by: str | None) -> None:
    """Remember in the group's transaction that `by` did this."""
    tokens.add_audit(tx.writing(), at=tx.now, actor=by, action=action, subject=subject, details=details)


def note_deletion(tx: WriteTransaction, stored: StoredRun, by: str | None) -> None:
    """Remember that a run was deleted, where it stood, and who had ordered what of it when."""
    tx.flush()
    ordered = list_dated_events(tx.connection, stored, after=0, limit=MAX_COMMANDS, kind="command")
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
            for event, at in ordered
        ],
    }
    note(tx, "run_deleted", run.key, details, by)


def note_bulk_deletion(tx: WriteTransaction, bulk: BulkCommand, by: str | None) -> None:
    """Remember that a command to many runs was deleted, and what it was."""
    details = {
        "selector": bulk.selector,
        "command": bulk.command,
        "actor": bulk.actor,
        "reason": bulk.reason,
        "runs": len(bulk.runs),
        "created_at": bulk.created_at.isoformat(),
    }
    note(tx, "bulk_command_deleted", str(bulk.id), details, by)
