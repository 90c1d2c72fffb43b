"""The one place where the HTTP parts are joined."""

import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

import msgspec
from fastapi import FastAPI
from fastapi.openapi.docs import get_redoc_html, get_swagger_ui_html
from fastapi.telemetry import TelemetryConfig
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Match, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway import __version__, kserve, openai
from gateway.call import Door
from gateway.config import Settings
from gateway.errors import Fault
from gateway.lifecycle import Lifecycle
from gateway.telemetry import Metrics, Telemetry, exchange_of
from inference import Client

_NO_TRACING = TelemetryConfig(tracing=False, metrics=False, logs=False, auto_configure=False)
_STATUSES = (400, 404, 413, 415, 429, 500, 503, 504)
_DIALECTS = (openai, kserve)
_REF = "#/components/schemas/{name}"


def create_app(settings: Settings, client: Client, lifecycle: Lifecycle, metrics: Metrics) -> FastAPI:
    """Join routes, docs, errors and telemetry into one application."""
    door = Door(client, settings, metrics)
    tensors = kserve.KServe(door, settings, lifecycle, metrics)
    routes = [*openai.OpenAI(door).routes(), *tensors.routes()]
    app = FastAPI(
        title="Headrace",
        version=__version__,
        routes=[*routes, *lifecycle.routes()],  # first and plain: the cheap path
        redirect_slashes=False,  # a redirect would repeat the Host header, which is the caller's text
        docs_url=None,
        redoc_url=None,
        telemetry=_NO_TRACING,
    )
    app.add_exception_handler(HTTPException, _unrouted)
    _add_docs(app)
    document = _document()
    app.openapi = lambda: document  # type: ignore[method-assign]
    app.add_middleware(_HotPaths, routes)
    app.add_middleware(Telemetry, metrics, access_log=settings.log.access, draining=lambda: lifecycle.draining)
    return app


class _HotPaths:
    """ASGI middleware: the hot routes ahead of FastAPI's own layers, which cost more than they do."""

    def __init__(self, app: ASGIApp, routes: Sequence[Route]) -> None:
        self._rest = app
        plain = [route for route in routes if not route.param_convertors]
        self._hot = {(method, route.path): route.app for route in plain for method in route.methods or ()}
        self._named = [route for route in routes if route.param_convertors]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        hot = self._find(scope) if scope["type"] == "http" else None
        await (hot or self._rest)(scope, receive, send)

    def _find(self, scope: Scope) -> ASGIApp | None:
        hot = self._hot.get((scope["method"], scope["path"]))
        if hot is not None:
            return hot
        for route in self._named:
            match, found = route.matches(scope)
            if match is Match.FULL:
                scope.update(found)
                return route.app
        return None


async def _unrouted(request: Request, error: Exception) -> Response:
    """Answer a path or method that does not exist."""
    status = getattr(error, "status_code", 404)
    exchange_of(request.scope).code = "not_found" if status == 404 else "method_not_allowed"  # noqa: PLR2004
    fault = Fault(status, exchange_of(request.scope).code, f"{request.method} is not served on this path; see /docs")
    render = kserve.render if f"{request.scope['path']}/".startswith("/v2/") else openai.render
    response = render(fault)
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


def _document() -> dict[str, Any]:
    """Write the OpenAPI document of the hot routes from the very types that parse them."""
    spoken = [(dialect, path, methods) for dialect in _DIALECTS for path, methods in dialect.SCHEMAS.items()]
    operations = [operation for _, _, methods in spoken for operation in methods.values()]
    types = [operation[part] for operation in operations for part in ("body", "answer") if part in operation]
    types += [dialect.ErrorAnswer for dialect in _DIALECTS]
    drawn, components = msgspec.json.schema_components(types, ref_template=_REF)
    schemas = dict(zip(types, drawn, strict=True))
    paths = {
        path: {method: _operation(path, operation, dialect.ErrorAnswer, schemas) for method, operation in each.items()}
        for dialect, path, each in spoken
    }
    info = {"title": "Headrace", "version": __version__}
    return {"openapi": "3.1.0", "info": info, "paths": paths, "components": {"schemas": components}}


def _operation(path: str, operation: dict[str, Any], error: type, schemas: Mapping[Any, Any]) -> dict[str, Any]:
    answers = {str(status): _content("Error", schemas[error]) for status in _STATUSES}
    documented: dict[str, Any] = {
        "summary": operation["summary"],
        "responses": {"200": _content("Answer", schemas[operation["answer"]]), **answers},
    }
    named = re.findall(r"{(\w+)}", path)
    if named:
        text = {"type": "string"}
        documented["parameters"] = [{"name": name, "in": "path", "required": True, "schema": text} for name in named]
    if "body" in operation:
        documented["requestBody"] = {"required": True, **_content("Body", schemas[operation["body"]])}
    return documented


def _content(description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": schema}}}
