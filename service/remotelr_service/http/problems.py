"""Problems of RFC 9457: `application/problem+json` with a stable `code`.

`error_handlers.py` converts errors to problems.
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

# code -> HTTP status and title, for errors of the rules, of the service and of HTTP.
PROBLEMS: Mapping[str, tuple[int, str]] = {
    "invalid_policy": (422, "The policy is invalid"),
    "invalid_report": (422, "The report is invalid"),
    "invalid_command": (422, "The command is invalid"),
    "policy_conflict": (409, "The run exists with another policy"),
    "attempt_conflict": (409, "The attempt exists with another epoch"),
    "stale_attempt": (409, "A newer attempt is in force"),
    "unknown_attempt": (409, "The attempt does not exist"),
    "report_conflict": (409, "The epoch was reported with other metrics"),
    "out_of_order": (409, "The epoch is before the newest decision"),
    "server_behind": (409, "The trainer has a newer decision than the log"),
    "run_finished": (409, "The run is finished"),
    "run_not_found": (404, "The run does not exist"),
    "experiment_not_found": (404, "The experiment does not exist"),
    "command_not_found": (404, "The command does not exist"),
    "seq_conflict": (409, "The log has a newer event"),
    "too_many_runs": (422, "The bulk command selects too many runs"),
    "experiment_conflict": (409, "The run belongs to another experiment"),
    "unauthorized": (401, "A token is needed"),
    "forbidden": (403, "The token does not permit this request"),
    "cross_origin": (403, "The request comes from another site's page"),
    "token_not_found": (404, "The token does not exist"),
    "token_name_taken": (409, "Another token has this name"),
    "admin_token_needed": (409, "An admin token is required"),
    "misdirected_request": (421, "The host name is not one of this service"),
    "rate_limited": (429, "Too many requests, or too many invalid tokens"),
    "database_unavailable": (503, "The database is unavailable"),
    "run_busy": (503, "The run is locked"),
    "overloaded": (503, "The service is overloaded"),
    "invalid_database_url": (503, "The database URL is invalid"),
    "database_in_use": (503, "Another process uses the database"),
    "database_damaged": (503, "The database is damaged"),
    "schema_outdated": (503, "The database needs a migration"),
    "invalid_request": (422, "The request is invalid"),
    "too_many_tags": (422, "The run has too many tags"),
    "evaluation_too_long": (422, "The evaluation takes too long"),
    "log_too_long": (422, "The log is too long for one request"),
    "epoch_undecided": (404, "The epoch has no decision"),
    "steps_unknown": (422, "The steps of an epoch are unknown"),
    "malformed_json": (400, "The body is not JSON"),
    "malformed_request": (400, "The request is not HTTP"),
    "not_found": (404, "The path does not exist"),
    "method_not_allowed": (405, "The method is not allowed"),
    "request_timeout": (408, "The request came too slowly"),
    "body_too_large": (413, "The body is too large"),
    "target_too_long": (414, "The URL is too long"),
    "unsupported_media_type": (415, "The body is not declared as JSON"),
    "headers_too_large": (431, "The request headers are too large"),
    "internal_error": (500, "The service failed"),
    "not_ready": (503, "The service is not ready"),
}


class FieldProblem(BaseModel):
    """One invalid field."""

    path: str = Field(description="Path of the field, such as `metrics.val_loss` or `policy.schedule.factor`.")
    message: str = Field(description="The expected value, the actual value, and the action to take.")


class Problem(BaseModel):
    """The reason why a request was rejected or failed."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(description="`urn:remotelr:problem:` and the code.")
    title: str
    status: int
    code: str = Field(description="A stable code for programs.", examples=["report_conflict"])
    detail: str = Field(description="The error and the action to take, as text.")
    errors: list[FieldProblem] | None = Field(None, description="The invalid fields, for 400 and 422.")


class Refusal(HTTPException):
    """A request that is rejected before any action. (An HTTPException, because FastAPI wraps other exceptions.)"""

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
    """The response of a problem. A 503 always has the header Retry-After."""
    status, _ = PROBLEMS[code]
    sent = dict(headers or {})
    if status == 503:
        sent.setdefault("Retry-After", str(RETRY_AFTER_S))
    return Response(problem_body(code, detail, **members), status, headers=sent, media_type=MEDIA_TYPE)


def problem_body(code: str, detail: str, **members: Any) -> bytes:
    """The body of a problem, at most 8 KiB: extra members are omitted, largest first, until it fits."""
    status, title = PROBLEMS[code]
    standard = {
        "type": f"urn:remotelr:problem:{code}",
        "title": title,
        "status": status,
        "code": code,
        "detail": shortened(detail),
    }
    # An extra member must not replace a standard one.
    extra = {name: value for name, value in members.items() if name not in standard and value is not None}
    body = _encoded({**standard, **extra})
    while len(body) > MAX_BODY_BYTES:
        largest = max(extra, key=lambda name: len(_encoded(extra[name])))
        del extra[largest]
        body = _encoded({**standard, **extra, "left_out": True})
    return body


def shortened(text: str) -> str:
    """The text, at most 600 characters, with tokens redacted."""
    text = redact_tokens(text)
    return text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}…"


def _encoded(value: Any) -> bytes:
    return json.dumps(value, allow_nan=False, separators=(",", ":"), default=str).encode()


def described(*codes: str) -> Responses:
    """OpenAPI responses of the problems with these codes."""
    found: Responses = {}
    for code in codes:
        status, title = PROBLEMS[code]
        entry = found.setdefault(status, {"description": "", "content": {MEDIA_TYPE: {"schema": _REFERENCE}}})
        text = f"`{code}`: {title}."
        entry["description"] = f"{entry['description']} {text}".strip()
        if status in (429, 503):
            entry["headers"] = RETRY_AFTER_HEADER
        if status == 401:
            entry["headers"] = _CHALLENGE_HEADER
    return found


def created(model: type[BaseModel], name: str) -> Responses:
    """The OpenAPI response 201 with the header Location. name: what was created."""
    location = {"description": f"The {name}.", "schema": {"type": "string"}}
    return {201: {"model": model, "description": f"The {name} was created.", "headers": {"Location": location}}}


_REFERENCE = {"$ref": "#/components/schemas/Problem"}
RETRY_AFTER_HEADER = {
    "Retry-After": {"description": "Seconds until a retry.", "schema": {"type": "integer", "minimum": 0}}
}
_CHALLENGE_HEADER = {"WWW-Authenticate": {"description": "How to authenticate.", "schema": {"type": "string"}}}
