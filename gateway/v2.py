"""What the Open Inference Protocol V2 does with a call, whether it travels as JSON or as protobuf messages."""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from starlette.requests import Request
from starlette.responses import Response

from gateway import __version__
from gateway.call import Door
from gateway.config import Settings
from gateway.control import ModelControl
from gateway.errors import HttpFault
from gateway.kserve_forms import ModelIndex, Parameters, ServerMetadata
from gateway.ledger import Ledger
from gateway.lifecycle import Lifecycle
from gateway.model_card import config, statistics
from gateway.question import Question, ask
from gateway.renamed import below, renamed
from gateway.telemetry import Metrics, exchange_of
from inference import Answer, Limits, Terms, UnknownModel

if TYPE_CHECKING:
    from inference import ServedModel  # its home imports torch

Read = Callable[[], Awaitable["tuple[Question, ServedModel]"]]
Draw = Callable[[Answer[Any], Question, "ServedModel"], Awaitable[Response]]

NO_MEMORY: Final = "shared memory is not supported: send tensors in the body"
NO_SETTINGS: Final = "trace and log settings cannot be changed or read here"
NO_LOADING: Final = "models are loaded and unloaded over HTTP alone: POST /v2/repository/models/NAME/load or /unload"

_EXTENSIONS: Final = [
    *("binary_tensor_data", "classification", "model_configuration", "model_repository", "parameters"),
    *("schedule_policy", "statistics"),
]
_PARAMETERS: Final = below("parameters", "dimensions", "prompt_name", "top_k")
_LOWEST: Final = -9  # of our own classes, which count upwards


class V2:
    """The protocol's acts; one for all forms, so that statistics count every call."""

    def __init__(self, door: Door, settings: Settings, lifecycle: Lifecycle, metrics: Metrics) -> None:
        """Take what the acts need."""
        self._door = door
        self._settings = settings
        self._lifecycle = lifecycle
        self._metrics = metrics
        self._ledger = Ledger()
        self.control = ModelControl(door, settings, metrics)

    @property
    def live(self) -> bool:
        """Whether this process works; when not, a restart helps."""
        return self._lifecycle.healthy

    @property
    def ready(self) -> bool:
        """Whether calls are taken."""
        return self._lifecycle.state == "ready" and self._lifecycle.healthy

    @property
    def most_bytes(self) -> int:
        """How large the body of a call may be."""
        return self._settings.http.max_body_bytes

    @property
    def limits(self) -> Limits:
        """What the engine takes at most."""
        return self._door.limits

    def models(self, request: Request) -> "Mapping[str, ServedModel]":
        """Return what is served, by name, of that what the caller may use."""
        return self._door.models(request)

    def model(self, request: Request, name: str, version: str = "") -> "ServedModel":
        """Return the model that is meant, the only one where none is named; raises InvalidRequest."""
        model = self._door.model_for(request, name or None, None)
        known = [each for each in (str(model.version), model.revision) if each]
        if version and version not in known:
            raise UnknownModel(f"{model.name} has no version {version!r}; it has: {', '.join(known)}", "version")
        return model

    def server(self) -> ServerMetadata:
        """Describe this server."""
        return ServerMetadata(name="headrace", version=__version__, extensions=_EXTENSIONS)

    def config(self, request: Request, model: "ServedModel") -> dict[str, Any]:
        """Describe a model as Triton does."""
        most = self._door.highest(request)
        return config(model, self._settings.engine.limits.max_items, most - _LOWEST + 1, most + 1)

    def statistics(self, models: "Iterable[ServedModel]") -> dict[str, Any]:
        """Tell what the calls of models cost."""
        told = [statistics(model, self._ledger.account(model.name), self._metrics) for model in models]
        return {"model_stats": told}

    async def index(self, request: Request, *, only_ready: bool) -> list[ModelIndex]:
        """List the models that the caller may use, and their states."""
        states = await self.control.index(request)
        return [
            ModelIndex(state.name, str(state.version or ""), state.state, state.reason)
            for state in states
            if state.state == "READY" or not only_ready
        ]

    async def infer(self, request: Request, name: str, read: Read, draw: Draw) -> Response:
        """Run a model of this name on what `read` finds in the call, and draw its answer."""
        exchange_of(request.scope).model = name
        with self._ledger.call(name) as call:
            question, model = await read()
            terms = self._terms(request, model, question.parameters)
            with renamed(_PARAMETERS):
                made = await self._door.answer(request, ask(self._door.client, question, terms))
            call.answer(made.timings)
            return await draw(made, question, model)

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
