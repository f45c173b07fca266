"""The OpenAPI document: what FastAPI finds in the routes, and the problems that every one of them can answer with."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from remotelr_service.api.problems import Problem, described

_ALWAYS = ("overloaded", "internal_error")
_WITH_BODY = ("malformed_json", "request_timeout", "body_too_large", "unsupported_media_type")


def install(app: FastAPI) -> None:
    """Let `app` describe itself in full."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _document(app)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # the way FastAPI offers


def _document(app: FastAPI) -> dict[str, Any]:
    document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    _, problems = models_json_schema([(Problem, "serialization")], ref_template="#/components/schemas/{model}")
    document["components"]["schemas"] |= problems["$defs"]
    for operations in document["paths"].values():
        for operation in operations.values():
            _add_problems(operation)
    return document


def _add_problems(operation: dict[str, Any]) -> None:
    codes = _ALWAYS + (_WITH_BODY if "requestBody" in operation else ())
    for status, response in described(*codes).items():
        own = operation["responses"].setdefault(str(status), response)
        if own is not response:
            own["description"] += f" {response['description']}"
    operation["responses"] = dict(sorted(operation["responses"].items()))
