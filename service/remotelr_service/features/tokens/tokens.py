"""Tokens: made, listed, revoked. What is made is shown once, to who made it; nobody can read it later."""

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
    """A token that is wanted. name: what its orders are noted under; one token that is not revoked has it.

    experiment, run: what a token of the scope `report` is kept to; that scope needs one of them, others take none.
    expires_in_s: None is until it is revoked.
    """

    name: str
    scope: Scope
    experiment: str | None = None
    run: str | None = None
    expires_in_s: int | None = None


@dataclass(frozen=True, slots=True)
class MadeToken:
    """A token that was just made. secret: the token itself, here and never again."""

    token: StoredToken
    secret: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class TokenPage:
    """Some tokens in the order they were made. after: what to ask for the next page with; None on the last."""

    tokens: Sequence[StoredToken]
    after: int | None


async def create_token(
    writer: Writer, request: TokenRequest, *, by: str | None = None, has_admin: bool = False
) -> MadeToken:
    """A new token. by: who makes it. has_admin: there is an administrator whose token is not in the database.

    Raises TokenNameTaken, and AdminTokenNeeded where this would be the first one and lets nobody make a second:
    from the first token on nobody gets in without one.
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
                "the first token has to be one of the scope admin: from then on nobody gets in without a token"
            )
        return MadeToken(_add(tx, request, secret, by), secret)

    return await writer.submit(action)


async def create_first_token(writer: Writer, secret: str) -> MadeToken | None:
    """`secret` as the administrator's token of a database that never had any; None where it has, or has just got one.

    secret: made by `new_token`.
    """

    def action(tx: WriteTransaction) -> MadeToken | None:
        if stored.token_version(tx.connection)[0].added:
            return None
        return MadeToken(_add(tx, TokenRequest(name=FIRST_NAME, scope="admin"), secret, None), secret)

    return await writer.submit(action)


def had_tokens(engine: Engine) -> bool:
    """Whether there ever was a token."""
    with reading(engine) as connection:
        return stored.token_version(connection)[0].added > 0


def list_tokens(engine: Engine, after: int = 0, limit: int = 100) -> TokenPage:
    """Up to `limit` tokens in the order they were made, revoked ones too, from the first one behind `after` on."""
    with reading(engine) as connection:
        found = stored.list_tokens(connection, after=after, limit=limit + 1)
    shown = found[:limit]
    return TokenPage(shown, shown[-1].id if len(found) > limit else None)


async def revoke_token(writer: Writer, token_id: int, *, by: str | None = None, has_admin: bool = False) -> StoredToken:
    """The token, which nobody gets in with any more; a second time changes nothing.

    Raises TokenNotFound, and AdminTokenNeeded for the last one of the scope admin.
    """

    def action(tx: WriteTransaction) -> StoredToken:
        token = _found(tx, token_id)
        if token.revoked_at is not None:
            return token
        is_last = token.scope == "admin" and not stored.has_admin_token(tx.connection, but=token_id)
        if is_last and not has_admin:
            raise AdminTokenNeeded(
                "this is the last token of the scope admin: make another one first, else nobody can make one any more"
            )
        stored.revoke_token(tx.writing(), token_id, tx.now)
        _note(tx, "token_revoked", _found(tx, token_id), by)
        return _found(tx, token_id)

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


def _found(tx: WriteTransaction, token_id: int) -> StoredToken:
    token = stored.find_token(tx.connection, token_id)
    if token is None:
        raise TokenNotFound(token_id)
    return token
