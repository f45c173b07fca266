"""The OpenAPI document: FastAPI's, with security schemes and the problems of each route."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from remotelr_service.http.auth.permissions import OPEN, RIGHTS
from remotelr_service.http.problems import Problem, described

_ALWAYS = ("overloaded", "internal_error")
_GUARDED = (
    "malformed_request",
    "unauthorized",
    "forbidden",
    "misdirected_request",
    "rate_limited",
    "database_unavailable",
)
_WRITING = ("cross_origin",)
_WITH_BODY = ("malformed_json", "request_timeout", "body_too_large", "unsupported_media_type")


def install(app: FastAPI) -> None:
    """Replace the OpenAPI document of `app`."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _document(app)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI documents this


def _document(app: FastAPI) -> dict[str, Any]:
    document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    _, problems = models_json_schema([(Problem, "serialization")], ref_template="#/components/schemas/{model}")
    document["components"]["schemas"] |= problems["$defs"]
    document["components"]["securitySchemes"] = {"token": _TOKEN}
    for operations in document["paths"].values():
        for method, operation in operations.items():
            is_open = RIGHTS.get(operation["operationId"]) == OPEN
            operation["security"] = [] if is_open else [{"token": []}]
            codes = () if is_open else _GUARDED
            _add_problems(operation, codes + (_WRITING if method != "get" else ()))
    return document


_TOKEN = {
    "type": "http",
    "scheme": "bearer",
    "bearerFormat": "rlr_...",
    "description": "A token of this service. A loopback address needs none until the first token exists.",
}


def _add_problems(operation: dict[str, Any], more: tuple[str, ...]) -> None:
    codes = _ALWAYS + more + (_WITH_BODY if "requestBody" in operation else ())
    responses = operation["responses"]
    listed = " ".join(response["description"] for response in responses.values())
    for status, response in described(*(code for code in codes if f"`{code}`" not in listed)).items():
        own = responses.setdefault(str(status), response)
        if own is not response:
            own["description"] += f" {response['description']}"
    operation["responses"] = dict(sorted(responses.items()))
