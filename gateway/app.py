"""The one place where the HTTP parts are joined."""

from collections.abc import Sequence
from importlib.resources import files
from typing import Any

import msgspec
from fastapi import FastAPI
from fastapi.openapi.docs import get_redoc_html, get_swagger_ui_html
from fastapi.telemetry import TelemetryConfig
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway import __version__, openai
from gateway.call import Door
from gateway.config import Settings
from gateway.errors import Fault
from gateway.lifecycle import Lifecycle
from gateway.telemetry import Metrics, Telemetry, exchange_of
from inference import Client

_NO_TRACING = TelemetryConfig(tracing=False, metrics=False, logs=False, auto_configure=False)
_STATUSES = (400, 404, 413, 415, 429, 500, 503, 504)
_REF = "#/components/schemas/{name}"


def create_app(settings: Settings, client: Client, lifecycle: Lifecycle, metrics: Metrics) -> FastAPI:
    """Join routes, docs, errors and telemetry into one application."""
    dialect = openai.OpenAI(Door(client, settings, metrics))
    app = FastAPI(
        title="Headrace",
        version=__version__,
        routes=[*dialect.routes(), *lifecycle.routes()],  # first and plain: the cheap path
        redirect_slashes=False,  # a redirect would repeat the Host header, which is the caller's text
        docs_url=None,
        redoc_url=None,
        telemetry=_NO_TRACING,
    )
    app.add_exception_handler(HTTPException, _unrouted)
    _add_docs(app)
    document = _document(openai.SCHEMAS)
    app.openapi = lambda: document  # type: ignore[method-assign]
    app.add_middleware(_HotPaths, dialect.routes())
    app.add_middleware(Telemetry, metrics, access_log=settings.log.access, draining=lambda: lifecycle.draining)
    return app


class _HotPaths:
    """ASGI middleware: the hot routes ahead of FastAPI's own layers, which cost more than they do."""

    def __init__(self, app: ASGIApp, routes: Sequence[Route]) -> None:
        self._rest = app
        self._hot = {(method, route.path): route.app for route in routes for method in route.methods or ()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        hot = self._hot.get((scope["method"], scope["path"])) if scope["type"] == "http" else None
        await (hot or self._rest)(scope, receive, send)


async def _unrouted(request: Request, error: Exception) -> Response:
    """Answer a path or method that does not exist."""
    status = getattr(error, "status_code", 404)
    exchange_of(request.scope).code = "not_found" if status == 404 else "method_not_allowed"  # noqa: PLR2004
    fault = Fault(status, exchange_of(request.scope).code, f"{request.method} is not served on this path; see /docs")
    response = openai.render(fault)
    response.headers.update(getattr(error, "headers", None) or {})
    return response


def _add_docs(app: FastAPI) -> None:
    """Swagger UI and ReDoc, their assets from this machine."""
    assets = "/docs/assets"
    swagger = get_swagger_ui_html(
        openapi_url="/openapi.json",
        title="Headrace",
        swagger_js_url=f"{assets}/swagger-ui-bundle.js",
        swagger_css_url=f"{assets}/swagger-ui.css",
        swagger_favicon_url=f"{assets}/favicon.png",
    )
    redoc = get_redoc_html(
        openapi_url="/openapi.json",
        title="Headrace",
        redoc_js_url=f"{assets}/redoc.standalone.js",
        redoc_favicon_url=f"{assets}/favicon.png",
        with_google_fonts=False,
    )
    for path, page in (("/docs", swagger), ("/redoc", redoc)):
        app.add_route(path, _page(page))
    app.mount(assets, StaticFiles(directory=str(files("fastapi_offline") / "static")))


def _page(page: HTMLResponse) -> Any:
    async def show(request: Request) -> Response:
        return page

    return show


def _document(schemas: dict[str, dict[str, dict[str, Any]]]) -> dict[str, Any]:
    """Write the OpenAPI document of the hot routes from the very types that parse them."""
    operations = [operation for methods in schemas.values() for operation in methods.values()]
    types = [operation[part] for operation in operations for part in ("body", "answer") if part in operation]
    _, components = msgspec.json.schema_components([*types, openai.ErrorAnswer], ref_template=_REF)
    paths = {
        path: {method: _operation(operation) for method, operation in methods.items()}
        for path, methods in schemas.items()
    }
    info = {"title": "Headrace", "version": __version__}
    return {"openapi": "3.1.0", "info": info, "paths": paths, "components": {"schemas": components}}


def _operation(operation: dict[str, Any]) -> dict[str, Any]:
    answers = {str(status): _content("Error", openai.ErrorAnswer) for status in _STATUSES}
    documented: dict[str, Any] = {
        "summary": operation["summary"],
        "responses": {"200": _content("Answer", operation["answer"]), **answers},
    }
    if "body" in operation:
        documented["requestBody"] = {"required": True, **_content("Body", operation["body"])}
    return documented


def _content(description: str, kind: type) -> dict[str, Any]:
    schema = {"$ref": _REF.format(name=kind.__name__)}
    return {"description": description, "content": {"application/json": {"schema": schema}}}
