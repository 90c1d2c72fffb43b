"""
The Open Inference Protocol V2 over gRPC, as KServe and Triton speak it: a method is a path, a message is a body.

What an error is as a gRPC status, `rpc.py` knows; its sentence is the body.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from google.protobuf.message import Message
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.call import Endpoint, answering, read_body
from gateway.dialect import Schemas
from gateway.errors import Fault, HttpFault
from gateway.kserve_forms import ErrorAnswer as ErrorAnswer  # noqa: PLC0414 - part of what a dialect gives
from gateway.kserve_messages import draw_answer, draw_message, read_message, read_question
from gateway.model_card import metadata
from gateway.open_inference_pb2 import (
    DESCRIPTOR,
    ModelConfigRequest,
    ModelConfigResponse,
    ModelInferRequest,
    ModelInferResponse,
    ModelMetadataRequest,
    ModelMetadataResponse,
    ModelReadyRequest,
    ModelReadyResponse,
    ModelStatisticsRequest,
    ModelStatisticsResponse,
    ModelStreamInferResponse,
    RepositoryIndexRequest,
    RepositoryIndexResponse,
    ServerLiveResponse,
    ServerMetadataResponse,
    ServerReadyResponse,
)
from gateway.question import Question
from gateway.telemetry import header, server_timing
from gateway.v2 import NO_LOADING, NO_MEMORY, NO_SETTINGS, V2
from inference import Answer, UnknownModel

if TYPE_CHECKING:
    from inference import ServedModel  # its home imports torch

SCHEMAS: Final[Schemas] = {}  # the document is of HTTP; reflection tells what is here
STATUSES: Final = ()
PREFIXES: Final = ()

_SERVICE: Final = DESCRIPTOR.services_by_name["GRPCInferenceService"]
UNSUPPORTED: Final = {
    **dict.fromkeys(("RepositoryModelLoad", "RepositoryModelUnload"), NO_LOADING),
    **dict.fromkeys((f"SystemSharedMemory{act}" for act in ("Status", "Register", "Unregister")), NO_MEMORY),
    **dict.fromkeys((f"CudaSharedMemory{act}" for act in ("Status", "Register", "Unregister")), NO_MEMORY),
    **dict.fromkeys(("TraceSetting", "LogSettings"), NO_SETTINGS),
}
METHODS: Final = {method.name: method.client_streaming for method in _SERVICE.methods} | dict.fromkeys(
    UNSUPPORTED, False
)
"""The methods by name, and whether messages stream both ways."""
SERVICE: Final = _SERVICE.full_name
GRPC: Final = "application/grpc"
_OK: Final = {"grpc-status": "0"}


def render(fault: Fault) -> Response:
    """Say what is wrong."""
    return Response(fault.sentence, fault.status, fault.headers(), "text/plain")


def render_in_stream(fault: Fault) -> Response:
    """Say what is wrong with one message of a stream, which goes on."""
    answer = ModelStreamInferResponse(error_message=fault.sentence)
    return Response(answer.SerializeToString(), fault.status, _OK, GRPC)


class KServeRpc:
    """The routes of this dialect."""

    def __init__(self, v2: V2) -> None:
        """Take what the routes do."""
        self._v2 = v2

    def routes(self) -> list[Route]:
        """Return plain Starlette routes, the hot one first."""
        told = {
            "ServerMetadata": self.server,
            "ModelReady": self.model_ready,
            "ModelMetadata": self.model,
            "ModelConfig": self.config,
            "ModelStatistics": self.statistics,
        }
        return [
            _route("ModelInfer", self.infer),
            _route("ModelStreamInfer", self.stream, render_in_stream),
            _route("RepositoryIndex", self.index),
            *(
                Route(_path(method), answering("probe", self._telling(act), render), methods=["POST"])
                for method, act in {"ServerLive": self.live, "ServerReady": self.ready}.items()
            ),
            *(_route(method, self._telling(act)) for method, act in told.items()),
            *(_route(method, _refusing(message)) for method, message in UNSUPPORTED.items()),
        ]

    async def infer(self, request: Request) -> Response:
        """Run a model."""
        return await self._infer(request, lambda made: made)

    async def stream(self, request: Request) -> Response:
        """Run a model on one message of a stream."""
        return await self._infer(request, lambda made: ModelStreamInferResponse(infer_response=made))

    def live(self, request: Request, body: bytes) -> Message:
        """Tell whether this process works."""
        return ServerLiveResponse(live=self._v2.live)

    def ready(self, request: Request, body: bytes) -> Message:
        """Tell whether calls are taken."""
        return ServerReadyResponse(ready=self._v2.ready)

    def server(self, request: Request, body: bytes) -> Message:
        """Describe this server."""
        return draw_message(ServerMetadataResponse, self._v2.server())

    def model_ready(self, request: Request, body: bytes) -> Message:
        """Tell whether a model takes calls; one that is not here does not."""
        asked = read_message(ModelReadyRequest, body)
        if not self._v2.ready:
            return ModelReadyResponse(ready=False)
        try:
            self._v2.model(request, asked.name, asked.version)
        except UnknownModel:
            return ModelReadyResponse(ready=False)
        return ModelReadyResponse(ready=True)

    def model(self, request: Request, body: bytes) -> Message:
        """Describe a model."""
        asked = read_message(ModelMetadataRequest, body)
        return draw_message(ModelMetadataResponse, metadata(self._v2.model(request, asked.name, asked.version)))

    def config(self, request: Request, body: bytes) -> Message:
        """Describe a model as Triton does."""
        asked = read_message(ModelConfigRequest, body)
        told = self._v2.config(request, self._v2.model(request, asked.name, asked.version))
        return draw_message(ModelConfigResponse, {"config": told})

    def statistics(self, request: Request, body: bytes) -> Message:
        """Tell what the calls of a model cost, or of all where none is named."""
        asked = read_message(ModelStatisticsRequest, body)
        one = [self._v2.model(request, asked.name, asked.version)] if asked.name else None
        return draw_message(ModelStatisticsResponse, self._v2.statistics(one or self._v2.models(request).values()))

    async def index(self, request: Request) -> Response:
        """List the models and their states."""
        only = read_message(RepositoryIndexRequest, await self._body(request)).ready
        models = await self._v2.index(request, only_ready=only)
        return _answer(draw_message(RepositoryIndexResponse, {"models": models}))

    def _telling(self, act: Callable[[Request, bytes], Message]) -> Endpoint:
        async def tell(request: Request) -> Response:
            return _answer(act(request, await self._body(request)))

        return tell

    async def _infer(self, request: Request, wrapped: Callable[[ModelInferResponse], Message]) -> Response:
        message = read_message(ModelInferRequest, await self._body(request))
        model = self._v2.model(request, message.model_name, message.model_version)

        async def read() -> tuple[Question, "ServedModel"]:
            return read_question(message, model), model

        async def draw(made: Answer[Any], question: Question, model: "ServedModel") -> Response:
            response = _answer(wrapped(draw_answer(made, question, model)))
            response.headers["server-timing"] = server_timing(made.timings)
            return response

        return await self._v2.infer(request, model.name, read, draw)

    async def _body(self, request: Request) -> bytes:
        if header(request.scope, b"content-type") != GRPC:
            raise HttpFault(415, "unsupported_media_type", "this is gRPC, which has a port of its own", "Content-Type")
        return await read_body(request, self._v2.most_bytes)


def _answer(message: Message) -> Response:
    return Response(message.SerializeToString(), 200, media_type=GRPC)


def _path(method: str) -> str:
    return f"/{SERVICE}/{method}"


def _route(method: str, endpoint: Endpoint, draw: Callable[[Fault], Response] = render) -> Route:
    return Route(_path(method), answering(_path(method), endpoint, draw), methods=["POST"])


def _refusing(message: str) -> Endpoint:
    async def refuse(request: Request) -> Response:
        raise HttpFault(501, "not_supported", message)

    return refuse
