"""Creates, lists and revokes tokens. Only the creation gives the secret."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from sqlalchemy import Engine

from remotelr_service.db.engine import reading
from remotelr_service.db.queries import tokens as stored
from remotelr_service.db.queries.tokens import StoredToken
from remotelr_service.db.writer.transaction import WriteTransaction
from remotelr_service.db.writer.writer import Writer
from remotelr_service.errors import AdminTokenNeeded, TokenNameTaken, TokenNotFound
from remotelr_service.http.auth import audit
from remotelr_service.http.auth.callers import Scope
from remotelr_service.http.auth.credentials import digest, new_token

FIRST_NAME = "admin"


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRequest:
    """A new token. name: the actor in logs, unique among tokens that are not revoked.

    experiment, run: restrict a token of the scope `report`, which needs one of them; other scopes take none.
    expires_in_s: None means that it does not expire.
    """

    name: str
    scope: Scope
    experiment: str | None = None
    run: str | None = None
    expires_in_s: int | None = None


@dataclass(frozen=True, slots=True)
class MadeToken:
    """A new token with its secret, which is not stored."""

    token: StoredToken
    secret: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class TokenPage:
    """Tokens in order of creation. after: where the next page continues; None on the last page."""

    tokens: Sequence[StoredToken]
    after: int | None


async def create_token(
    writer: Writer, request: TokenRequest, *, by: str | None = None, has_admin: bool = False
) -> MadeToken:
    """Create a token. by: the caller's name. has_admin: the settings contain an administrator's token.

    Raises TokenNameTaken; AdminTokenNeeded if the first token has another scope than `admin`.
    """
    # The writer may run an action twice.
    secret = new_token()

    def action(tx: WriteTransaction) -> MadeToken:
        named = stored.find_named_token(tx.connection, request.name)
        if named is not None and named.digest != digest(secret):
            raise TokenNameTaken(request.name, named.id)
        if named is not None:
            return MadeToken(named, secret)
        if request.scope != "admin" and not has_admin and not stored.has_admin_token(tx.connection):
            raise AdminTokenNeeded(
                "the first token must have the scope admin: from then on every request needs a token"
            )
        return MadeToken(_add(tx, request, secret, by), secret)

    return await writer.submit(action)


async def create_first_token(writer: Writer, secret: str) -> MadeToken | None:
    """Store the first token, with the scope `admin`. secret: from `new_token`.

    Returns: None if the database has, or had, a token.
    """

    def action(tx: WriteTransaction) -> MadeToken | None:
        if stored.token_version(tx.connection)[0].added:
            return None
        return MadeToken(_add(tx, TokenRequest(name=FIRST_NAME, scope="admin"), secret, None), secret)

    return await writer.submit(action)


def had_tokens(engine: Engine) -> bool:
    """Whether the database has, or had, a token."""
    with reading(engine) as connection:
        return stored.token_version(connection)[0].added > 0


def list_tokens(engine: Engine, after: int = 0, limit: int = 100) -> TokenPage:
    """Up to `limit` tokens with an id above `after`, in order of creation, revoked ones too."""
    with reading(engine) as connection:
        found = stored.list_tokens(connection, after=after, limit=limit + 1)
    shown = found[:limit]
    return TokenPage(shown, shown[-1].id if len(found) > limit else None)


async def revoke_token(writer: Writer, token_id: int, *, by: str | None = None, has_admin: bool = False) -> StoredToken:
    """Revoke the token. A repeated call changes nothing.

    Raises TokenNotFound; AdminTokenNeeded for the last token of the scope `admin`.
    """

    def action(tx: WriteTransaction) -> StoredToken:
        token = _get(tx, token_id)
        if token.revoked_at is not None:
            return token
        is_last = token.scope == "admin" and not stored.has_admin_token(tx.connection, but=token_id)
        if is_last and not has_admin:
            raise AdminTokenNeeded("this is the last token of the scope admin: create another one first")
        stored.revoke_token(tx.writing(), token_id, tx.now)
        _note(tx, "token_revoked", _get(tx, token_id), by)
        return _get(tx, token_id)

    return await writer.submit(action)


def _add(tx: WriteTransaction, request: TokenRequest, secret: str, by: str | None) -> StoredToken:
    row = {
        "name": request.name,
        "scope": request.scope,
        "experiment": request.experiment,
        "run": request.run,
        "digest": digest(secret),
        "created_at": tx.now,
        "created_by": by,
        "expires_at": None if request.expires_in_s is None else tx.now + timedelta(seconds=request.expires_in_s),
    }
    token = stored.add_token(tx.writing(), row)
    _note(tx, "token_created", token, by)
    return token


def _note(tx: WriteTransaction, action: str, token: StoredToken, by: str | None) -> None:
    details = {"token": token.id, "scope": token.scope, "experiment": token.experiment, "run": token.run}
    audit.note(tx, action, token.name, details, by)


def _get(tx: WriteTransaction, token_id: int) -> StoredToken:
    token = stored.find_token(tx.connection, token_id)
    if token is None:
        raise TokenNotFound(token_id)
    return token
