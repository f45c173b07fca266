"""The interactive documentation at /docs, served from installed files, so that it works offline."""

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
# Without `validatorUrl: null` the page requests a badge from a server of Swagger.
_START = """SwaggerUIBundle({
  url: "openapi.json", dom_id: "#api", deepLinking: true, validatorUrl: null, tryItOutEnabled: true
});
"""
# Swagger UI has inline styles and icons; scripts are files.
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
    """The folder of Swagger UI in its package, found without importing the package."""
    spec = find_spec("fastapi_offline")
    assert spec is not None and spec.origin is not None, "fastapi-offline is installed with the service"
    return Path(spec.origin).parent / "static"
