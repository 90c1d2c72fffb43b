"""The one place where the HTTP parts are joined."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
from fastapi.openapi.docs import get_redoc_html, get_swagger_ui_html
from fastapi.telemetry import TelemetryConfig
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Match, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway import __version__, cohere, huggingface, infinity, kserve, kserve_rpc, openai, rerank, tei, vllm
from gateway.access import Access, Speaking
from gateway.audit import Audit, open_stream
from gateway.call import Door
from gateway.config import OidcConfig, Settings
from gateway.console import FILES, Console
from gateway.dialect import Dialect, Spoken
from gateway.errors import Fault
from gateway.fork import Fork
from gateway.keyring import Keyring
from gateway.lifecycle import Lifecycle
from gateway.openapi import document
from gateway.shared_allowance import SharedAccounts
from gateway.telemetry import Metrics, Telemetry, exchange_of
from gateway.v2 import V2
from inference import Client

if TYPE_CHECKING:
    from gateway.tokens import Tokens

_NO_TRACING = TelemetryConfig(tracing=False, metrics=False, logs=False, auto_configure=False)
_FORKED = "/rerank"
_CORS: dict[str, Any] = {
    "allow_methods": ["GET", "POST"],
    "allow_headers": ["Authorization", "X-API-Key", "X-Request-Id", "X-Request-Priority", "X-Request-Timeout-Ms"],
    "expose_headers": ["RateLimit", "RateLimit-Policy", "Retry-After", "Server-Timing", "X-Request-Id"],
}


def create_app(
    settings: Settings,
    client: Client,
    lifecycle: Lifecycle,
    metrics: Metrics,
    *,
    traced: Callable[[ASGIApp], ASGIApp] | None = None,
) -> FastAPI:
    """
    Join routes, docs, errors, access and telemetry into one application; raises Unreadable and Unwritable.

    `traced` puts traces around it.
    """
    keys = settings.access.keys
    spoken = _dialects(settings, Door(client, settings, metrics), lifecycle, metrics)
    if keys is not None:
        spoken = [_guarded(each) for each in spoken]
    routes = _routes(spoken, settings.http.max_body_bytes)
    target_s = settings.engine.limits.latency_target_s
    shown = Console(client, lifecycle, metrics, target_s).routes() if settings.http.shows_console else []
    app = FastAPI(
        title="Headrace",
        version=__version__,
        routes=[*routes, *lifecycle.routes(), *shown],  # first and plain: the cheap path
        redirect_slashes=False,  # a redirect would repeat the Host header, which is the caller's text
        docs_url=None,
        redoc_url=None,
        telemetry=_NO_TRACING,
    )
    unrouted = _Unrouted(spoken)
    app.add_exception_handler(HTTPException, unrouted)
    _add_docs(app)
    described = document(spoken, keyed=keys is not None)
    app.openapi = lambda: described  # type: ignore[method-assign]
    app.add_middleware(_HotPaths, routes)
    if traced is not None:
        app.add_middleware(traced)
    if keys is not None:
        open_stream(settings.access.audit_log)
        audit, probes = Audit(), [route.path for route in lifecycle.routes()]
        page = FILES if settings.http.shows_console else ()  # it asks for a key, and holds nothing
        keyring = Keyring(keys, changed=audit.reloaded)
        shared = _shared(settings, lifecycle, metrics)
        beside: dict[str, Any] = {"shared": shared, "tokens": _tokens(settings.access.oidc, keyring, lifecycle)}
        app.add_middleware(Access, keyring, audit, open_paths=[*probes, *page], draw=unrouted.draw, **beside)
    if settings.access.cors_origins:
        app.add_middleware(CORSMiddleware, allow_origins=settings.access.cors_origins, **_CORS)
    app.add_middleware(Telemetry, metrics, access_log=settings.log.access, draining=lambda: lifecycle.draining)
    return app


def _dialects(settings: Settings, door: Door, lifecycle: Lifecycle, metrics: Metrics) -> list[Spoken]:
    """Say which dialects are spoken, a line each; where two have the same path, the first one has it."""
    below = settings.http.url_prefix
    v2 = V2(door, settings, lifecycle, metrics)
    rpc = [Spoken(kserve_rpc, kserve_rpc.KServeRpc(v2).routes())] if settings.http.grpc_port is not None else []
    return [
        Spoken(infinity, infinity.Infinity(door, below).routes(), below),
        Spoken(openai, openai.OpenAI(door).routes()),
        Spoken(rerank, rerank.Reranking(door).routes()),
        Spoken(tei, tei.TEI(door, lifecycle).routes()),
        Spoken(cohere, cohere.Cohere(door).routes()),
        Spoken(vllm, vllm.VLLM(door).routes()),
        Spoken(kserve, kserve.KServe(v2).routes()),
        *rpc,
        Spoken(huggingface, huggingface.HuggingFace(door).routes()),
    ]


def _guarded(spoken: Spoken) -> Spoken:
    """Let only those in whose grant has the dialect."""
    render = spoken.dialect.render
    routes = [Route(each.path, Speaking(each.app, spoken.name, render), methods=each.methods) for each in spoken.routes]
    return replace(spoken, routes=routes)


def _shared(settings: Settings, lifecycle: Lifecycle, metrics: Metrics) -> SharedAccounts | None:
    """Count limits over all replicas, if there is a Redis for that; no call lasts longer than its timeouts."""
    url = settings.access.redis_url
    if url is None:
        return None
    longest_s = settings.deadlines.max_timeout_s + settings.http.body_timeout_s
    shared = SharedAccounts(url, longest_s, reached=metrics.limits_shared)
    lifecycle.at_stop(shared.close)
    return shared


def _tokens(oidc: OidcConfig, keyring: Keyring, lifecycle: Lifecycle) -> "Tokens | None":
    """Take tokens beside keys, if there is an issuer; raises Unreadable."""
    if not oidc.issuer:
        return None
    from gateway.jwks import KeysOfFile, KeysOfIssuer  # noqa: PLC0415 - cryptography and an HTTP client, for tokens alone
    from gateway.tokens import Tokens  # noqa: PLC0415

    keys = KeysOfFile(oidc.jwks) if isinstance(oidc.jwks, Path) else KeysOfIssuer(oidc.issuer, oidc.jwks)
    lifecycle.at_stop(keys.close)
    return Tokens(oidc, keys, keyring.grant)


def _routes(spoken: Sequence[Spoken], most_bytes: int) -> list[Route]:
    """Return one route a path; /rerank is TEI's or another's by its body."""
    paths: dict[str, list[Route]] = {}
    for route in (route for each in spoken for route in each.routes):
        paths.setdefault(route.path, []).append(route)
    routes = [served[0] for path, served in paths.items() if path != _FORKED]
    jina, *_, theirs = paths[_FORKED]
    return [*routes, Route(_FORKED, Fork("texts", theirs.app, jina.app, most_bytes), methods=["POST"])]


class _HotPaths:
    """ASGI middleware: the hot routes ahead of FastAPI's own layers, which cost more than they do."""

    def __init__(self, app: ASGIApp, routes: Sequence[Route]) -> None:
        self._rest = app
        plain = [route for route in routes if not route.param_convertors]
        self._hot = {(method, route.path): route.app for route in plain for method in route.methods or ()}
        self._named = [(route.path.partition("{")[0], route) for route in routes if route.param_convertors]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        hot = self._find(scope) if scope["type"] == "http" else None
        await (hot or self._rest)(scope, receive, send)

    def _find(self, scope: Scope) -> ASGIApp | None:
        hot = self._hot.get((scope["method"], scope["path"]))
        if hot is not None:
            return hot
        for start, route in self._named:
            if not scope["path"].startswith(start):  # a look at it costs 1 us, and there are many
                continue
            match, found = route.matches(scope)
            if match is Match.FULL:
                scope.update(found)
                return route.app
        return None


class _Unrouted:
    """Answers a path or method that does not exist, in the dialect that it looks like."""

    def __init__(self, spoken: Sequence[Spoken]) -> None:
        self._spoken = {route.path: each for each in reversed(spoken) for route in each.routes}
        by_length = ((prefix, each) for each in spoken for prefix in each.prefixes)
        self._prefixes = sorted(by_length, key=lambda pair: len(pair[0]), reverse=True)

    async def __call__(self, request: Request, error: Exception) -> Response:
        status, path = getattr(error, "status_code", 404), request.scope["path"]
        exchange_of(request.scope).code = "not_found" if status == 404 else "method_not_allowed"  # noqa: PLR2004
        message = f"{request.method} is not served on this path; see /docs"
        response = self.draw(path, Fault(status, exchange_of(request.scope).code, message))
        response.headers.update(getattr(error, "headers", None) or {})
        return response

    def draw(self, path: str, fault: Fault) -> Response:
        """Draw a fault in the dialect that a path looks like."""
        return self._dialect(path).render(fault)

    def _dialect(self, path: str) -> Dialect:
        if path in self._spoken:
            return self._spoken[path].dialect
        return next((each.dialect for prefix, each in self._prefixes if path.startswith(prefix)), openai)


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
