"""What is raised, turned into problems: refusals of the rules, failures of the service, requests that are wrong."""

import difflib
import reprlib
from collections.abc import Sequence
from typing import Any, get_args

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import iter_route_contexts
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import compile_path

from remotelr.rules import InvalidPolicy, RulesError
from remotelr_service.actions.errors import ServiceError
from remotelr_service.api.fields import SAID_OF_PATTERNS
from remotelr_service.api.problems import PROBLEMS, Refusal, problem, shortened

MAX_FIELDS = 20

log = structlog.get_logger("remotelr")

_short = reprlib.Repr()
_short.maxstring = _short.maxother = 60
_short.maxlist = _short.maxdict = 3
_short.maxlevel = 2


def install(app: FastAPI) -> None:
    """Answer every error of `app` with a problem."""
    app.add_exception_handler(RulesError, _rules_error)
    app.add_exception_handler(ServiceError, _service_error)
    app.add_exception_handler(Refusal, _refusal)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_error)


def rules_problem(error: RulesError) -> tuple[str, dict[str, Any]]:
    """The code and the members of a refusal by the rules."""
    details = dict(error.details)
    if isinstance(error, InvalidPolicy):
        details.pop("path", None)
        path = _below("policy", error.path)
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
    log.warning("not done", code=error.code, detail=error.message)
    return problem(error.code, error.message, headers={"Retry-After": str(error.retry_after_s)}, **error.details)


async def _refusal(_: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)
    return problem(error.code, error.detail, headers=error.headers, errors=error.errors)


async def _validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    found = error.errors()
    wrong = [_field_problem(each, request) for each in found[:MAX_FIELDS]]
    first = f"{wrong[0]['path']}: {wrong[0]['message']}"
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    return problem("invalid_request", f"{first}{more}", errors=wrong)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    path = request.scope["path"]
    if error.status_code == 405:
        allowed = allowed_methods(request.app, path)
        detail = f"{request.method[:20]} is not one of the methods of this path: {allowed}"
        return problem("method_not_allowed", detail, headers={"Allow": allowed})
    if error.status_code == 404:
        hint = ", and the key of a run holds no '/'" if path.startswith("/v1/runs/") else ""
        return problem("not_found", f"there is nothing at this path: /docs lists what there is{hint}")
    code = next((code for code, (status, _) in PROBLEMS.items() if status == error.status_code), "internal_error")
    return problem(code, str(error.detail))


def allowed_methods(app: FastAPI, path: str) -> str:
    """All methods of all routes at `path`, for the Allow header: routes know only their own."""
    allowed: set[str] = set()
    for route in iter_route_contexts(app.routes):
        if route.path is not None and route.methods and compile_path(route.path)[0].match(path):
            allowed |= route.methods
    if "GET" in allowed:
        allowed.add("HEAD")
    return ", ".join(sorted(allowed))


def _field_problem(error: dict[str, Any], request: Request) -> dict[str, str]:
    where, *names = error["loc"]
    path = _path(names) or str(where)
    if where != "body":
        path = f"{where}.{path}" if names else path
    return {"path": shortened(path), "message": shortened(_message(error, names, request))}


def _message(error: dict[str, Any], names: Sequence[str | int], request: Request) -> str:
    if error["type"] == "missing":
        return "is required" if names else "a JSON body is required"
    if error["type"] == "extra_forbidden":
        return f"unknown field{_hint(str(names[-1]), _known_fields(names[:-1], request))}"
    said = error["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    said = f"{said[:1].lower()}{said[1:]}"
    if error["type"] == "string_pattern_mismatch" and error["ctx"]["pattern"] in SAID_OF_PATTERNS:
        said = f"expected {SAID_OF_PATTERNS[error['ctx']['pattern']]}"
    given = error["input"]
    return said if isinstance(given, BaseModel) else f"{said}, not {_short.repr(given)}"


def _hint(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name[:60], known, n=1)
    if close:
        return f": did you mean {close[0]}?"
    return f": known are {', '.join(sorted(known))}" if known else ""


def _known_fields(names: Sequence[str | int], request: Request) -> list[str]:
    """The fields of the model that `names` lead to from the body of the request's route."""
    field = getattr(request.scope.get("route"), "body_field", None)
    annotation: Any = getattr(getattr(field, "field_info", None), "annotation", None)
    for name in names:
        if isinstance(name, int):
            annotation = next(iter(get_args(annotation)), None)
        elif isinstance(annotation, type) and issubclass(annotation, BaseModel) and name in annotation.model_fields:
            annotation = annotation.model_fields[name].annotation
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return list(annotation.model_fields)
    return []


def _path(names: Sequence[str | int]) -> str:
    path = ""
    for name in names:
        path += f"[{name}]" if isinstance(name, int) else _below("", name) if not path else f".{_shown(name)}"
    return path


def _shown(name: str) -> str:
    return name if len(name) <= 60 and name.isprintable() else _short.repr(name)


def _below(parent: str, path: str) -> str:
    if not parent:
        return _shown(path)
    joint = "" if not path or path.startswith("[") else "."
    return f"{parent}{joint}{path}"
