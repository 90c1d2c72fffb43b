"""
Reranking as Jina and Cohere speak it: /rerank (bodies with `documents`), /v1/rerank, and Cohere's /v2/rerank.

Documents that are too long are cut, as there. Bodies of /rerank with `texts` are TEI's.
"""

from typing import Annotated, Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.call import Door, answering
from gateway.cut import check_cut
from gateway.errors import Fault, HttpFault
from gateway.telemetry import exchange_of
from gateway.usage import Usage, usage
from inference import Answer, Inputs, Relevance, Rerank, Terms, ranked

Positive = Annotated[int, msgspec.Meta(ge=1)]


class Document(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A document with nothing but its text."""

    text: str


class JinaBody(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What POST /v1/rerank takes, and POST /rerank."""

    query: str
    documents: list[str | Document]
    model: str | None = None
    top_n: Positive | None = None
    return_documents: bool = True


class CohereBody(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What POST /v2/rerank takes. `max_tokens_per_doc` may not be less than the model reads."""

    query: str
    documents: list[str | Document]
    model: str | None = None
    top_n: Positive | None = None
    return_documents: bool = False
    max_tokens_per_doc: Positive | None = None


class Ranked(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One document's place; the best come first."""

    index: int
    relevance_score: float
    document: Document | None = None


class Version(msgspec.Struct, kw_only=True):
    """Of Cohere's API."""

    version: str


class Billed(msgspec.Struct, kw_only=True):
    """What Cohere would count."""

    search_units: int = 1


class Meta(msgspec.Struct, kw_only=True):
    """What Cohere's client reads beside the results."""

    api_version: Version
    billed_units: Billed


class RerankAnswer(msgspec.Struct, kw_only=True):
    """What every route here returns: what Jina's clients read, and what Cohere's do."""

    id: str
    model: str
    object: str
    usage: Usage
    results: list[Ranked]
    meta: Meta


class ErrorAnswer(msgspec.Struct, kw_only=True):
    """The body of every answer that is not 200: Cohere's clients read `message`, Jina's `detail`."""

    message: str
    detail: str


_JINA: dict[str, Any] = {"summary": "Rank documents for a query", "body": JinaBody, "answer": RerankAnswer}
SCHEMAS: dict[str, dict[str, dict[str, Any]]] = {
    "/rerank": {"post": _JINA},
    "/v1/rerank": {"post": _JINA},
    "/v2/rerank": {"post": {**_JINA, "body": CohereBody}},
}
STATUSES = (400, 404, 413, 415, 429, 500, 503, 504)
PREFIXES: tuple[str, ...] = ()

_READ_JINA = msgspec.json.Decoder(JinaBody)
_READ_COHERE = msgspec.json.Decoder(CohereBody)


def render(fault: Fault) -> Response:
    """Draw a fault as both do."""
    content = msgspec.json.encode(ErrorAnswer(message=fault.sentence, detail=fault.sentence))
    return Response(content, fault.status, fault.headers(), "application/json")


class Reranking:
    """The routes of this dialect."""

    def __init__(self, door: Door) -> None:
        """Take what the routes need."""
        self._door = door

    def routes(self) -> list[Route]:
        """Return plain Starlette routes."""
        return [
            Route("/rerank", answering("/rerank", self.jina, render), methods=["POST"]),
            Route("/v1/rerank", answering("/v1/rerank", self.jina, render), methods=["POST"]),
            Route("/v2/rerank", answering("/v2/rerank", self.cohere, render), methods=["POST"]),
        ]

    async def jina(self, request: Request) -> Response:
        """POST /v1/rerank, and /rerank where the body has `documents`."""
        body = await self._door.body(request, _READ_JINA)
        return await self._rerank(request, body, self._terms(request, body.model), "1")

    async def cohere(self, request: Request) -> Response:
        """POST /v2/rerank."""
        body = await self._door.body(request, _READ_COHERE)
        terms = self._terms(request, body.model)
        check_cut(body.max_tokens_per_doc, "max_tokens_per_doc", self._door.client.model_for(terms.model, "rerank"))
        return await self._rerank(request, body, terms, "2")

    def _terms(self, request: Request, model: str | None) -> Terms:
        return self._door.terms(request, "rerank", model, "end")

    async def _rerank(self, request: Request, body: JinaBody | CohereBody, terms: Terms, version: str) -> Response:
        if not body.query:
            raise HttpFault(400, "invalid_request", "must not be empty", "query")
        texts = [told if isinstance(told, str) else told.text for told in body.documents]
        pairs = Inputs([(body.query, text) for text in texts], "documents", first="query")
        made = await self._door.answer(request, self._door.client.rerank(Rerank(pairs, terms)))
        results = _results(made, texts if body.return_documents else None, body.top_n)
        content = {
            "id": exchange_of(request.scope).request_id,
            "model": made.model,
            "object": "list",
            "usage": usage(made.tokens),
            "results": results,
            "meta": {"api_version": {"version": version}, "billed_units": {"search_units": 1}},
        }
        return await self._door.write(request, content, made)


def _results(made: Answer[Relevance], texts: list[str] | None, most: int | None) -> list[dict[str, Any]]:
    scores = [item.score for item in made.items]
    results: list[dict[str, Any]] = [
        {"index": index, "relevance_score": scores[index]} for index in ranked(scores, most)
    ]
    if texts is not None:
        for result in results:
            result["document"] = {"text": texts[result["index"]]}
    return results
