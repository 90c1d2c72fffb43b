"""OpenAI's dialect: /v1/embeddings and /v1/models, with its nested error body."""

import base64
import re
import time
from typing import Annotated, Any, Literal

import msgspec
import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.call import answering, caller, cancelled_when_gone, priority, read_json, timeout_s
from gateway.config import Settings
from gateway.errors import Fault, HttpFault
from gateway.telemetry import Metrics, exchange_of, server_timing
from inference import Client, Embed, Embeddings, Inputs

TokenId = Annotated[int, msgspec.Meta(ge=0, lt=2**31)]


class EmbeddingsBody(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What POST /v1/embeddings takes."""

    input: str | list[str | TokenId | list[TokenId]]
    model: str | None = None
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = None
    user: str | None = None
    truncate: bool = False


class Embedding(msgspec.Struct, kw_only=True):
    """One vector: a list of numbers, or base64 of little-endian float32."""

    index: int
    embedding: list[float] | str
    object: Literal["embedding"] = "embedding"


class Usage(msgspec.Struct, kw_only=True):
    """Real tokens, special tokens included, padding left out."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingsAnswer(msgspec.Struct, kw_only=True):
    """What POST /v1/embeddings returns."""

    data: list[Embedding]
    model: str
    usage: Usage
    object: Literal["list"] = "list"


class Model(msgspec.Struct, kw_only=True):
    """A served model."""

    id: str
    created: int
    owned_by: str = "headrace"
    object: Literal["model"] = "model"


class ModelsAnswer(msgspec.Struct, kw_only=True):
    """What GET /v1/models returns."""

    data: list[Model]
    object: Literal["list"] = "list"


class ErrorDetail(msgspec.Struct, kw_only=True):
    """What went wrong; `param` names the field."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorAnswer(msgspec.Struct, kw_only=True):
    """The body of every answer that is not 200."""

    error: ErrorDetail


SCHEMAS: dict[str, dict[str, dict[str, Any]]] = {
    "/v1/embeddings": {"post": {"summary": "Embed texts", "body": EmbeddingsBody, "answer": EmbeddingsAnswer}},
    "/v1/models": {"get": {"summary": "List the served models", "answer": ModelsAnswer}},
}

_BODY = msgspec.json.Decoder(EmbeddingsBody)
_WHERE = re.compile(r" - at `\$\.?(.*)`$")


def render(fault: Fault) -> Response:
    """Draw a fault as OpenAI does."""
    detail = ErrorDetail(message=_sentence(fault), type=_kind(fault), param=fault.field, code=fault.code)
    content = msgspec.json.encode(ErrorAnswer(error=detail))
    return Response(content, fault.status, fault.headers(), "application/json")


class OpenAI:
    """The routes of this dialect."""

    def __init__(self, client: Client, settings: Settings, metrics: Metrics) -> None:
        """Take what the routes need."""
        self._client = client
        self._settings = settings
        self._metrics = metrics
        self._started = int(time.time())

    def routes(self) -> list[Route]:
        """Return plain Starlette routes."""
        return [
            Route("/v1/embeddings", answering("/v1/embeddings", self.embeddings, render), methods=["POST"]),
            Route("/v1/models", answering("/v1/models", self.models, render), methods=["GET"]),
        ]

    async def embeddings(self, request: Request) -> Response:
        """POST /v1/embeddings."""
        body = parse(await read_json(request, self._settings.http.max_body_bytes))
        ask = Embed(
            _inputs(body.input),
            timeout_s=timeout_s(request, self._settings.deadlines),
            model=body.model,
            dimensions=body.dimensions,
            truncate=body.truncate,
            caller=caller(request),
            priority=priority(request, self._settings.http.max_priority),
        )
        exchange = exchange_of(request.scope)
        exchange.model = self._served(body.model)
        async with cancelled_when_gone(request):
            made = await self._client.embed(ask)
        exchange.model, exchange.items, exchange.tokens = made.model, len(made.vectors), made.tokens
        self._metrics.tokenise_s.labels(made.model).observe(made.timings.tokenise_s)
        headers = {"server-timing": server_timing(made.timings)}
        return Response(_answer(made, body.encoding_format), 200, headers, "application/json")

    async def models(self, request: Request) -> Response:
        """GET /v1/models."""
        models = [Model(id=name, created=self._started) for name in self._client.models]
        return Response(msgspec.json.encode(ModelsAnswer(data=models)), media_type="application/json")

    def _served(self, name: str | None) -> str:
        """Name the model that is meant, if there is one: labels hold no text that a caller made up."""
        models = self._client.models
        if name is None and len(models) == 1:
            return next(iter(models))
        return name if name is not None and name in models else ""


def parse(body: bytes) -> EmbeddingsBody:
    """Read a body, or say which field is wrong."""
    try:
        return _BODY.decode(body)
    except msgspec.ValidationError as err:
        where = _WHERE.search(str(err))
        message = _WHERE.sub("", str(err))
        field = where[1] if where else _missing_or_unknown(message)
        raise HttpFault(400, "invalid_request", message, field) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as err:
        raise HttpFault(400, "invalid_json", f"the body is not JSON in UTF-8: {err}"[:200]) from None


def _inputs(told: str | list[Any]) -> Inputs:
    if isinstance(told, str):
        return Inputs([told], single=True)
    if told and isinstance(told[0], int):
        _refuse_mixture(told, int)
        return Inputs([told], single=True)
    if told:
        _refuse_mixture(told, type(told[0]))
    return Inputs(told)


def _refuse_mixture(items: list[Any], kind: type) -> None:
    if set(map(type, items)) == {kind}:
        return
    odd = next((index for index, item in enumerate(items) if not isinstance(item, kind)), None)
    if odd is not None:
        message = f"is of another kind than input[0]: give texts, token ids, or lists of token ids ({kind.__name__})"
        raise HttpFault(400, "invalid_request", message, f"input[{odd}]")


def _answer(made: Embeddings, encoding: str) -> bytes:
    data = [
        {"object": "embedding", "index": index, "embedding": _base64(vector) if encoding == "base64" else vector}
        for index, vector in enumerate(made.vectors)
    ]
    usage = {"prompt_tokens": made.tokens, "total_tokens": made.tokens}
    answer = {"object": "list", "data": data, "model": made.model, "usage": usage}
    return orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)


def _base64(vector: Any) -> str:
    return base64.b64encode(vector.astype("<f4", copy=False).tobytes()).decode("ascii")


def _sentence(fault: Fault) -> str:
    return f"{fault.field}: {fault.message}" if fault.field else fault.message


def _kind(fault: Fault) -> str:
    if fault.status == 429:  # noqa: PLR2004
        return "rate_limit_error"
    return "invalid_request_error" if fault.status < 500 else "server_error"  # noqa: PLR2004


def _missing_or_unknown(message: str) -> str | None:
    named = re.search(r"field `([^`]{1,100})`", message)
    return named[1] if named else None
