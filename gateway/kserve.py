"""
The Open Inference Protocol V2, as KServe and Triton speak it over HTTP: tensors in, tensors out.

Every error is `{"error": "..."}`. No Content-Type is needed, bodies may be compressed, and tensors may come and go as
bytes behind the JSON.
"""

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway import __version__
from gateway.call import Door, Endpoint, answering, parse, read_body
from gateway.config import Settings
from gateway.errors import Fault, HttpFault
from gateway.frames import LENGTH_HEADER, asked_coding, compressed, read_frame
from gateway.kserve_forms import (
    OPERATIONS,
    IndexBody,
    Live,
    ModelReady,
    Models,
    ModelState,
    Parameters,
    Ready,
    ServerMetadata,
)
from gateway.kserve_forms import ErrorAnswer as ErrorAnswer  # noqa: PLC0414 - part of what a dialect gives
from gateway.ledger import Ledger
from gateway.lifecycle import Lifecycle
from gateway.model_card import VERSION, config, metadata, statistics
from gateway.question import Question, ask, read_question, tensors_of
from gateway.telemetry import Metrics, exchange_of, server_timing
from gateway.tensors import draw_tensors
from inference import Answer, Terms, UnknownModel

if TYPE_CHECKING:
    from inference import ServedModel  # its home imports torch

SCHEMAS = OPERATIONS
STATUSES: Final = (400, 404, 413, 415, 429, 500, 503, 504)
PREFIXES: Final = ("/v2",)

_EXTENSIONS: Final = [
    *("binary_tensor_data", "classification", "model_configuration", "model_repository", "parameters"),
    *("schedule_policy", "statistics"),
]
_LOADING: Final = "loading and unloading models is not enabled: this server serves what it was started with"
_NO_MEMORY: Final = "shared memory is not supported: send tensors in the body"
_NO_SETTINGS: Final = "trace and log settings cannot be changed or read here"
_NO_GENERATION: Final = "no model here generates text"
UNSUPPORTED: Final = {
    "/v2/repository/models/{model}/load": _LOADING,
    "/v2/repository/models/{model}/unload": _LOADING,
    "/v2/systemsharedmemory/{rest:path}": _NO_MEMORY,
    "/v2/cudasharedmemory/{rest:path}": _NO_MEMORY,
    "/v2/trace/setting": _NO_SETTINGS,
    "/v2/models/{model}/trace/setting": _NO_SETTINGS,
    "/v2/logging": _NO_SETTINGS,
    "/v2/models/{model}/generate": _NO_GENERATION,
    "/v2/models/{model}/generate_stream": _NO_GENERATION,
}
_INDEX: Final = msgspec.json.Decoder(IndexBody)
_LOWEST: Final = -9  # of our own classes, which count upwards


def render(fault: Fault) -> Response:
    """Draw a fault as Triton and KServe do."""
    sentence = f"{fault.field}: {fault.message}" if fault.field else fault.message
    return Response(msgspec.json.encode(ErrorAnswer(error=sentence)), fault.status, fault.headers(), "application/json")


class KServe:
    """The routes of this dialect."""

    def __init__(self, door: Door, settings: Settings, lifecycle: Lifecycle, metrics: Metrics) -> None:
        """Take what the routes need."""
        self._door = door
        self._settings = settings
        self._lifecycle = lifecycle
        self._metrics = metrics
        self._ledger = Ledger()

    def routes(self) -> list[Route]:
        """Return plain Starlette routes, the hot one first."""
        below = {"/infer": self.infer, "": self.model, "/ready": self.model_ready}
        below |= {"/config": self.config, "/stats": self.stats}
        flat = {"/v2": self.server, "/v2/health/live": self.live, "/v2/health/ready": self.ready}
        flat |= {"/v2/models": self.models, "/v2/models/stats": self.all_stats, "/v2/repository/index": self.index}
        return [
            *(_route(path, endpoint) for path, endpoint in flat.items()),
            *(_route(f"/v2/models/{{model}}{end}", endpoint) for end, endpoint in below.items()),
            *(_route(f"/v2/models/{{model}}/versions/{{version}}{end}", each) for end, each in below.items()),
            *(_refusal(path, message) for path, message in UNSUPPORTED.items()),
        ]

    async def infer(self, request: Request) -> Response:
        """POST /v2/models/{model}/infer."""
        model = self._model(request)
        exchange_of(request.scope).model = model.name
        with self._ledger.call(model.name) as call:
            frame = await read_frame(request, self._settings.http.max_body_bytes)
            question = read_question(frame, model)
            terms = self._terms(request, model, question.parameters)
            made = await self._door.answer(request, ask(self._door.client, question, terms))
            call.answer(made.timings)
            return await _answer(request, made, question, model)

    async def server(self, request: Request) -> Response:
        """GET /v2."""
        return _json(ServerMetadata(name="headrace", version=__version__, extensions=_EXTENSIONS))

    async def live(self, request: Request) -> Response:
        """GET /v2/health/live: fail only when a restart would help."""
        exchange_of(request.scope).route = "probe"
        live = self._lifecycle.healthy
        return _json(Live(live=live), 200 if live else 503)

    async def ready(self, request: Request) -> Response:
        """GET /v2/health/ready."""
        exchange_of(request.scope).route = "probe"
        return _json(Ready(ready=self._ready), 200 if self._ready else 503)

    async def models(self, request: Request) -> Response:
        """GET /v2/models."""
        return _json(Models(models=list(self._door.models(request))))

    async def model(self, request: Request) -> Response:
        """GET /v2/models/{model}."""
        return _json(metadata(self._model(request)))

    async def model_ready(self, request: Request) -> Response:
        """GET /v2/models/{model}/ready."""
        model = self._model(request)
        return _json(ModelReady(name=model.name, ready=self._ready), 200 if self._ready else 503)

    async def config(self, request: Request) -> Response:
        """GET /v2/models/{model}/config."""
        most = self._door.highest(request)
        limits = self._settings.engine.limits
        return _json(config(self._model(request), limits.max_items, most - _LOWEST + 1, most + 1))

    async def stats(self, request: Request) -> Response:
        """GET /v2/models/{model}/stats."""
        return self._statistics([self._model(request).name])

    async def all_stats(self, request: Request) -> Response:
        """GET /v2/models/stats."""
        return self._statistics(list(self._door.models(request)))

    async def index(self, request: Request) -> Response:
        """POST /v2/repository/index; the body may be empty."""
        body = await read_body(request, self._settings.http.max_body_bytes)
        parse(_INDEX, body or b"{}")
        return _json([ModelState(name=name) for name in self._door.models(request)])

    @property
    def _ready(self) -> bool:
        return self._lifecycle.state == "ready" and self._lifecycle.healthy

    def _model(self, request: Request) -> "ServedModel":
        """Return the model that the path names; raises UnknownModel."""
        model = self._door.model_for(request, request.path_params["model"], None)
        version = request.path_params.get("version", VERSION)
        if version != VERSION:
            raise UnknownModel(f"{model.name} has no version {version!r}; it has: {VERSION}", "version")
        return model

    def _statistics(self, models: list[str]) -> Response:
        told = [statistics(name, self._ledger.account(name), self._metrics) for name in models]
        return _json({"model_stats": told})

    def _terms(self, request: Request, model: "ServedModel", parameters: Parameters) -> Terms:
        """Say on which terms a call runs; its parameters go before its headers."""
        terms = self._door.terms(request, model.task, model.name, "end" if parameters.truncate else "none")
        longest = round(self._settings.deadlines.max_timeout_s * 1e6)
        if parameters.timeout > longest:
            raise HttpFault(400, "invalid_request", f"must be at most {longest} microseconds", "parameters.timeout")
        if parameters.timeout:
            terms = replace(terms, timeout_s=parameters.timeout / 1e6)
        if parameters.priority:
            terms = replace(terms, priority=_class(parameters.priority, self._door.highest(request)))
        return terms


def _class(level: int, most: int) -> int:
    """Return our class of a priority level: levels count downwards from the highest that the caller gets."""
    if level > most - _LOWEST + 1:
        raise HttpFault(400, "invalid_request", f"must be from 0 to {most - _LOWEST + 1}", "parameters.priority")
    return most + 1 - level


async def _answer(request: Request, made: Answer[Any], question: Question, model: "ServedModel") -> Response:
    """Draw an answer in the form and the coding that it is asked for."""
    head = {"model_name": model.name, "model_version": VERSION}
    head |= {} if question.id is None else {"id": question.id}
    tensors = tensors_of(made, question, model)
    body, parted_at = draw_tensors(head, tensors, [wanted.binary for wanted in question.outputs])
    headers = {"server-timing": server_timing(made.timings)}
    if parted_at is not None:
        headers[LENGTH_HEADER] = str(parted_at)
    coding = asked_coding(request.headers.get("accept-encoding", ""))
    if coding is not None:
        body = await compressed(body, coding)
        headers |= {"content-encoding": coding, "vary": "accept-encoding"}
    return Response(body, 200, headers, "application/json" if parted_at is None else "application/octet-stream")


def _json(content: Any, status: int = 200) -> Response:
    return Response(msgspec.json.encode(content), status, media_type="application/json")


def _route(path: str, endpoint: Endpoint) -> Route:
    method = next(iter(OPERATIONS[path])).upper()
    return Route(path, answering(path, endpoint, render), methods=[method])


def _refusal(path: str, message: str) -> Route:
    """Return a route that says why it does nothing, for clients that try."""

    async def refuse(request: Request) -> Response:
        raise HttpFault(400, "not_supported", message)

    return Route(path, answering(path, refuse, render), methods=["GET", "POST"])
