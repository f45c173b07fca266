"""The queries for tokens, and for the audit. As in `store.py`, nothing here commits."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, func, insert, or_, select, update

from remotelr_service.db.clock import database_now
from remotelr_service.db.rows import Row, from_text, to_text
from remotelr_service.db.tables import audit, tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredToken:
    """A token as it is stored. experiment, run: what it is kept to."""

    id: int
    name: str
    scope: str
    experiment: str | None
    run: str | None
    digest: str = field(repr=False)
    created_at: datetime
    created_by: str | None
    expires_at: datetime | None
    last_used_at: datetime | None
    revoked_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEntry:
    """Something done that has to be remembered. subject: what it was done to."""

    id: int
    at: datetime
    actor: str | None
    action: str
    subject: str
    details: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Version:
    """Which tokens there are: equal as long as none was added or revoked. Tokens are never taken away."""

    added: int
    revoked: int


def token_version(connection: Connection) -> tuple[Version, datetime]:
    """The version of the tokens, and the time by the database's clock."""
    query = select(func.count(), func.count(tokens.c.revoked_at), database_now()).select_from(tokens)
    added, revoked, now = connection.execute(query).one()
    return Version(added, revoked), now


def list_live_tokens(connection: Connection) -> list[StoredToken]:
    """All that are neither revoked nor expired."""
    lasting = or_(tokens.c.expires_at.is_(None), tokens.c.expires_at > database_now())
    query = select(tokens).where(tokens.c.revoked_at.is_(None), lasting)
    return [_token(row) for row in connection.execute(query).mappings()]


def list_tokens(connection: Connection, *, after: int, limit: int) -> list[StoredToken]:
    """Up to `limit` tokens in the order they were made, from the first one behind `after` on."""
    query = select(tokens).where(tokens.c.id > after).order_by(tokens.c.id).limit(limit)
    return [_token(row) for row in connection.execute(query).mappings()]


def find_token(connection: Connection, token_id: int) -> StoredToken | None:
    row = connection.execute(select(tokens).where(tokens.c.id == token_id)).mappings().one_or_none()
    return None if row is None else _token(row)


def find_named_token(connection: Connection, name: str) -> StoredToken | None:
    """The token of this name that is not revoked."""
    query = select(tokens).where(tokens.c.name == name, tokens.c.revoked_at.is_(None))
    row = connection.execute(query).mappings().one_or_none()
    return None if row is None else _token(row)


def has_admin_token(connection: Connection, but: int | None = None) -> bool:
    """Whether there is one that lets its owner do everything, now, beside the token `but`. They are locked."""
    lasting = or_(tokens.c.expires_at.is_(None), tokens.c.expires_at > database_now())
    query = select(tokens.c.id).where(tokens.c.scope == "admin", tokens.c.revoked_at.is_(None), lasting)
    return any(found != but for found in connection.execute(query.order_by(tokens.c.id).with_for_update()).scalars())


def add_token(connection: Connection, row: Mapping[str, Any]) -> StoredToken:
    """A new token. Raises IntegrityError when another transaction has just taken its name."""
    return _token(connection.execute(insert(tokens).returning(*tokens.c), row).mappings().one())


def revoke_token(connection: Connection, token_id: int, at: datetime) -> None:
    """Revoked at `at`, unless it was before."""
    connection.execute(
        update(tokens).where(tokens.c.id == token_id, tokens.c.revoked_at.is_(None)).values(revoked_at=at)
    )


def save_uses(connection: Connection, used: Mapping[int, datetime]) -> None:
    """When tokens were last used, by their ids. Another replica may know of a later use."""
    for token_id, at in used.items():
        older = or_(tokens.c.last_used_at.is_(None), tokens.c.last_used_at < at)
        connection.execute(update(tokens).where(tokens.c.id == token_id, older).values(last_used_at=at))


def add_audit(
    connection: Connection, *, at: datetime, actor: str | None, action: str, subject: str, details: Mapping[str, Any]
) -> None:
    """Remember that somebody did something."""
    row = {"at": at, "actor": actor, "action": action, "subject": subject, "details": to_text(dict(details))}
    connection.execute(insert(audit), row)


def list_audit(connection: Connection, *, after: int, limit: int) -> Sequence[AuditEntry]:
    """Up to `limit` entries, oldest first, from the first one behind `after` on."""
    query = select(audit).where(audit.c.id > after).order_by(audit.c.id).limit(limit)
    return [AuditEntry(**{**row, "details": from_text(row["details"])}) for row in connection.execute(query).mappings()]


def _token(row: Row) -> StoredToken:
    return StoredToken(**row)
