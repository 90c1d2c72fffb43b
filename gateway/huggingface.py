"""
Hugging Face's inference API, as its InferenceClient speaks it: one path a model, and the body of the model's task.

`/` is the only model there is, `/models/{name}` any of them, `/models/{name}/pipeline/{task}` names the task as well.
Texts that are too long are cut, unless `"truncate": false` says otherwise where the API knows it.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.call import Door, answering, parse
from gateway.errors import Fault, HttpFault
from gateway.huggingface_forms import (
    OPERATIONS,
    FeatureExtractionBody,
    FillMaskBody,
    FillMaskParameters,
    Pair,
    Pipeline,
    SentenceSimilarityBody,
    TextClassificationBody,
    TextClassificationParameters,
    TokenClassificationBody,
    TokenClassificationParameters,
    ZeroShotBody,
)
from gateway.renamed import below, renamed
from gateway.vectors import encoded, unit
from inference import (
    Ability,
    Classify,
    Embed,
    Fill,
    FillMask,
    Inputs,
    Scores,
    Similarity,
    Span,
    Tag,
    Task,
    Terms,
    Text,
    Truncation,
    ZeroShot,
    ranked,
    sigmoid,
    softmax,
)

if TYPE_CHECKING:
    from inference import ServedModel  # its home imports torch

SCHEMAS = OPERATIONS
STATUSES = (400, 404, 413, 415, 429, 500, 503, 504)
PREFIXES = ("/models/",)

_PIPELINES: Final[dict[Task, Pipeline]] = {
    "embed": "feature-extraction",
    "rerank": "text-classification",
    "classify": "text-classification",
    "token-classify": "token-classification",
    "fill-mask": "fill-mask",
}
_TEMPLATE: Final = "This example is {}."
_TOP_K: Final = 5
_INPUTS: Final = below("inputs", "source_sentence")
_PARAMETERS: Final = below("parameters", "candidate_labels", "hypothesis_template", "targets", "top_k")
_FEATURES = msgspec.json.Decoder(FeatureExtractionBody)
_SIMILARITY = msgspec.json.Decoder(SentenceSimilarityBody)
_CLASSIFICATION = msgspec.json.Decoder(TextClassificationBody)
_TOKENS = msgspec.json.Decoder(TokenClassificationBody)
_ZERO_SHOT = msgspec.json.Decoder(ZeroShotBody)
_MASK = msgspec.json.Decoder(FillMaskBody)


class ErrorAnswer(msgspec.Struct, kw_only=True):
    """The body of every answer that is not 200."""

    error: str


class _Peek(msgspec.Struct):
    """What tells two bodies for one model apart."""

    inputs: msgspec.Raw = msgspec.Raw(b"")
    parameters: dict[str, msgspec.Raw] | None = None


_PEEK = msgspec.json.Decoder(_Peek)


def render(fault: Fault) -> Response:
    """Draw a fault as this API does."""
    content = msgspec.json.encode(ErrorAnswer(error=fault.sentence))
    return Response(content, fault.status, fault.headers(), "application/json")


class HuggingFace:
    """The routes of this dialect."""

    def __init__(self, door: Door) -> None:
        """Take what the routes need."""
        self._door = door
        self._answers: dict[Pipeline, Callable[[Request, bytes, ServedModel], Awaitable[Response]]] = {
            "feature-extraction": self._features,
            "sentence-similarity": self._similarity,
            "text-classification": self._classification,
            "token-classification": self._tokens,
            "zero-shot-classification": self._zero_shot,
            "fill-mask": self._mask,
        }

    def routes(self) -> list[Route]:
        """Return plain Starlette routes."""
        return [
            Route(path, answering(path, self.infer, render), methods=["POST"])
            for path in ("/", "/models/{name}", "/models/{name}/pipeline/{task}")
        ]

    async def infer(self, request: Request) -> Response:
        """POST: find the model and the task, and answer."""
        body = await self._door.content(request)
        model = self._door.model_for(request, request.path_params.get("name"), None)
        task = request.path_params.get("task") or _pipeline(model, body)
        if task not in self._answers:
            raise HttpFault(404, "not_found", f"there is: {', '.join(self._answers)}", "task")
        return await self._answers[task](request, body, model)

    async def _features(self, request: Request, content: bytes, model: "ServedModel") -> Response:
        body = parse(_FEATURES, content)
        inputs = _texts(body.inputs)
        side: Truncation = "start" if body.truncation_direction == "left" else "end"
        terms = self._door.terms(request, "embed", model.name, "none" if body.truncate is False else side)
        raw = body.normalize is False
        ask = Embed(inputs, terms, body.dimensions, body.prompt_name, output="raw vector" if raw else "vector")
        made = await self._door.answer(request, self._door.client.embed(ask))
        scale = body.normalize is True and not model.normalised
        rows = [encoded(unit(row) if scale else row, body.encoding_format or "float") for row in made.items]
        flat = inputs.single and "name" in request.path_params  # at the root, as TEI: a list whatever was sent
        return await self._door.write(request, rows[0] if flat else rows, made)

    async def _similarity(self, request: Request, content: bytes, model: "ServedModel") -> Response:
        body = parse(_SIMILARITY, content)
        sentences = Inputs(body.inputs.sentences, "inputs.sentences")
        ask = Similarity(body.inputs.source_sentence, sentences, self._terms(request, "similarity", model))
        with renamed(_INPUTS):
            made = await self._door.answer(request, self._door.client.similarity(ask))
        return await self._door.write(request, made.items, made)

    async def _classification(self, request: Request, content: bytes, model: "ServedModel") -> Response:
        body = parse(_CLASSIFICATION, content)
        inputs = _classified(body.inputs)
        ask = Classify(inputs, self._terms(request, "classify", model))
        parameters = body.parameters or TextClassificationParameters()
        made = await self._door.answer(request, self._door.client.classify(ask))
        return await self._door.write(request, [_labels(item, parameters) for item in made.items], made)

    async def _tokens(self, request: Request, content: bytes, model: "ServedModel") -> Response:
        body = parse(_TOKENS, content)
        inputs = _texts(body.inputs)
        parameters = body.parameters or TokenClassificationParameters()
        if parameters.stride is not None:
            raise HttpFault(400, "invalid_request", "texts are not split here", "parameters.stride")
        strategy = parameters.aggregation_strategy or "simple"
        ignored = ("O",) if parameters.ignore_labels is None else parameters.ignore_labels
        ask = Tag(inputs, self._terms(request, "token-classify", model), strategy, ignored)
        made = await self._door.answer(request, self._door.client.tag(ask))
        rows = [[_entity(span) for span in spans] for spans in made.items]
        return await self._door.write(request, rows[0] if inputs.single else rows, made)

    async def _zero_shot(self, request: Request, content: bytes, model: "ServedModel") -> Response:
        body = parse(_ZERO_SHOT, content)
        inputs, parameters = _texts(body.inputs), body.parameters
        told = parameters.candidate_labels
        labels = [label.strip() for label in told.split(",")] if isinstance(told, str) else told
        ask = ZeroShot(
            inputs,
            labels,
            self._terms(request, "zero-shot", model),
            parameters.hypothesis_template or _TEMPLATE,
            bool(parameters.multi_label),
        )
        with renamed(_PARAMETERS):
            made = await self._door.answer(request, self._door.client.zero_shot(ask))
        rows = [[{"label": labels[index], "score": row[index]} for index in ranked(row)] for row in made.items]
        return await self._door.write(request, rows[0] if inputs.single else rows, made)

    async def _mask(self, request: Request, content: bytes, model: "ServedModel") -> Response:
        body = parse(_MASK, content)
        inputs = _texts(body.inputs)
        parameters = body.parameters or FillMaskParameters()
        top_k = _TOP_K if parameters.top_k is None else parameters.top_k
        ask = FillMask(inputs, self._terms(request, "fill-mask", model), top_k, parameters.targets or ())
        with renamed(_PARAMETERS):
            made = await self._door.answer(request, self._door.client.fill_mask(ask))
        rows = [_fills(masks) for masks in made.items]
        return await self._door.write(request, rows[0] if inputs.single else rows, made)

    def _terms(self, request: Request, ability: Ability, model: "ServedModel") -> Terms:
        return self._door.terms(request, ability, model.name, "end")


def _pipeline(model: "ServedModel", body: bytes) -> Pipeline:
    """Return the task that a body is for: the model's own, unless the body has the form of its other one."""
    peek = parse(_PEEK, body)
    if "zero-shot" in model.abilities and "candidate_labels" in (peek.parameters or {}):
        return "zero-shot-classification"
    if model.task == "embed" and bytes(peek.inputs).lstrip().startswith(b"{"):
        return "sentence-similarity"
    if model.task not in _PIPELINES:
        raise HttpFault(400, "invalid_request", f"{model.name} can {', '.join(model.abilities)}: not over this API")
    return _PIPELINES[model.task]


def _texts(told: str | list[str]) -> Inputs:
    return Inputs([told], "inputs", single=True) if isinstance(told, str) else Inputs(told, "inputs")


def _classified(told: str | Pair | list[str | Pair]) -> Inputs:
    if isinstance(told, list):
        return Inputs([_text(item) for item in told], "inputs")
    return Inputs([_text(told)], "inputs", single=True)


def _text(told: str | Pair) -> Text:
    return told if isinstance(told, str) else (told.text, told.text_pair)


def _labels(item: Scores, parameters: TextClassificationParameters) -> list[dict[str, Any]]:
    match parameters.function_to_apply:
        case "none":
            scores = item.logits
        case "sigmoid":
            scores = sigmoid(item.logits)
        case "softmax":
            scores = softmax(item.logits)
        case None:
            scores = item.scores
    return [{"label": item.labels[index], "score": scores[index]} for index in ranked(scores, parameters.top_k)]


def _entity(span: Span) -> dict[str, Any]:
    place = {"score": span.score, "word": span.word, "start": span.start, "end": span.end}
    if span.index is None:
        return {"entity_group": span.label, **place}
    return {"entity": span.label, "index": span.index, **place}


def _fills(masks: Sequence[Sequence[Fill]]) -> list[Any]:
    """One list of proposals for a text with one mask, else one a mask."""
    rows = [
        [
            {"score": fill.score, "token": fill.token, "token_str": fill.text, "sequence": fill.sequence}
            for fill in fills
        ]
        for fills in masks
    ]
    return rows[0] if len(rows) == 1 else rows
