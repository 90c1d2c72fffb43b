"""
vLLM's dialect for pooling models: /classify, /score and /pooling, with OpenAI's nested error body.

Texts that are too long are refused, unless `truncate_prompt_tokens` is -1 (or the model's own maximum).
"""

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
import numpy as np
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.call import Door, answering
from gateway.errors import Fault, HttpFault
from gateway.inputs import Told, read_inputs
from gateway.telemetry import exchange_of
from gateway.usage import Usage, usage
from gateway.vectors import encoded, unit
from inference import (
    Ability,
    Answer,
    Classify,
    Embed,
    Inputs,
    Rerank,
    Scores,
    Tag,
    Task,
    Terms,
    Truncation,
    ranked,
    softmax,
)

if TYPE_CHECKING:
    from inference import ServedModel  # its home imports torch

Texts = str | list[str]
PoolingTask = Literal["embed", "classify", "token_embed", "token_classify"]


class PoolingTerms(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What may be said in every body."""

    model: str | None = None
    user: str | None = None
    truncate_prompt_tokens: Annotated[int, msgspec.Meta(ge=-1)] | None = None
    truncation_side: Literal["left", "right"] | None = None
    use_activation: bool | None = None


class ClassifyBody(PoolingTerms, kw_only=True):
    """What POST /classify takes."""

    input: Told


class ScoreBody(PoolingTerms, kw_only=True):
    """What POST /score takes: `text_1` and `text_2`, by one of their names; one against many, or pairs in order."""

    text_1: Texts | None = None
    text_2: Texts | None = None
    data_1: Texts | None = None
    data_2: Texts | None = None
    queries: Texts | None = None
    documents: Texts | None = None
    items: Texts | None = None


class PoolingBody(PoolingTerms, kw_only=True):
    """What POST /pooling takes. Without `task`: numbers for each token, where the model has them."""

    input: Told
    task: PoolingTask | None = None
    dimensions: int | None = None
    encoding_format: Literal["float", "base64"] = "float"


class PoolingUsage(Usage, kw_only=True):
    """No pooling model completes anything."""

    completion_tokens: int = 0


class Classification(msgspec.Struct, kw_only=True):
    """The best label, and every label's number in the order of the model's."""

    index: int
    label: str
    probs: list[float]
    num_classes: int


class ClassifyAnswer(msgspec.Struct, kw_only=True):
    """What POST /classify returns."""

    id: str
    created: int
    model: str
    data: list[Classification]
    usage: PoolingUsage
    object: Literal["list"] = "list"


class Score(msgspec.Struct, kw_only=True):
    """How well two texts go together."""

    index: int
    score: float
    object: Literal["score"] = "score"


class ScoreAnswer(msgspec.Struct, kw_only=True):
    """What POST /score returns."""

    id: str
    created: int
    model: str
    data: list[Score]
    usage: PoolingUsage
    object: Literal["list"] = "list"


class Pooled(msgspec.Struct, kw_only=True):
    """What the model made of one input: a vector, one a token, or base64 of little-endian float32."""

    index: int
    data: list[float | list[float]] | str
    object: Literal["pooling"] = "pooling"


class PoolingAnswer(msgspec.Struct, kw_only=True):
    """What POST /pooling returns."""

    id: str
    created: int
    model: str
    data: list[Pooled]
    usage: PoolingUsage
    object: Literal["list"] = "list"


class ErrorDetail(msgspec.Struct, kw_only=True):
    """What went wrong; `code` is the status."""

    message: str
    type: str
    param: str | None
    code: int


class ErrorAnswer(msgspec.Struct, kw_only=True):
    """The body of every answer that is not 200."""

    error: ErrorDetail


_SCORE = {"post": {"summary": "Score pairs of texts", "body": ScoreBody, "answer": ScoreAnswer}}
SCHEMAS: dict[str, dict[str, dict[str, Any]]] = {
    "/classify": {"post": {"summary": "Classify texts", "body": ClassifyBody, "answer": ClassifyAnswer}},
    "/score": _SCORE,
    "/v1/score": _SCORE,
    "/pooling": {"post": {"summary": "Return a model's own numbers", "body": PoolingBody, "answer": PoolingAnswer}},
}
STATUSES = (400, 404, 413, 415, 429, 500, 503, 504)
PREFIXES: tuple[str, ...] = ()

_CLASSIFY = msgspec.json.Decoder(ClassifyBody)
_READ_SCORE = msgspec.json.Decoder(ScoreBody)
_POOLING = msgspec.json.Decoder(PoolingBody)
_NAMES = {400: "BadRequestError", 404: "NotFoundError", 429: "RateLimitError", 503: "ServiceUnavailableError"}
_POOLS: dict[Task, PoolingTask] = {
    "embed": "token_embed",
    "token-classify": "token_classify",
    "classify": "classify",
    "rerank": "classify",
}


def render(fault: Fault) -> Response:
    """Draw a fault as vLLM does."""
    kind = _NAMES.get(fault.status, "BadRequestError" if fault.status < 500 else "InternalServerError")  # noqa: PLR2004
    detail = ErrorDetail(message=fault.sentence, type=kind, param=fault.field, code=fault.status)
    content = msgspec.json.encode(ErrorAnswer(error=detail))
    return Response(content, fault.status, fault.headers(), "application/json")


class VLLM:
    """The routes of this dialect."""

    def __init__(self, door: Door) -> None:
        """Take what the routes need."""
        self._door = door

    def routes(self) -> list[Route]:
        """Return plain Starlette routes."""
        posts = {
            "/classify": self.classify,
            "/score": self.score,
            "/v1/score": self.score,
            "/pooling": self.pooling,
        }
        return [Route(path, answering(path, post, render), methods=["POST"]) for path, post in posts.items()]

    async def classify(self, request: Request) -> Response:
        """POST /classify."""
        body = await self._door.body(request, _CLASSIFY)
        ask = Classify(read_inputs(body.input, "input"), self._terms(request, "classify", body))
        made = await self._door.answer(request, self._door.client.classify(ask))
        rows = [_numbers(item, body) for item in made.items]
        data = [
            {"index": i, "label": item.labels[ranked(row, 1)[0]], "probs": row, "num_classes": len(item.labels)}
            for i, (item, row) in enumerate(zip(made.items, rows, strict=True))
        ]
        return await self._door.write(request, _list_of(request, "classify", data, made), made)

    async def score(self, request: Request) -> Response:
        """POST /score: by a reranker, or by the cosine of embeddings."""
        body = await self._door.body(request, _READ_SCORE)
        left, right = _sides(body)
        first = [str(text) for text in left.items] * (len(right.items) if len(left.items) == 1 else 1)
        second = [str(text) for text in right.items]
        if self._has(body.model, "rerank"):
            pairs = Inputs(list(zip(first, second, strict=True)), right.field, right.single, first=left.field)
            terms = self._terms(request, "rerank", body)
            made = await self._door.answer(request, self._door.client.rerank(Rerank(pairs, terms)))
            raw = body.use_activation is False
            scores = [item.logit if raw else item.score for item in made.items]
            return await self._door.write(request, _list_of(request, "score", _scored(scores), made), made)
        names = {str(text): side.name(place) for side in (right, left) for place, text in enumerate(side.items)}
        texts = list(names)
        ask = Embed(Inputs(texts, names=list(names.values())), self._terms(request, "embed", body))
        vectors = await self._door.answer(request, self._door.client.embed(ask))
        rows = dict(zip(texts, map(unit, vectors.items), strict=True))
        scores = [float(rows[one] @ rows[other]) for one, other in zip(first, second, strict=True)]
        return await self._door.write(request, _list_of(request, "score", _scored(scores), vectors), vectors)

    async def pooling(self, request: Request) -> Response:
        """POST /pooling."""
        body = await self._door.body(request, _POOLING)
        model = self._door.model_for(request, body.model, None)
        task = body.task or _POOLS.get(model.task)
        if task is None:
            message = f"{model.name} has none of: embed, classify, token_embed, token_classify"
            raise HttpFault(400, "invalid_request", message, "task")
        if body.dimensions is not None and task != "embed":
            raise HttpFault(400, "invalid_request", f"does not go with {task}", "dimensions")
        made = await self._pool(request, body, task)
        data = [
            {"index": index, "object": "pooling", "data": encoded(row, body.encoding_format)}
            for index, row in enumerate(made.items)
        ]
        return await self._door.write(request, _list_of(request, "pool", data, made), made)

    async def _pool(self, request: Request, body: PoolingBody, task: PoolingTask) -> Answer[Any]:
        inputs, client = read_inputs(body.input, "input"), self._door.client
        match task:
            case "embed":
                raw, terms = body.use_activation is False, self._terms(request, "embed", body)
                ask = Embed(inputs, terms, body.dimensions, output="raw vector" if raw else "vector")
                return await self._door.answer(request, client.embed(ask))
            case "token_embed":
                ask = Embed(inputs, self._terms(request, "embed", body), output="token vectors")
                made = await self._door.answer(request, client.embed(ask))
                return made if body.use_activation is False else _with(made, [_units(row) for row in made.items])
            case "classify":
                scores = client.classify(Classify(inputs, self._terms(request, "classify", body)))
                scored = await self._door.answer(request, scores)
                return _with(scored, [_numbers(item, body) for item in scored.items])
            case "token_classify":
                tag = Tag(inputs, self._terms(request, "token-classify", body))
                tagged = await self._door.answer(request, client.token_logits(tag))
                raw = body.use_activation is False
                return tagged if raw else _with(tagged, [softmax(row) for row in tagged.items])

    def _terms(self, request: Request, ability: Ability, body: PoolingTerms) -> Terms:
        terms = self._door.terms(request, ability, body.model, "none")
        model = self._door.client.model_for(terms.model, ability)
        truncation = _truncation(body, model)
        return Terms(terms.timeout_s, terms.model, truncation, terms.caller, terms.priority)

    def _has(self, name: str | None, ability: Ability) -> bool:
        """Whether the model that is meant, or any, can do this."""
        models = self._door.client.models
        return any(ability in model.abilities for model in models.values() if name in (None, model.name))


def _truncation(body: PoolingTerms, model: "ServedModel") -> Truncation:
    if body.truncate_prompt_tokens is None:
        return "none"
    if body.truncate_prompt_tokens not in {-1, model.max_length}:
        message = f"must be -1 or {model.max_length}, which is as much as {model.name} reads"
        raise HttpFault(400, "invalid_request", message, "truncate_prompt_tokens")
    return "start" if body.truncation_side == "left" else "end"


def _sides(body: ScoreBody) -> tuple[Inputs, Inputs]:
    """Return the first texts of the pairs and the second ones, under the caller's names."""
    first = _one_of({"text_1": body.text_1, "data_1": body.data_1, "queries": body.queries})
    named = {"text_2": body.text_2, "data_2": body.data_2, "documents": body.documents, "items": body.items}
    second = _one_of(named)
    if len(first.items) not in {1, len(second.items)}:
        message = f"{len(first.items)} texts against {len(second.items)}: give one against many, or as many on both"
        raise HttpFault(400, "invalid_request", message, first.field)
    return first, second


def _one_of(named: dict[str, Texts | None]) -> Inputs:
    given = [(name, texts) for name, texts in named.items() if texts is not None]
    if len(given) != 1:
        raise HttpFault(400, "invalid_request", f"give one of: {', '.join(named)}", next(iter(named)))
    name, texts = given[0]
    told = [texts] if isinstance(texts, str) else texts
    if not all(told) or not told:
        raise HttpFault(400, "invalid_request", "must not be empty", name)
    return Inputs(told, name, single=isinstance(texts, str))


def _numbers(item: Scores, body: PoolingTerms) -> Any:
    return item.logits if body.use_activation is False else item.scores


def _units(rows: Any) -> Any:
    """Scale each row of [tokens, hidden] float32 to length 1."""
    return rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-12)


def _with(made: Answer[Any], items: Sequence[Any]) -> Answer[Any]:
    return Answer(made.model, items, made.tokens, made.timings)


def _scored(scores: Sequence[float]) -> list[dict[str, Any]]:
    return [{"index": index, "object": "score", "score": score} for index, score in enumerate(scores)]


def _list_of(request: Request, what: str, data: Sequence[dict[str, Any]], made: Answer[Any]) -> dict[str, Any]:
    return {
        "id": f"{what}-{exchange_of(request.scope).request_id}",
        "object": "list",
        "created": int(time.time()),
        "model": made.model,
        "data": data,
        "usage": {**usage(made.tokens), "completion_tokens": 0},
    }
