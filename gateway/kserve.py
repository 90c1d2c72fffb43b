"""
The Open Inference Protocol V2, as KServe and Triton speak it over HTTP: tensors in, tensors out.

Every error is `{"error": "..."}`. No Content-Type is needed, bodies may be compressed, and tensors may come and go as
bytes behind the JSON.
"""

from typing import TYPE_CHECKING, Any, Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.call import Endpoint, answering, parse, read_body
from gateway.errors import Fault, HttpFault
from gateway.frames import LENGTH_HEADER, asked_coding, compressed, read_frame
from gateway.kserve_forms import (
    OPERATIONS,
    IndexBody,
    Live,
    LoadBody,
    Loaded,
    ModelReady,
    Models,
    Ready,
    UnloadBody,
)
from gateway.kserve_forms import ErrorAnswer as ErrorAnswer  # noqa: PLC0414 - part of what a dialect gives
from gateway.model_card import metadata
from gateway.question import Question, read_question, tensors_of
from gateway.tally import check_values
from gateway.telemetry import exchange_of, server_timing
from gateway.tensors import draw_tensors
from gateway.v2 import NO_MEMORY, NO_SETTINGS, V2
from inference import Answer

if TYPE_CHECKING:
    from inference import ServedModel  # its home imports torch

SCHEMAS = OPERATIONS
STATUSES: Final = (400, 403, 404, 413, 415, 429, 500, 503, 504)
PREFIXES: Final = ("/v2",)

_COPIES: Final = 3  # of each token: its id, its mask, its type
_MOST_TOLD: Final = 64 * 1024  # bytes of a call to the repository
_NO_GENERATION: Final = "no model here generates text"
UNSUPPORTED: Final = {
    "/v2/systemsharedmemory/{rest:path}": NO_MEMORY,
    "/v2/cudasharedmemory/{rest:path}": NO_MEMORY,
    "/v2/trace/setting": NO_SETTINGS,
    "/v2/models/{model}/trace/setting": NO_SETTINGS,
    "/v2/logging": NO_SETTINGS,
    "/v2/models/{model}/generate": _NO_GENERATION,
    "/v2/models/{model}/generate_stream": _NO_GENERATION,
}
_INDEX: Final = msgspec.json.Decoder(IndexBody)
_LOAD: Final = msgspec.json.Decoder(LoadBody)
_UNLOAD: Final = msgspec.json.Decoder(UnloadBody)


def render(fault: Fault) -> Response:
    """Draw a fault as Triton and KServe do."""
    body = msgspec.json.encode(ErrorAnswer(error=fault.sentence))
    return Response(body, fault.status, fault.headers(), "application/json")


class KServe:
    """The routes of this dialect."""

    def __init__(self, v2: V2) -> None:
        """Take what the routes do."""
        self._v2 = v2

    def routes(self) -> list[Route]:
        """Return plain Starlette routes, the hot one first."""
        below = {"/infer": self.infer, "": self.model, "/ready": self.model_ready}
        below |= {"/config": self.config, "/stats": self.stats}
        flat = {"/v2": self.server, "/v2/health/live": self.live, "/v2/health/ready": self.ready}
        flat |= {"/v2/models": self.models, "/v2/models/stats": self.all_stats, "/v2/repository/index": self.index}
        change = {"/load": self.load, "/unload": self.unload}
        return [
            *(_route(path, endpoint) for path, endpoint in flat.items()),
            *(_route(f"/v2/repository/models/{{model}}{end}", each) for end, each in change.items()),
            *(_route(f"/v2/models/{{model}}{end}", endpoint) for end, endpoint in below.items()),
            *(_route(f"/v2/models/{{model}}/versions/{{version}}{end}", each) for end, each in below.items()),
            *(_refusal(path, message) for path, message in UNSUPPORTED.items()),
        ]

    async def infer(self, request: Request) -> Response:
        """POST /v2/models/{model}/infer."""
        name = self._model(request).name

        async def read() -> tuple[Question, "ServedModel"]:
            frame = await read_frame(request, self._v2.most_bytes)
            check_values(frame.head, self._v2.limits, copies=_COPIES)
            model = self._model(request)  # which may have been replaced while the body came
            return read_question(frame, model), model

        async def draw(made: Answer[Any], question: Question, model: "ServedModel") -> Response:
            return await _answer(request, made, question, model)

        return await self._v2.infer(request, name, read, draw)

    async def server(self, request: Request) -> Response:
        """GET /v2."""
        return _json(self._v2.server())

    async def live(self, request: Request) -> Response:
        """GET /v2/health/live: fail only when a restart would help."""
        exchange_of(request.scope).route = "probe"
        live = self._v2.live
        return _json(Live(live=live), 200 if live else 503)

    async def ready(self, request: Request) -> Response:
        """GET /v2/health/ready."""
        exchange_of(request.scope).route = "probe"
        ready = self._v2.ready
        return _json(Ready(ready=ready), 200 if ready else 503)

    async def models(self, request: Request) -> Response:
        """GET /v2/models."""
        return _json(Models(models=list(self._v2.models(request))))

    async def model(self, request: Request) -> Response:
        """GET /v2/models/{model}."""
        return _json(metadata(self._model(request)))

    async def model_ready(self, request: Request) -> Response:
        """GET /v2/models/{model}/ready."""
        model, ready = self._model(request), self._v2.ready
        return _json(ModelReady(name=model.name, ready=ready), 200 if ready else 503)

    async def config(self, request: Request) -> Response:
        """GET /v2/models/{model}/config."""
        return _json(self._v2.config(request, self._model(request)))

    async def stats(self, request: Request) -> Response:
        """GET /v2/models/{model}/stats."""
        return _json(self._v2.statistics([self._model(request)]))

    async def all_stats(self, request: Request) -> Response:
        """GET /v2/models/stats."""
        return _json(self._v2.statistics(self._v2.models(request).values()))

    async def index(self, request: Request) -> Response:
        """POST /v2/repository/index; the body may be empty."""
        only = parse(_INDEX, await self._body(request)).ready
        return _json(await self._v2.index(request, only_ready=only))

    async def load(self, request: Request) -> Response:
        """POST /v2/repository/models/{model}/load; the body may be empty."""
        told = parse(_LOAD, await self._body(request)).parameters or {}
        strange = next((name for name in told if name != "source"), None)
        if strange is not None:
            message = "is not taken: say parameters.source, or nothing to load it from where it came last"
            raise HttpFault(400, "invalid_request", message, f"parameters[{strange!r}]"[:100])
        state = await self._v2.control.load(request, request.path_params["model"], told.get("source"))
        return _json(Loaded(name=state.name, load=True, version=str(state.version)))

    async def unload(self, request: Request) -> Response:
        """POST /v2/repository/models/{model}/unload; the body may be empty."""
        parse(_UNLOAD, await self._body(request))
        state = await self._v2.control.unload(request, request.path_params["model"])
        return _json(Loaded(name=state.name, load=False, version=str(state.version)))

    async def _body(self, request: Request) -> bytes:
        """Read a body that may be empty, and is small: nothing counts its values before it is decoded."""
        return await read_body(request, min(self._v2.most_bytes, _MOST_TOLD)) or b"{}"

    def _model(self, request: Request) -> "ServedModel":
        """Return the model that the path names; raises UnknownModel."""
        return self._v2.model(request, request.path_params["model"], request.path_params.get("version", ""))


async def _answer(request: Request, made: Answer[Any], question: Question, model: "ServedModel") -> Response:
    """Draw an answer in the form and the coding that it is asked for."""
    head = {"model_name": model.name, "model_version": str(model.version)}
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
