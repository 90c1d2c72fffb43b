"""Cohere's dialect: /v2/embed, with its flat error body. Its /v2/rerank is in rerank.py."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.call import Door, answering
from gateway.cut import check_cut
from gateway.errors import Fault, HttpFault
from gateway.renamed import renamed
from gateway.telemetry import exchange_of
from gateway.vectors import Encoding, encoded
from inference import Embed, Inputs, InputType, Truncation

if TYPE_CHECKING:
    from inference import ServedModel  # its home imports torch

Kind = Literal["search_document", "search_query", "classification", "clustering"]
Cut = Literal["NONE", "START", "END"]


class TextPart(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A piece of an input; there is no other kind than text here."""

    text: str
    type: Literal["text"] = "text"


class Content(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """One input: its only part is a text."""

    content: Annotated[list[TextPart], msgspec.Meta(min_length=1, max_length=1)]


class EmbedBody(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What POST /v2/embed takes. `max_tokens` may not be less than the model reads."""

    model: str | None = None
    input_type: Kind | None = None
    texts: list[str] | None = None
    inputs: list[Content] | None = None
    embedding_types: list[Encoding] | None = None
    output_dimension: int | None = None
    truncate: Cut | None = None
    max_tokens: Annotated[int, msgspec.Meta(ge=1)] | None = None


class Embeddings(msgspec.Struct, kw_only=True, omit_defaults=True, rename={"float_": "float"}):
    """A list of vectors for each type that was asked for."""

    float_: list[list[float]] | None = None
    int8: list[list[int]] | None = None
    uint8: list[list[int]] | None = None
    binary: list[list[int]] | None = None
    ubinary: list[list[int]] | None = None
    base64: list[str] | None = None


class Version(msgspec.Struct, kw_only=True):
    """Of Cohere's API."""

    version: str


class Billed(msgspec.Struct, kw_only=True):
    """Real tokens, special tokens included."""

    input_tokens: int


class Meta(msgspec.Struct, kw_only=True):
    """What the client reads beside the vectors."""

    api_version: Version
    billed_units: Billed


class EmbedAnswer(msgspec.Struct, kw_only=True):
    """What POST /v2/embed returns."""

    id: str
    embeddings: Embeddings
    texts: list[str]
    meta: Meta
    response_type: Literal["embeddings_by_type"] = "embeddings_by_type"


class ErrorAnswer(msgspec.Struct, kw_only=True):
    """The body of every answer that is not 200."""

    message: str


SCHEMAS: dict[str, dict[str, dict[str, Any]]] = {
    "/v2/embed": {"post": {"summary": "Embed texts", "body": EmbedBody, "answer": EmbedAnswer}}
}
STATUSES = (400, 404, 413, 415, 429, 500, 503, 504)
PREFIXES = ("/v2/embed",)

_BODY = msgspec.json.Decoder(EmbedBody)
_SEARCH: Final[dict[str, InputType]] = {"search_document": "document", "search_query": "query"}
_CUTS: Final[dict[Cut | None, Truncation]] = {None: "end", "END": "end", "START": "start", "NONE": "none"}


def render(fault: Fault) -> Response:
    """Draw a fault as Cohere does."""
    content = msgspec.json.encode(ErrorAnswer(message=fault.sentence))
    return Response(content, fault.status, fault.headers(), "application/json")


class Cohere:
    """The routes of this dialect."""

    def __init__(self, door: Door) -> None:
        """Take what the routes need."""
        self._door = door

    def routes(self) -> list[Route]:
        """Return plain Starlette routes."""
        return [Route("/v2/embed", answering("/v2/embed", self.embed, render), methods=["POST"])]

    async def embed(self, request: Request) -> Response:
        """POST /v2/embed."""
        body = await self._door.body(request, _BODY)
        inputs = _inputs(body)
        terms = self._door.terms(request, "embed", body.model, _CUTS[body.truncate])
        model = self._door.client.model_for(terms.model, "embed")
        check_cut(body.max_tokens, "max_tokens", model)
        ask = Embed(
            inputs,
            terms,
            body.output_dimension,
            _prompt_name(model, body),
            _SEARCH.get(body.input_type or ""),
        )
        with renamed({"dimensions": "output_dimension"}):
            made = await self._door.answer(request, self._door.client.embed(ask))
        kinds: Sequence[Encoding] = list(dict.fromkeys(body.embedding_types or ["float"]))
        content = {
            "id": exchange_of(request.scope).request_id,
            "embeddings": {kind: [encoded(row, kind) for row in made.items] for kind in kinds},
            "texts": inputs.items,
            "meta": {"api_version": {"version": "2"}, "billed_units": {"input_tokens": made.tokens}},
            "response_type": "embeddings_by_type",
        }
        return await self._door.write(request, content, made)


def _inputs(body: EmbedBody) -> Inputs:
    if body.texts is not None and body.inputs is None:
        return Inputs(body.texts, "texts")
    if body.inputs is not None and body.texts is None:
        return Inputs([each.content[0].text for each in body.inputs], "inputs")
    raise HttpFault(400, "invalid_request", "give either texts or inputs", "texts")


def _prompt_name(model: "ServedModel", body: EmbedBody) -> str | None:
    """Return the model's own prompt for a kind of input that is not for search, if it has one."""
    return body.input_type if body.input_type in {"classification", "clustering"} & model.prompts.keys() else None
