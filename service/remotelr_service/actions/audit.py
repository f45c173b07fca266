"""The audit: what people did to tokens, and to runs whose own log is gone. Rows are added and never changed."""

from collections.abc import Sequence

from sqlalchemy import Engine

from remotelr_service.db import tokens as stored
from remotelr_service.db.engine import reading
from remotelr_service.db.tokens import AuditEntry as AuditView

__all__ = ["AuditView", "list_audit"]


def list_audit(engine: Engine, after: int = 0, limit: int = 100) -> tuple[Sequence[AuditView], int | None]:
    """Up to `limit` entries, oldest first, from the first one behind `after` on; and what to ask for the next with."""
    with reading(engine) as connection:
        found = stored.list_audit(connection, after=after, limit=limit + 1)
    shown = found[:limit]
    return shown, shown[-1].id if len(found) > limit else None
