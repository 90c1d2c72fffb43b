"""OpenAI's dialect: /v1/embeddings and /v1/models, with its nested error body."""

import time
from typing import Any, Literal

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.call import Door, answering
from gateway.errors import Fault
from gateway.inputs import Told, read_inputs
from gateway.usage import Usage, usage
from gateway.vectors import Encoding, encoded
from inference import Answer, Embed, InputType


class EmbeddingsBody(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What POST /v1/embeddings takes."""

    input: Told
    model: str | None = None
    encoding_format: Encoding = "float"
    dimensions: int | None = None
    user: str | None = None
    truncate: bool = False
    prompt_name: str | None = None
    input_type: Literal["query", "document", "passage"] | None = None


class Embedding(msgspec.Struct, kw_only=True):
    """One vector: a list of numbers (whole ones for int8 and the binary kinds), or base64 of little-endian float32."""

    index: int
    embedding: list[float] | str
    object: Literal["embedding"] = "embedding"


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

STATUSES = (400, 404, 413, 415, 429, 500, 503, 504)
PREFIXES = ("/",)
_BODY = msgspec.json.Decoder(EmbeddingsBody)


def render(fault: Fault) -> Response:
    """Draw a fault as OpenAI does."""
    detail = ErrorDetail(message=fault.sentence, type=_kind(fault), param=fault.field, code=fault.code)
    content = msgspec.json.encode(ErrorAnswer(error=detail))
    return Response(content, fault.status, fault.headers(), "application/json")


class OpenAI:
    """The routes of this dialect."""

    def __init__(self, door: Door) -> None:
        """Take what the routes need."""
        self._door = door
        self._started = int(time.time())

    def routes(self) -> list[Route]:
        """Return plain Starlette routes."""
        return [
            Route("/v1/embeddings", answering("/v1/embeddings", self.embeddings, render), methods=["POST"]),
            Route("/v1/models", answering("/v1/models", self.models, render), methods=["GET"]),
        ]

    async def embeddings(self, request: Request) -> Response:
        """POST /v1/embeddings."""
        body = await self._door.body(request, _BODY)
        terms = self._door.terms(request, "embed", body.model, "end" if body.truncate else "none")
        kind: InputType | None = "document" if body.input_type == "passage" else body.input_type
        ask = Embed(read_inputs(body.input, "input"), terms, body.dimensions, body.prompt_name, kind)
        made = await self._door.answer(request, self._door.client.embed(ask))
        return await self._door.write(request, _answer(made, body.encoding_format), made)

    async def models(self, request: Request) -> Response:
        """GET /v1/models."""
        models = [Model(id=name, created=self._started) for name in self._door.models(request)]
        return Response(msgspec.json.encode(ModelsAnswer(data=models)), media_type="application/json")


def _answer(made: Answer[Any], encoding: Encoding) -> dict[str, Any]:
    data = [
        {"object": "embedding", "index": index, "embedding": encoded(vector, encoding)}
        for index, vector in enumerate(made.items)
    ]
    return {"object": "list", "data": data, "model": made.model, "usage": usage(made.tokens)}


def _kind(fault: Fault) -> str:
    if fault.status == 429:  # noqa: PLR2004
        return "rate_limit_error"
    return "invalid_request_error" if fault.status < 500 else "server_error"  # noqa: PLR2004
