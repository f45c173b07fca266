"""Endpoints of tokens and of the audit."""

from fastapi import APIRouter, Request

from remotelr_service.features.tokens import schemas, tokens
from remotelr_service.http.auth import audit
from remotelr_service.http.dependencies import CalledBy, Ctx, gate_of
from remotelr_service.http.fields import AfterNumber, Limit, TokenNumber
from remotelr_service.http.problems import described
from remotelr_service.http.route import StrictRoute

router = APIRouter(prefix="/v1", tags=["tokens"], route_class=StrictRoute)


@router.post(
    "/tokens",
    operation_id="create_token",
    status_code=201,
    responses={
        201: {"model": schemas.MadeTokenAnswer, "description": "The token. Only this response contains it."},
        **described("token_name_taken", "admin_token_needed", "invalid_request", "database_unavailable"),
    },
)
async def create_token(
    body: schemas.TokenCreation, caller: CalledBy, ctx: Ctx, request: Request
) -> schemas.MadeTokenAnswer:
    """Create a token. The first token must have the scope `admin`, because from then on every request needs one."""
    gate = gate_of(request)
    made = await tokens.create_token(ctx.writer, body.request(), by=caller.name, has_admin=gate.has_settings_admin)
    await gate.token_cache.reload()
    return schemas.MadeTokenAnswer.read(made.token, token=made.secret)


@router.get("/tokens", operation_id="list_tokens", responses=described("invalid_request", "database_unavailable"))
def list_tokens(*, ctx: Ctx, after: AfterNumber = 0, limit: Limit = 100) -> schemas.TokenPageAnswer:
    """Tokens in order of creation, revoked ones too. The secrets cannot be read."""
    page = tokens.list_tokens(ctx.reads, after, limit)
    return schemas.TokenPageAnswer(tokens=[schemas.TokenAnswer.read(token) for token in page.tokens], next=page.after)


@router.delete(
    "/tokens/{token}",
    operation_id="revoke_token",
    status_code=204,
    responses=described("token_not_found", "admin_token_needed", "invalid_request", "database_unavailable"),
)
async def revoke_token(token: TokenNumber, caller: CalledBy, ctx: Ctx, request: Request) -> None:
    """Revoke the token. Every replica rejects it within 5 seconds. A repeated request changes nothing."""
    gate = gate_of(request)
    await tokens.revoke_token(ctx.writer, token, by=caller.name, has_admin=gate.has_settings_admin)
    await gate.token_cache.reload()


@router.get("/audit", operation_id="list_audit", responses=described("invalid_request", "database_unavailable"))
def list_audit(*, ctx: Ctx, after: AfterNumber = 0, limit: Limit = 100) -> schemas.AuditPageAnswer:
    """The audit of tokens and of deleted runs, oldest first. An existing run has its own log."""
    entries, next_after = audit.list_audit(ctx.reads, after, limit)
    return schemas.AuditPageAnswer(entries=[schemas.AuditAnswer.read(entry) for entry in entries], next=next_after)
