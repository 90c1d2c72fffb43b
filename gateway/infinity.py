"""
infinity's dialect, below its own `--url-prefix`: /embeddings, /rerank, /classify and /models.

Texts that are too long are cut, as there; unlike there, `usage` counts tokens and /classify heeds `raw_scores`.
"""

import time
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.call import Door, answering
from gateway.errors import Fault, HttpFault
from gateway.labels import scored_labels
from gateway.telemetry import exchange_of
from gateway.usage import Usage, usage
from gateway.vectors import encoded, unit
from inference import Answer, Classify, Embed, Inputs, Rerank, ranked

if TYPE_CHECKING:
    from inference import ServedModel  # its home imports torch

Positive = Annotated[int, msgspec.Meta(ge=1)]


class EmbeddingsBody(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What POST /embeddings takes; 0 dimensions are all of them."""

    input: str | list[str]
    model: str | None = None
    encoding_format: Literal["float", "base64"] = "float"
    user: str | None = None
    dimensions: int | None = None
    modality: Literal["text"] = "text"


class RerankBody(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What POST /rerank takes."""

    query: str
    documents: list[str]
    model: str | None = None
    return_documents: bool = False
    raw_scores: bool = False
    top_n: Positive | None = None


class ClassifyBody(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What POST /classify takes."""

    input: list[str]
    model: str | None = None
    raw_scores: bool = False


class Embedding(msgspec.Struct, kw_only=True):
    """One vector: a list of numbers, or base64 of little-endian float32."""

    index: int
    embedding: list[float] | str
    object: Literal["embedding"] = "embedding"


class EmbeddingsAnswer(msgspec.Struct, kw_only=True):
    """What POST /embeddings returns."""

    data: list[Embedding]
    model: str
    usage: Usage
    id: str
    created: int
    object: Literal["list"] = "list"


class Ranked(msgspec.Struct, kw_only=True):
    """One document's place; `document` if it was asked for."""

    relevance_score: float
    index: int
    document: str | None = None


class RerankAnswer(msgspec.Struct, kw_only=True):
    """What POST /rerank returns."""

    results: list[Ranked]
    model: str
    usage: Usage
    id: str
    created: int
    object: Literal["rerank"] = "rerank"


class Label(msgspec.Struct, kw_only=True):
    """A label and its score."""

    score: float
    label: str


class ClassifyAnswer(msgspec.Struct, kw_only=True):
    """What POST /classify returns."""

    data: list[list[Label]]
    model: str
    usage: Usage
    id: str
    created: int
    object: Literal["classify"] = "classify"


class Load(msgspec.Struct, kw_only=True):
    """How busy a model is: its waiting tokens as a share of the limit, its waiting inputs."""

    queue_fraction: float
    queue_absolute: int
    results_pending: int
    batch_size: int


class Model(msgspec.Struct, kw_only=True):
    """A served model."""

    id: str
    stats: Load
    created: int
    backend: str
    capabilities: list[str]
    object: Literal["model"] = "model"
    owned_by: Literal["infinity"] = "infinity"


class ModelsAnswer(msgspec.Struct, kw_only=True):
    """What GET /models returns."""

    data: list[Model]
    object: Literal["list"] = "list"


class ErrorDetail(msgspec.Struct, kw_only=True):
    """What went wrong; `code` is the status."""

    message: str
    type: str | None
    param: str | None
    code: int


class ErrorAnswer(msgspec.Struct, kw_only=True):
    """The body of every answer that is not 200."""

    error: ErrorDetail


SCHEMAS: dict[str, dict[str, dict[str, Any]]] = {
    "/embeddings": {"post": {"summary": "Embed texts", "body": EmbeddingsBody, "answer": EmbeddingsAnswer}},
    "/rerank": {"post": {"summary": "Rank documents for a query", "body": RerankBody, "answer": RerankAnswer}},
    "/classify": {"post": {"summary": "Classify texts", "body": ClassifyBody, "answer": ClassifyAnswer}},
    "/models": {"get": {"summary": "List the served models", "answer": ModelsAnswer, "statuses": (500,)}},
}
STATUSES = (400, 404, 413, 415, 429, 500, 503, 504)
PREFIXES = ("/",)

_EMBEDDINGS = msgspec.json.Decoder(EmbeddingsBody)
_RERANK = msgspec.json.Decoder(RerankBody)
_CLASSIFY = msgspec.json.Decoder(ClassifyBody)


def render(fault: Fault) -> Response:
    """Draw a fault as infinity does."""
    detail = ErrorDetail(message=fault.sentence, type=None, param=fault.field, code=fault.status)
    content = msgspec.json.encode(ErrorAnswer(error=detail))
    return Response(content, fault.status, fault.headers(), "application/json")


class Infinity:
    """The routes of this dialect."""

    def __init__(self, door: Door, prefix: str) -> None:
        """Take what the routes need, and what their paths begin with."""
        self._door = door
        self._prefix = prefix
        self._started = int(time.time())

    def routes(self) -> list[Route]:
        """Return plain Starlette routes."""
        posts = {"/embeddings": self.embeddings, "/rerank": self.rerank, "/classify": self.classify}
        models = self._prefix + "/models"
        return [
            *(
                Route(path, answering(path, post, render), methods=["POST"])
                for path, post in ((self._prefix + path, post) for path, post in posts.items())
            ),
            Route(models, answering(models, self.models, render), methods=["GET"]),
        ]

    async def embeddings(self, request: Request) -> Response:
        """POST /embeddings: always scaled to length 1."""
        body = await self._door.body(request, _EMBEDDINGS)
        inputs = Inputs([body.input], "input", single=True) if isinstance(body.input, str) else Inputs(body.input)
        terms = self._door.terms(request, "embed", body.model, "end")
        scaled = self._door.client.model_for(terms.model, "embed").normalised
        made = await self._door.answer(request, self._door.client.embed(Embed(inputs, terms, body.dimensions or None)))
        data = [
            {"object": "embedding", "index": index, "embedding": encoded(row, body.encoding_format)}
            for index, row in enumerate(made.items if scaled else map(unit, made.items))
        ]
        return await self._door.write(request, _answer(request, {"object": "list", "data": data}, made), made)

    async def rerank(self, request: Request) -> Response:
        """POST /rerank."""
        body = await self._door.body(request, _RERANK)
        if not body.query:
            raise HttpFault(400, "invalid_request", "must not be empty", "query")
        pairs = Inputs([(body.query, text) for text in body.documents], "documents", first="query")
        ask = Rerank(pairs, self._door.terms(request, "rerank", body.model, "end"))
        made = await self._door.answer(request, self._door.client.rerank(ask))
        scores = [item.logit if body.raw_scores else item.score for item in made.items]
        results = [
            {
                "relevance_score": scores[index],
                "index": index,
                "document": body.documents[index] if body.return_documents else None,
            }
            for index in ranked(scores, body.top_n)
        ]
        return await self._door.write(request, _answer(request, {"object": "rerank", "results": results}, made), made)

    async def classify(self, request: Request) -> Response:
        """POST /classify."""
        body = await self._door.body(request, _CLASSIFY)
        ask = Classify(Inputs(body.input), self._door.terms(request, "classify", body.model, "end"))
        made = await self._door.answer(request, self._door.client.classify(ask))
        data = [scored_labels(item, raw=body.raw_scores) for item in made.items]
        return await self._door.write(request, _answer(request, {"object": "classify", "data": data}, made), made)

    async def models(self, request: Request) -> Response:
        """GET /models."""
        statistics, limits = self._door.client.statistics(), self._door.limits
        lanes = {} if statistics is None else {lane.model: lane for lane in statistics.scheduler.lanes}
        data = [
            Model(
                id=name,
                stats=Load(
                    queue_fraction=lanes[name].tokens / limits.max_waiting_tokens,
                    queue_absolute=lanes[name].entries,
                    results_pending=0,
                    batch_size=limits.max_batch_tokens,
                ),
                created=self._started,
                backend="torch",
                capabilities=_capabilities(model),
            )
            for name, model in self._door.models(request).items()
        ]
        return Response(msgspec.json.encode(ModelsAnswer(data=data)), media_type="application/json")


def _capabilities(model: "ServedModel") -> list[str]:
    return [ability for ability in model.abilities if ability in ("embed", "rerank", "classify")]


def _answer(request: Request, content: dict[str, Any], made: Answer[Any]) -> dict[str, Any]:
    return {
        **content,
        "model": made.model,
        "usage": usage(made.tokens),
        "id": f"infinity-{exchange_of(request.scope).request_id}",
        "created": int(time.time()),
    }
