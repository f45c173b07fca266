"""The interactive documentation at /docs, from files of this installation: it works without an internet."""

from importlib.util import find_spec
from pathlib import Path

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, Response
from starlette.routing import Route

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>RemoteLR API</title>
<link rel="icon" href="docs/favicon.png">
<link rel="stylesheet" href="docs/swagger-ui.css">
</head>
<body>
<div id="api"></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/start.js"></script>
</body>
</html>
"""
# `validatorUrl: null`, else the page asks a server of Swagger's for a badge.
_START = """SwaggerUIBundle({
  url: "openapi.json", dom_id: "#api", deepLinking: true, validatorUrl: null, tryItOutEnabled: true
});
"""
# Swagger UI sets styles and draws icons from within; scripts come from files alone.
_POLICY = (
    "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; frame-ancestors 'none'; "
    "base-uri 'none'; form-action 'none'"
)
_ASSETS = ("swagger-ui-bundle.js", "swagger-ui.css", "favicon.png")


def install(app: FastAPI) -> None:
    """Serve the documentation of `app`."""
    folder = _assets_folder()
    headers = {"Content-Security-Policy": _POLICY}

    async def page(_: Request) -> Response:
        return HTMLResponse(_PAGE, headers=headers)

    async def start(_: Request) -> Response:
        return Response(_START, media_type="text/javascript", headers=headers)

    async def asset(request: Request) -> Response:
        return FileResponse(folder / Path(request.scope["path"]).name, headers=headers)

    app.router.routes.append(Route("/docs", page, include_in_schema=False))
    app.router.routes.append(Route("/docs/start.js", start, include_in_schema=False))
    for name in _ASSETS:
        app.router.routes.append(Route(f"/docs/{name}", asset, include_in_schema=False))


def _assets_folder() -> Path:
    """Where the package that brings Swagger UI keeps it; found without importing that package."""
    spec = find_spec("fastapi_offline")
    assert spec is not None and spec.origin is not None, "fastapi-offline is installed with the service"
    return Path(spec.origin).parent / "static"
