"""Tokens and the audit, as bodies."""

from datetime import datetime
from typing import Annotated, Any, Self

from pydantic import BaseModel, Field, StringConstraints, model_validator

from remotelr_service.features.tokens.tokens import TokenRequest
from remotelr_service.http.auth.callers import Scope
from remotelr_service.http.bodies import RequestBody, ResponseBody
from remotelr_service.http.fields import Key

# Ten years; longer is for ever.
MAX_EXPIRES_IN_S = 10 * 366 * 24 * 3600

TokenName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._:@/-]{0,62}$")]


class TokenCreation(RequestBody):
    """A token that is wanted."""

    name: TokenName = Field(
        description="What its orders are noted under: 1 to 63 letters, digits, spaces or any of `._:@/-`, beginning "
        "with a letter or digit. No other token that is not revoked has it.",
        examples=["night shift"],
    )
    scope: Scope = Field(
        description="`report` trains the runs of one experiment, or one run, and sees no others; `view` sees; "
        "`operate` sees and orders; `admin` may do everything."
    )
    experiment: Key | None = Field(None, description="Of the scope `report`: only runs of this experiment.")
    run: Key | None = Field(None, description="Of the scope `report`: only this run.")
    expires_in_s: int | None = Field(
        None,
        ge=1,
        le=MAX_EXPIRES_IN_S,
        description="Seconds until it expires; without it, it lasts until it is revoked.",
    )

    @model_validator(mode="after")
    def _is_kept_where_it_has_to_be(self) -> Self:
        is_restricted = self.experiment is not None or self.run is not None
        if self.scope == "report" and not is_restricted:
            raise ValueError("a token of the scope report needs an experiment or a run that it is kept to")
        if self.scope != "report" and is_restricted:
            raise ValueError(f"only tokens of the scope report are kept to an experiment or a run, not {self.scope}")
        return self

    def request(self) -> TokenRequest:
        return TokenRequest(**self.model_dump())


class TokenAnswer(ResponseBody):
    """What may be known of a token."""

    id: int
    name: str
    scope: Scope
    experiment: str | None
    run: str | None
    created_at: datetime
    created_by: str | None = Field(description="The name of the token that made it.")
    expires_at: datetime | None
    last_used_at: datetime | None = Field(description="To some minutes.")
    revoked_at: datetime | None


class MadeTokenAnswer(TokenAnswer):
    """A token that was just made."""

    token: str = Field(description="The token itself. It is shown here and never again.")


class TokenPageAnswer(BaseModel):
    """Tokens in the order they were made, revoked ones too."""

    tokens: list[TokenAnswer]
    next: int | None = Field(description="Ask again with `after` set to this; null at the end.")


class AuditAnswer(ResponseBody):
    """Something that was done, and has to be remembered."""

    id: int
    at: datetime
    actor: str | None = Field(description="The name of the token it was done with; null where none was needed.")
    action: str = Field(examples=["token_created", "token_revoked", "policy_set", "run_deleted"])
    subject: str = Field(description="What it was done to: the name of a token, the key of a run.")
    details: dict[str, Any]


class AuditPageAnswer(BaseModel):
    """The audit, oldest first."""

    entries: list[AuditAnswer]
    next: int | None = Field(description="Ask again with `after` set to this; null at the end.")
