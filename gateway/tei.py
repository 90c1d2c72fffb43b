"""
The dialect of text-embeddings-inference: its routes, headers, statuses and flat error body, and its traps.

Texts that are too long are cut unless the body says `"truncate": false`. Unlike there, unknown fields are refused, and
`model` may say which model is meant.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.call import Door, answering
from gateway.errors import Fault, HttpFault
from gateway.inputs import read_inputs
from gateway.labels import scored_labels
from gateway.lifecycle import Lifecycle
from gateway.renamed import below, renamed
from gateway.tei_forms import (
    OPERATIONS,
    Cut,
    DecodeBody,
    EmbedBody,
    OpenAIBody,
    OpenAIErrorAnswer,
    PredictBody,
    Rank,
    RerankBody,
    SimilarityBody,
    SimilarityParameters,
    TokenizeBody,
    TokensBody,
    describe_model,
)
from gateway.usage import usage
from gateway.vectors import encoded, unit
from inference import (
    Ability,
    Answer,
    Classify,
    Embed,
    Inputs,
    InvalidRequest,
    Rerank,
    Similarity,
    Sparse,
    Terms,
    Text,
    Truncation,
    UnknownModel,
    ranked,
)

if TYPE_CHECKING:
    from inference import ServedModel  # its home imports torch

SCHEMAS = OPERATIONS
STATUSES = (400, 404, 413, 415, 422, 424, 429, 500, 503, 504)
PREFIXES = ("/embed",)

_NESTED: Final = below("inputs", "source_sentence") | below("parameters", "prompt_name")
_LEFT: Final = ("left", "Left")
_CPU: Final = (b"x-compute-type", b"cpu+optimized")
_GPU: Final = (b"x-compute-type", b"gpu+optimized")
_MOST_SHOWN: Final = 65_536  # characters, or token ids: each becomes an object of its own
_KINDS: Final = {
    "empty": (400, "Empty"),
    "invalid_request": (422, "Validation"),
    "wrong_task": (424, "Backend"),
    "model_failed": (424, "Backend"),
    "internal_error": (500, "Backend"),
    "overloaded": (429, "Overloaded"),
    "rate_limited": (429, "Overloaded"),
    "deadline_exceeded": (504, "Overloaded"),
    "unavailable": (503, "Unhealthy"),
}
_EMBED = msgspec.json.Decoder(EmbedBody)
_TOKENS = msgspec.json.Decoder(TokensBody)
_PREDICT = msgspec.json.Decoder(PredictBody)
_RERANK = msgspec.json.Decoder(RerankBody)
_SIMILARITY = msgspec.json.Decoder(SimilarityBody)
_OPENAI = msgspec.json.Decoder(OpenAIBody)
_TOKENIZE = msgspec.json.Decoder(TokenizeBody)
_DECODE = msgspec.json.Decoder(DecodeBody)


class ErrorAnswer(msgspec.Struct, kw_only=True):
    """The body of every answer that is not 200."""

    error: str
    error_type: Literal["Unhealthy", "Backend", "Overloaded", "Tokenizer", "Validation", "Empty"]


def render(fault: Fault) -> Response:
    """Draw a fault as TEI does."""
    status, kind = _KINDS.get(fault.code, (fault.status, "Validation"))
    content = msgspec.json.encode({"error": _sentence(fault), "error_type": kind})
    return Response(content, status, fault.headers(), "application/json")


def render_openai(fault: Fault) -> Response:
    """Draw a fault as TEI does on OpenAI's route."""
    status, kind = _KINDS.get(fault.code, (fault.status, "Validation"))
    content = msgspec.json.encode(OpenAIErrorAnswer(message=_sentence(fault), code=status, type=kind))
    return Response(content, status, fault.headers(), "application/json")


class TEI:
    """The routes of this dialect."""

    def __init__(self, door: Door, lifecycle: Lifecycle) -> None:
        """Take what the routes need."""
        self._door = door
        self._lifecycle = lifecycle

    def routes(self) -> list[Route]:
        """Return plain Starlette routes."""
        posts = {
            "/embed": self.embed,
            "/embed_all": self.embed_all,
            "/embed_sparse": self.embed_sparse,
            "/predict": self.predict,
            "/rerank": self.rerank,
            "/similarity": self.similarity,
            "/tokenize": self.tokenize,
            "/decode": self.decode,
        }
        return [
            *(Route(path, answering(path, post, render), methods=["POST"]) for path, post in posts.items()),
            Route("/embeddings", answering("/embeddings", self.embeddings, render_openai), methods=["POST"]),
            Route("/info", answering("/info", self.info, render), methods=["GET"]),
            Route("/health", answering("probe", self.health, render), methods=["GET"]),
        ]

    async def embed(self, request: Request) -> Response:
        """POST /embed."""
        body = await self._door.body(request, _EMBED)
        inputs = read_inputs(_some(body.inputs, "inputs"), "inputs")
        terms = self._terms(request, "embed", body)
        raw = not body.normalize
        ask = Embed(inputs, terms, body.dimensions, body.prompt_name, output="raw vector" if raw else "vector")
        scaled = raw or self._door.client.model_for(terms.model, "embed").normalised
        made = await self._door.answer(request, self._door.client.embed(ask))
        return await self._answer(request, made.items if scaled else [unit(row) for row in made.items], inputs, made)

    async def embed_all(self, request: Request) -> Response:
        """POST /embed_all."""
        body = await self._door.body(request, _TOKENS)
        inputs = read_inputs(_some(body.inputs, "inputs"), "inputs")
        ask = Embed(inputs, self._terms(request, "embed", body), None, body.prompt_name, output="token vectors")
        made = await self._door.answer(request, self._door.client.embed(ask))
        return await self._answer(request, made.items, inputs, made)

    async def embed_sparse(self, request: Request) -> Response:
        """POST /embed_sparse."""
        body = await self._door.body(request, _TOKENS)
        if body.prompt_name is not None:
            raise HttpFault(422, "invalid_request", "models of term weights have no prompts", "prompt_name")
        inputs = read_inputs(_some(body.inputs, "inputs"), "inputs")
        terms = self._terms(request, "sparse", body)
        made = await self._door.answer(request, self._door.client.sparse(Sparse(inputs, terms)))
        rows = [
            [{"index": index, "value": value} for index, value in zip(row.indices, row.weights, strict=True)]
            for row in made.items
        ]
        return await self._answer(request, rows, inputs, made)

    async def predict(self, request: Request) -> Response:
        """POST /predict."""
        body = await self._door.body(request, _PREDICT)
        inputs = _sequences(_some(body.inputs, "inputs"))
        terms = self._terms(request, "classify", body)
        made = await self._door.answer(request, self._door.client.classify(Classify(inputs, terms)))
        rows = [scored_labels(item, raw=body.raw_scores) for item in made.items]
        return await self._answer(request, rows[0] if inputs.single else rows, inputs, made)

    async def rerank(self, request: Request) -> Response:
        """POST /rerank, where the body has `texts`."""
        body = await self._door.body(request, _RERANK)
        texts = _some(body.texts, "texts")
        if not body.query:
            raise HttpFault(422, "invalid_request", "must not be empty", "query")
        pairs = Inputs([(body.query, text) for text in texts], "texts", first="query")
        terms = self._terms(request, "rerank", body)
        made = await self._door.answer(request, self._door.client.rerank(Rerank(pairs, terms)))
        scores = [item.logit if body.raw_scores else item.score for item in made.items]
        ranks = [Rank(index=i, score=scores[i], text=texts[i] if body.return_text else None) for i in ranked(scores)]
        return await self._answer(request, msgspec.to_builtins(ranks), pairs, made)

    async def similarity(self, request: Request) -> Response:
        """POST /similarity."""
        body = await self._door.body(request, _SIMILARITY)
        parameters = body.parameters or SimilarityParameters()
        sentences = Inputs(_some(body.inputs.sentences, "inputs.sentences"), "inputs.sentences")
        terms = self._terms(request, "similarity", parameters)
        ask = Similarity(body.inputs.source_sentence, sentences, terms, parameters.prompt_name)
        with renamed(_NESTED):
            made = await self._door.answer(request, self._door.client.similarity(ask))
        return await self._answer(request, made.items, Inputs([ask.source, *sentences.items]), made)

    async def embeddings(self, request: Request) -> Response:
        """POST /embeddings."""
        body = await self._door.body(request, _OPENAI)
        inputs = read_inputs(_some(body.input, "input"), "input")
        terms = self._terms(request, "embed", Cut(model=body.model))
        made = await self._door.answer(request, self._door.client.embed(Embed(inputs, terms, body.dimensions)))
        data = [
            {"object": "embedding", "index": index, "embedding": encoded(unit(row), body.encoding_format)}
            for index, row in enumerate(made.items)
        ]
        content = {"object": "list", "data": data, "model": made.model, "usage": usage(made.tokens)}
        return await self._answer(request, content, inputs, made)

    async def tokenize(self, request: Request) -> Response:
        """POST /tokenize."""
        body = await self._door.body(request, _TOKENIZE)
        texts = [body.inputs] if isinstance(body.inputs, str) else self._few(_some(body.inputs, "inputs"), "inputs")
        model, special = self._door.model_for(request, body.model, None), body.add_special_tokens
        prompted = [_prompt(model, body.prompt_name) + text for text in texts]
        _refuse_many(sum(map(len, prompted)), "characters", "inputs")
        tokens = await self._aside(request, model, partial(self._door.client.tokenize, special=special), prompted)
        return Response(msgspec.json.encode(tokens), media_type="application/json")

    async def decode(self, request: Request) -> Response:
        """POST /decode."""
        body = await self._door.body(request, _DECODE)
        ids = read_inputs(_some(body.ids, "ids"), "ids")
        model = self._door.model_for(request, body.model, None)
        lists = [each for each in self._few(ids.items, "ids") if not isinstance(each, str)]
        _refuse_many(sum(map(len, lists)), "token ids", "ids")
        _check_known(lists, ids, model)
        decode = partial(self._door.client.decode, skip_special=body.skip_special_tokens)
        texts = await self._aside(request, model, decode, lists)
        return Response(msgspec.json.encode(texts), media_type="application/json")

    async def info(self, request: Request) -> Response:
        """GET /info."""
        model = self._door.model_for(request, next(iter(self._door.models(request)), None), None)
        return Response(msgspec.json.encode(describe_model(model, self._door.limits)), media_type="application/json")

    async def health(self, request: Request) -> Response:
        """GET /health: as /readyz."""
        if self._lifecycle.state == "ready" and self._lifecycle.healthy:
            return Response()
        return render(Fault(503, "unavailable", self._lifecycle.state, retry_after_s=1.0))

    async def _aside(
        self, request: Request, model: "ServedModel", work: Callable[[str, Any], list[Any]], told: Sequence[Any]
    ) -> list[Any]:
        """Have the model's tokenizer work in a thread, if the caller may use it: nobody knows how much it is."""
        self._door.terms(request, model.task, model.name, "none")
        return await self._door.aside(request, sum(map(len, told)), lambda: work(model.name, told))

    def _terms(self, request: Request, ability: Ability, cut: Cut) -> Terms:
        """Say on which terms a call runs; a task that the model does not have is a fault of the server's, here."""
        side: Truncation = "start" if cut.truncation_direction in _LEFT else "end"
        try:
            return self._door.terms(request, ability, cut.model, "none" if cut.truncate is False else side)
        except UnknownModel:
            raise
        except InvalidRequest as err:
            if cut.model is None and any(ability in model.abilities for model in self._door.client.models.values()):
                raise
            raise HttpFault(424, "wrong_task", err.message, err.field) from None

    def _few(self, items: Sequence[Any], field: str) -> Sequence[Any]:
        most = self._door.limits.max_items
        if len(items) > most:
            message = f"has {len(items)} items, at most {most} are taken in one call"
            raise HttpFault(422, "invalid_request", message, field)
        return items

    async def _answer(self, request: Request, content: Any, inputs: Inputs, made: Answer[Any]) -> Response:
        return await self._door.write(request, content, made, self._headers(inputs, made))

    def _headers(self, inputs: Inputs, made: Answer[Any]) -> list[tuple[bytes, bytes]]:
        """Say what the answer cost, in whole milliseconds, which add up."""
        model = self._door.client.models.get(made.model)
        kind = [] if model is None else [_GPU if model.device.startswith("cuda") else _CPU]  # None: it has gone since
        times = made.timings
        spent = [round(1000 * part) for part in (times.tokenise_s, times.queue_s, times.device_s)]
        total, tokenising, queue, device = (b"%d" % part for part in (sum(spent), *spent))
        return [
            *kind,
            (b"x-compute-time", total),
            (b"x-compute-characters", b"%d" % inputs.size),
            (b"x-compute-tokens", b"%d" % made.tokens),
            (b"x-total-time", total),
            (b"x-tokenization-time", tokenising),
            (b"x-queue-time", queue),
            (b"x-inference-time", device),
        ]


def _refuse_many(count: int, of: str, field: str) -> None:
    if count > _MOST_SHOWN:
        raise InvalidRequest(f"has {count} {of} in all, at most {_MOST_SHOWN} are taken in one call", field)


def _some(told: Any, field: str) -> Any:
    """Refuse an empty list, which has a status of its own here."""
    if isinstance(told, list) and not told:
        raise HttpFault(400, "empty", "must not be empty", field)
    return told


def _sequences(told: str | list[Any]) -> Inputs:
    """Read texts and pairs; two texts in a list are a pair."""
    if isinstance(told, str):
        return Inputs([told], "inputs", single=True)
    if isinstance(told[0], str):
        return Inputs([_sequence(told, "inputs")], "inputs", single=True)
    return Inputs([_sequence(item, f"inputs[{index}]") for index, item in enumerate(told)], "inputs")


def _sequence(told: Any, field: str) -> Text:
    if isinstance(told, list) and all(isinstance(text, str) for text in told):
        if len(told) == 1:
            return str(told[0])
        if len(told) == 2:  # noqa: PLR2004
            return str(told[0]), str(told[1])
    message = "must be a text or a pair of texts; a batch is a list of lists of one or two texts"
    raise HttpFault(422, "invalid_request", message, field)


def _check_known(lists: Sequence[Sequence[int]], ids: Inputs, model: "ServedModel") -> None:
    for index, each in enumerate(lists):
        if each and max(each) >= model.vocab_size:
            message = f"token ids must be between 0 and {model.vocab_size - 1} for {model.name}"
            raise InvalidRequest(message, ids.name(index))


def _prompt(model: "ServedModel", name: str | None) -> str:
    if name is not None and name not in model.prompts:
        known = ", ".join(model.prompts) or "none"
        message = f"{model.name} has no prompt of that name; it has: {known}"
        raise HttpFault(422, "invalid_request", message, "prompt_name")
    return "" if name is None else model.prompts[name]


def _sentence(fault: Fault) -> str:
    return f"`{fault.field}` {fault.message}" if fault.field else fault.message
