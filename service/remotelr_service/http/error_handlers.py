"""Converts errors to problems: errors of the rules, of the service, and of invalid requests."""

import difflib
import reprlib
from collections.abc import Sequence
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import iter_route_contexts
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import compile_path

from remotelr.rules import InvalidPolicy, RulesError
from remotelr_service.errors import ServiceError
from remotelr_service.http.fields import PATTERN_TEXTS
from remotelr_service.http.problems import PROBLEMS, Refusal, problem, shortened

MAX_FIELDS = 20

# The error types of a discriminator such as `type`.
_TAGS = ("union_tag_not_found", "union_tag_invalid")

log = structlog.get_logger("remotelr")

_short = reprlib.Repr()
_short.maxstring = _short.maxother = 60
_short.maxlist = _short.maxdict = 3
_short.maxlevel = 2


def install(app: FastAPI) -> None:
    """Install the handlers that answer errors of `app` with problems."""
    app.add_exception_handler(RulesError, _rules_error)
    app.add_exception_handler(ServiceError, _service_error)
    app.add_exception_handler(Refusal, _refusal)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_error)


def rules_problem(error: RulesError) -> tuple[str, dict[str, Any]]:
    """The problem's code and members for an error of the rules."""
    details = dict(error.details)
    if isinstance(error, InvalidPolicy):
        details.pop("path", None)
        path = _join_path("policy", error.path)
        return error.code, {**details, "errors": [{"path": path, "message": shortened(error.reason)}]}
    field = details.pop("field", None)
    if field is not None:
        details["errors"] = [{"path": field, "message": shortened(error.message)}]
    return error.code, details


async def _rules_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, RulesError)
    code, members = rules_problem(error)
    return problem(code, error.message, **members)


async def _service_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, ServiceError)
    if error.retry_after_s is None:
        return problem(error.code, error.message, **error.details)
    log.warning("temporary failure", code=error.code, detail=error.message)
    return problem(error.code, error.message, headers={"Retry-After": str(error.retry_after_s)}, **error.details)


async def _refusal(_: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)
    return problem(error.code, error.detail, headers=error.headers, errors=error.errors)


async def _validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    found = error.errors()
    errors_shown = [_field_problem(each, request) for each in found[:MAX_FIELDS]]
    first = f"{errors_shown[0]['path']}: {errors_shown[0]['message']}"
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    return problem("invalid_request", f"{first}{more}", errors=errors_shown)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    path = request.scope["path"]
    if error.status_code == 405:
        allowed = allowed_methods(request.app, path)
        detail = f"{request.method[:20]} is not allowed for this path; use {allowed}"
        return problem("method_not_allowed", detail, headers={"Allow": allowed})
    if error.status_code == 404:
        hint = "; a run key contains no '/'" if path.startswith("/v1/runs/") else ""
        return problem("not_found", f"this path does not exist; see /docs{hint}")
    code = next((code for code, (status, _) in PROBLEMS.items() if status == error.status_code), "internal_error")
    return problem(code, str(error.detail))


def allowed_methods(app: FastAPI, path: str) -> str:
    """All methods of all routes at `path`, for the header Allow. A route knows only its own methods."""
    allowed: set[str] = set()
    for route in iter_route_contexts(app.routes):
        if route.path is not None and route.methods and compile_path(route.path)[0].match(path):
            allowed |= route.methods
    if "GET" in allowed:
        allowed.add("HEAD")
    return ", ".join(sorted(allowed))


def _field_problem(error: dict[str, Any], request: Request) -> dict[str, str]:
    where, *found = error["loc"]
    names, annotation = _resolve_path(found, request) if where == "body" else (found, None)
    if error["type"] in _TAGS:
        names = [*names, str(error["ctx"]["discriminator"]).strip("'")]
    path = _path(names) or str(where)
    if where != "body":
        path = f"{where}.{path}" if names else path
    return {"path": shortened(path), "message": shortened(_message(error, names, annotation))}


def _message(error: dict[str, Any], names: Sequence[str | int], annotation: Any) -> str:
    """The error in plain words. annotation: the type that contains an unknown field."""
    if error["type"] in ("missing", "union_tag_not_found"):
        return "is required" if names else "a JSON body is required"
    if error["type"] == "union_tag_invalid":
        known = error["ctx"]["expected_tags"].replace("'", "").split(", ")
        return f"unknown{_hint(str(error['ctx']['tag']), known)}"
    if error["type"] == "extra_forbidden":
        return f"unknown field{_hint(str(names[-1]), _known_fields(annotation))}"
    message = error["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    message = f"{message[:1].lower()}{message[1:]}"
    if error["type"] == "string_pattern_mismatch" and error["ctx"]["pattern"] in PATTERN_TEXTS:
        message = f"expected {PATTERN_TEXTS[error['ctx']['pattern']]}"
    given = error["input"]
    if isinstance(given, BaseModel) or message == "is required":
        return message
    return f"{message}, not {_short.repr(given)}"


def _hint(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name[:60], known, n=1)
    if close:
        return f": did you mean {close[0]}?"
    return f": known are {', '.join(sorted(known))}" if known else ""


def _resolve_path(names: Sequence[str | int], request: Request) -> tuple[list[str | int], Any]:
    """The path without the union variants that pydantic adds to `names`, and the type that contains its last member."""
    field = getattr(request.scope.get("route"), "body_field", None)
    annotation: Any = getattr(getattr(field, "field_info", None), "annotation", None)
    path: list[str | int] = []
    parent: Any = None
    for name in names:
        kinds = _variants(annotation)
        if isinstance(name, str) and name in kinds:
            annotation = kinds[name]
            continue
        path.append(name)
        parent, annotation = annotation, _member(annotation, name)
    return path, parent


def _member(annotation: Any, name: str | int) -> Any:
    models = _models(annotation)
    if len(models) == 1:
        known = models[0].model_fields.get(str(name))
        return None if known is None else known.annotation
    if isinstance(name, int):
        return next(iter(get_args(annotation)), None)
    # A dict with arbitrary keys: the type of its values.
    return get_args(annotation)[-1] if get_origin(annotation) is dict else None


def _variants(annotation: Any) -> dict[str, type[BaseModel]]:
    """The models of a union by their `type`."""
    models = _models(annotation)
    if len(models) < 2:
        return {}
    return {str(get_args(model.model_fields["type"].annotation)[0]): model for model in models}


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if get_origin(annotation) is Annotated:
        return _models(get_args(annotation)[0])
    if get_origin(annotation) not in (Union, UnionType):
        return []
    return [model for part in get_args(annotation) for model in _models(part)]


def _known_fields(annotation: Any) -> list[str]:
    models = _models(annotation)
    return list(models[0].model_fields) if len(models) == 1 else []


def _path(names: Sequence[str | int]) -> str:
    path = ""
    for name in names:
        path += f"[{name}]" if isinstance(name, int) else _join_path("", name) if not path else f".{_shown(name)}"
    return path


def _shown(name: str) -> str:
    return name if len(name) <= 60 and name.isprintable() else _short.repr(name)


def _join_path(parent: str, path: str) -> str:
    if not parent:
        return _shown(path)
    joint = "" if not path or path.startswith("[") else "."
    return f"{parent}{joint}{path}"
