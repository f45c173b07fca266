"""Problems, as RFC 9457 has them: `application/problem+json` with a `code` that is never renamed.

Here is how a problem looks and which there are. `errors.py` beside this file turns what is raised into them.
"""

import json
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.responses import Response

from remotelr_service.logs import redact_tokens

Responses = dict[int | str, dict[str, Any]]

MEDIA_TYPE = "application/problem+json"
MAX_BODY_BYTES = 8 * 1024
MAX_TEXT = 600
RETRY_AFTER_S = 1

# code -> HTTP status and title. What the rules refuse, what the service cannot do, and HTTP's own.
PROBLEMS: Mapping[str, tuple[int, str]] = {
    "invalid_policy": (422, "The policy cannot be one"),
    "invalid_report": (422, "The run cannot take this report"),
    "invalid_command": (422, "The run cannot take this command"),
    "policy_conflict": (409, "The run exists with another policy"),
    "attempt_conflict": (409, "The attempt is known, for another epoch"),
    "stale_attempt": (409, "A newer attempt has taken over"),
    "unknown_attempt": (409, "The run never had this attempt"),
    "report_conflict": (409, "The epoch was reported with other metrics"),
    "out_of_order": (409, "The epoch lies behind the newest decision"),
    "server_behind": (409, "The trainer knows more than this log holds"),
    "run_finished": (409, "The run is finished"),
    "run_not_found": (404, "There is no such run"),
    "experiment_not_found": (404, "There is no such experiment"),
    "command_not_found": (404, "There is no such command"),
    "seq_conflict": (409, "The run has moved on"),
    "too_many_runs": (422, "One command cannot be for so many runs"),
    "experiment_conflict": (409, "The run belongs to another experiment"),
    "unauthorized": (401, "A token is needed"),
    "forbidden": (403, "The token does not allow this"),
    "cross_origin": (403, "A page of another site asks"),
    "token_not_found": (404, "There is no such token"),
    "token_name_taken": (409, "Another token has this name"),
    "admin_token_needed": (409, "An admin token has to be there"),
    "misdirected_request": (421, "This is not the service of that name"),
    "rate_limited": (429, "Too many requests with one token, or with wrong ones"),
    "database_unavailable": (503, "The database cannot be reached"),
    "run_busy": (503, "The run is busy"),
    "overloaded": (503, "The service has too much to do"),
    "invalid_database_url": (503, "The database URL names no database"),
    "database_in_use": (503, "Another process has the database"),
    "database_damaged": (503, "The database is damaged"),
    "schema_outdated": (503, "The database needs a migration"),
    "invalid_request": (422, "The request is not what this call takes"),
    "too_many_tags": (422, "A run cannot have so many tags"),
    "evaluation_too_long": (422, "The evaluation takes too long"),
    "log_too_long": (422, "The run has gone through too much for one request"),
    "epoch_undecided": (404, "The epoch has no decision"),
    "steps_unknown": (422, "The number of steps of an epoch is not known"),
    "malformed_json": (400, "The body is not JSON"),
    "malformed_request": (400, "The request is not HTTP"),
    "not_found": (404, "There is nothing at this path"),
    "method_not_allowed": (405, "This path does not take this method"),
    "request_timeout": (408, "The request came too slowly"),
    "body_too_large": (413, "The body is too large"),
    "target_too_long": (414, "The address is too long"),
    "unsupported_media_type": (415, "The body is not declared as JSON"),
    "headers_too_large": (431, "The request's head is too large"),
    "internal_error": (500, "The service failed"),
    "not_ready": (503, "The service is not ready"),
}


class FieldProblem(BaseModel):
    """One field that is wrong."""

    path: str = Field(description="Where the field stands, as in `metrics.val_loss` or `policy.schedule.factor`.")
    message: str = Field(description="What was expected there, what was found, and what to do.")


class Problem(BaseModel):
    """Why a request was refused, or could not be answered."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(description="`urn:remotelr:problem:` and the code.")
    title: str
    status: int
    code: str = Field(description="Stable; programs decide by it.", examples=["report_conflict"])
    detail: str = Field(description="For people: what was found, what was expected, what to do.")
    errors: list[FieldProblem] | None = Field(None, description="The fields that are wrong, for 400 and 422.")


class Refusal(HTTPException):
    """A request refused before any action saw it. (An HTTPException, for FastAPI lets no other through.)"""

    def __init__(
        self,
        code: str,
        detail: str,
        *,
        headers: Mapping[str, str] | None = None,
        errors: list[dict[str, str]] | None = None,
    ) -> None:
        super().__init__(PROBLEMS[code][0], detail, headers)
        self.code = code
        self.errors = errors


def problem(code: str, detail: str, *, headers: Mapping[str, str] | None = None, **members: Any) -> Response:
    """The response for a problem; a 503 always says when to ask again."""
    status, _ = PROBLEMS[code]
    sent = dict(headers or {})
    if status == 503:
        sent.setdefault("Retry-After", str(RETRY_AFTER_S))
    return Response(problem_body(code, detail, **members), status, headers=sent, media_type=MEDIA_TYPE)


def problem_body(code: str, detail: str, **members: Any) -> bytes:
    """The body of a problem, at most 8 KiB: members that would make it longer are left out, largest first."""
    status, title = PROBLEMS[code]
    standard = {
        "type": f"urn:remotelr:problem:{code}",
        "title": title,
        "status": status,
        "code": code,
        "detail": shortened(detail),
    }
    # A detail must not pass for a member of the standard.
    extra = {name: value for name, value in members.items() if name not in standard and value is not None}
    body = _encoded({**standard, **extra})
    while len(body) > MAX_BODY_BYTES:
        largest = max(extra, key=lambda name: len(_encoded(extra[name])))
        del extra[largest]
        body = _encoded({**standard, **extra, "left_out": True})
    return body


def shortened(text: str) -> str:
    """What is told of what was sent: not all of it, and no token that was sent in the wrong place."""
    text = redact_tokens(text)
    return text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}…"


def _encoded(value: Any) -> bytes:
    return json.dumps(value, allow_nan=False, separators=(",", ":"), default=str).encode()


def described(*codes: str) -> Responses:
    """The problems with these codes, for the OpenAPI document of a route, next to those of every route."""
    found: Responses = {}
    for code in codes:
        status, title = PROBLEMS[code]
        entry = found.setdefault(status, {"description": "", "content": {MEDIA_TYPE: {"schema": _REFERENCE}}})
        said = f"`{code}`: {title}."
        entry["description"] = f"{entry['description']} {said}".strip()
        if status in (429, 503):
            entry["headers"] = RETRY_AFTER_HEADER
        if status == 401:
            entry["headers"] = _CHALLENGE_HEADER
    return found


_REFERENCE = {"$ref": "#/components/schemas/Problem"}
RETRY_AFTER_HEADER = {
    "Retry-After": {"description": "Seconds after which to ask again.", "schema": {"type": "integer", "minimum": 0}}
}
_CHALLENGE_HEADER = {"WWW-Authenticate": {"description": "How to authenticate.", "schema": {"type": "string"}}}
