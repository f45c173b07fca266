"""Queries on tokens and the audit. The caller owns the transaction; no query commits."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, and_, func, insert, or_, select, update

from remotelr_service.db.clock import database_now
from remotelr_service.db.rows import from_text, to_text
from remotelr_service.db.tables import audit, tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredToken:
    """A stored token. experiment, run: the only experiment or run that it may access."""

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
    """A recorded action. subject: the object of the action."""

    id: int
    at: datetime
    actor: str | None
    action: str
    subject: str
    details: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Version:
    """The version of the set of tokens: it changes if one is added or revoked. Tokens are never deleted."""

    added: int
    revoked: int


_IS_VALID = and_(
    tokens.c.revoked_at.is_(None), or_(tokens.c.expires_at.is_(None), tokens.c.expires_at > database_now())
)


def token_version(connection: Connection) -> tuple[Version, datetime]:
    """The version of the tokens, and the time of the database."""
    query = select(func.count(), func.count(tokens.c.revoked_at), database_now()).select_from(tokens)
    added, revoked, now = connection.execute(query).one()
    return Version(added, revoked), now


def list_live_tokens(connection: Connection) -> list[StoredToken]:
    """All tokens that are neither revoked nor expired."""
    query = select(tokens).where(_IS_VALID)
    return [StoredToken(**row) for row in connection.execute(query).mappings()]


def list_tokens(connection: Connection, *, after: int, limit: int) -> list[StoredToken]:
    """Up to `limit` tokens with ids above `after`, in order of id."""
    query = select(tokens).where(tokens.c.id > after).order_by(tokens.c.id).limit(limit)
    return [StoredToken(**row) for row in connection.execute(query).mappings()]


def find_token(connection: Connection, token_id: int) -> StoredToken | None:
    row = connection.execute(select(tokens).where(tokens.c.id == token_id)).mappings().one_or_none()
    return None if row is None else StoredToken(**row)


def find_named_token(connection: Connection, name: str) -> StoredToken | None:
    """The token of this name that is not revoked."""
    query = select(tokens).where(tokens.c.name == name, tokens.c.revoked_at.is_(None))
    row = connection.execute(query).mappings().one_or_none()
    return None if row is None else StoredToken(**row)


def has_admin_token(connection: Connection, but: int | None = None) -> bool:
    """Whether a valid admin token exists besides the token `but`. Locks the admin tokens."""
    query = select(tokens.c.id).where(tokens.c.scope == "admin", _IS_VALID)
    return any(found != but for found in connection.execute(query.order_by(tokens.c.id).with_for_update()).scalars())


def add_token(connection: Connection, row: Mapping[str, Any]) -> StoredToken:
    """Insert a token. Raises IntegrityError if another transaction has just used its name."""
    return StoredToken(**connection.execute(insert(tokens).returning(*tokens.c), row).mappings().one())


def revoke_token(connection: Connection, token_id: int, at: datetime) -> None:
    """Set `revoked_at`, if it is not set."""
    connection.execute(
        update(tokens).where(tokens.c.id == token_id, tokens.c.revoked_at.is_(None)).values(revoked_at=at)
    )


def save_uses(connection: Connection, used: Mapping[int, datetime]) -> None:
    """Set the time of the last use, by token id, unless another replica has stored a later one."""
    for token_id, at in used.items():
        older = or_(tokens.c.last_used_at.is_(None), tokens.c.last_used_at < at)
        connection.execute(update(tokens).where(tokens.c.id == token_id, older).values(last_used_at=at))


def add_audit(
    connection: Connection, *, at: datetime, actor: str | None, action: str, subject: str, details: Mapping[str, Any]
) -> None:
    """Insert an audit entry."""
    row = {"at": at, "actor": actor, "action": action, "subject": subject, "details": to_text(dict(details))}
    connection.execute(insert(audit), row)


def list_audit(connection: Connection, *, after: int, limit: int) -> Sequence[AuditEntry]:
    """Up to `limit` entries with ids above `after`, oldest first."""
    query = select(audit).where(audit.c.id > after).order_by(audit.c.id).limit(limit)
    return [AuditEntry(**{**row, "details": from_text(row["details"])}) for row in connection.execute(query).mappings()]
