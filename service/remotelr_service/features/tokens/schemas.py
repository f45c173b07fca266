"""Request and response bodies of tokens and of the audit."""

from datetime import datetime
from typing import Annotated, Any, Self

from pydantic import BaseModel, Field, StringConstraints, model_validator

from remotelr_service.features.tokens.tokens import TokenRequest
from remotelr_service.http.auth.callers import Scope
from remotelr_service.http.bodies import RequestBody, ResponseBody
from remotelr_service.http.fields import Key

# Ten years.
MAX_EXPIRES_IN_S = 10 * 366 * 24 * 3600

TokenName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._:@/-]{0,62}$")]


class TokenCreation(RequestBody):
    """A new token."""

    name: TokenName = Field(
        description="The name of the actor in logs: 1 to 63 letters, digits, spaces or any of `._:@/-`, beginning with "
        "a letter or digit. Unique among tokens that are not revoked.",
        examples=["night shift"],
    )
    scope: Scope = Field(
        description="`report` trains and reads the runs of one experiment, or one run; `view` reads all runs; "
        "`operate` also sends commands; `admin` permits everything."
    )
    experiment: Key | None = Field(None, description="With the scope `report`: only runs of this experiment.")
    run: Key | None = Field(None, description="With the scope `report`: only this run.")
    expires_in_s: int | None = Field(
        None,
        ge=1,
        le=MAX_EXPIRES_IN_S,
        description="Seconds until the token expires. Absent: it does not expire.",
    )

    @model_validator(mode="after")
    def _check_restriction(self) -> Self:
        is_restricted = self.experiment is not None or self.run is not None
        if self.scope == "report" and not is_restricted:
            raise ValueError("a token of the scope report needs an experiment or a run")
        if self.scope != "report" and is_restricted:
            raise ValueError(
                f"only a token of the scope report has an experiment or a run, not one of the scope {self.scope}"
            )
        return self

    def request(self) -> TokenRequest:
        return TokenRequest(**self.model_dump())


class TokenAnswer(ResponseBody):
    """A token without its secret."""

    id: int
    name: str
    scope: Scope
    experiment: str | None
    run: str | None
    created_at: datetime
    created_by: str | None = Field(description="The name of the token that created it.")
    expires_at: datetime | None
    last_used_at: datetime | None = Field(description="Precise to a few minutes.")
    revoked_at: datetime | None


class MadeTokenAnswer(TokenAnswer):
    """A new token with its secret."""

    token: str = Field(description="The secret. Only this response contains it.")


class TokenPageAnswer(BaseModel):
    """Tokens in order of creation, revoked ones too."""

    tokens: list[TokenAnswer]
    next: int | None = Field(description="The value of `after` for the next page; null on the last page.")


class AuditAnswer(ResponseBody):
    """One action in the audit."""

    id: int
    at: datetime
    actor: str | None = Field(description="The name of the token of the request; null without tokens.")
    action: str = Field(examples=["token_created", "token_revoked", "policy_set", "run_deleted"])
    subject: str = Field(description="The object of the action: the name of a token, or the key of a run.")
    details: dict[str, Any]


class AuditPageAnswer(BaseModel):
    """The audit, oldest first."""

    entries: list[AuditAnswer]
    next: int | None = Field(description="The value of `after` for the next page; null on the last page.")
