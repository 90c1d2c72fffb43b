"""What the routes of TEI's dialect take and return."""

from typing import TYPE_CHECKING, Any, Literal

import msgspec

from gateway import __version__
from gateway.inputs import TokenId, Told
from gateway.usage import Usage
from inference import Limits, Token

if TYPE_CHECKING:
    from inference import ServedModel  # its home imports torch

Direction = Literal["right", "left", "Right", "Left"]


class Cut(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Which model is meant, and what happens to a text that is too long for it; cut unless told otherwise."""

    truncate: bool | None = None
    truncation_direction: Direction = "right"
    model: str | None = None


class EmbedBody(Cut, kw_only=True):
    """What POST /embed takes."""

    inputs: Told
    normalize: bool = True
    dimensions: int | None = None
    prompt_name: str | None = None


class TokensBody(Cut, kw_only=True):
    """What POST /embed_all and /embed_sparse take."""

    inputs: Told
    prompt_name: str | None = None


class PredictBody(Cut, kw_only=True):
    """What POST /predict takes. A list of two texts is one pair; a batch is a list of lists of one or two texts."""

    inputs: str | list[str | list[str]]
    raw_scores: bool = False


class RerankBody(Cut, kw_only=True):
    """What POST /rerank takes, in this dialect."""

    query: str
    texts: list[str]
    raw_scores: bool = False
    return_text: bool = False


class SimilarityInputs(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A text, and those that it is compared with."""

    source_sentence: str
    sentences: list[str]


class SimilarityParameters(Cut, kw_only=True):
    """How texts are read for a similarity."""

    prompt_name: str | None = None


class SimilarityBody(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What POST /similarity takes."""

    inputs: SimilarityInputs
    parameters: SimilarityParameters | None = None


class OpenAIBody(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What POST /embeddings takes: always cut at the end, always scaled to length 1."""

    input: Told
    model: str | None = None
    user: str | None = None
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = None


class TokenizeBody(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What POST /tokenize takes."""

    inputs: str | list[str]
    add_special_tokens: bool = True
    prompt_name: str | None = None
    model: str | None = None


class DecodeBody(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What POST /decode takes."""

    ids: list[TokenId | list[TokenId]]
    skip_special_tokens: bool = True
    model: str | None = None


class Label(msgspec.Struct, kw_only=True):
    """A label and its score."""

    score: float
    label: str


class Rank(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One text's place; `text` if it was asked for."""

    index: int
    score: float
    text: str | None = None


class Weight(msgspec.Struct, kw_only=True):
    """The weight of one term of the vocabulary."""

    index: int
    value: float


class Vector(msgspec.Struct, kw_only=True):
    """One vector: a list of numbers, or base64 of little-endian float32."""

    index: int
    embedding: list[float] | str
    object: Literal["embedding"] = "embedding"


class OpenAIAnswer(msgspec.Struct, kw_only=True):
    """What POST /embeddings returns."""

    data: list[Vector]
    model: str
    usage: Usage
    object: Literal["list"] = "list"


class Info(msgspec.Struct, kw_only=True):
    """What GET /info returns: the model that was loaded first. Limits that only TEI has are what comes closest."""

    model_id: str
    model_sha: str | None
    model_dtype: str
    served_model_name: str
    model_type: dict[str, dict[str, Any]]
    max_concurrent_requests: int  # tokens that may wait: an input has at least one
    max_input_length: int
    max_batch_tokens: int  # 0: the device's default
    max_batch_requests: int | None
    max_client_batch_size: int
    auto_truncate: bool
    tokenization_workers: int
    version: str
    sha: str | None
    docker_label: str | None


class OpenAIErrorAnswer(msgspec.Struct, kw_only=True):
    """The body of every answer of POST /embeddings that is not 200: flat, unlike OpenAI's own."""

    message: str
    code: int
    type: str


def describe_model(model: "ServedModel", limits: Limits) -> Info:
    """Describe a model as TEI would."""
    return Info(
        model_id=model.name,
        model_sha=model.revision,
        model_dtype=model.dtype,
        served_model_name=model.name,
        model_type=_kind(model),
        max_concurrent_requests=limits.max_waiting_tokens,
        max_input_length=model.max_length,
        max_batch_tokens=limits.max_batch_tokens,
        max_batch_requests=None,
        max_client_batch_size=limits.max_items,
        auto_truncate=True,
        tokenization_workers=1,
        version=__version__,
        sha=None,
        docker_label=None,
    )


def _kind(model: "ServedModel") -> dict[str, dict[str, Any]]:
    if model.task == "embed":
        return {"embedding": {"pooling": "last_token" if model.pooling == "last" else model.pooling}}
    if model.task == "sparse":
        return {"embedding": {"pooling": "splade"}}
    labels = model.labels
    named = {str(i): label for i, label in enumerate(labels)}, {label: i for i, label in enumerate(labels)}
    kind = "reranker" if model.task == "rerank" else "classifier"
    return {kind: {"id2label": named[0], "label2id": named[1]}}


def _operation(summary: str, body: Any, answer: Any) -> dict[str, dict[str, Any]]:
    return {"post": {"summary": summary, "body": body, "answer": answer}}


OPERATIONS: dict[str, dict[str, dict[str, Any]]] = {
    "/embed": _operation("Embed texts", EmbedBody, list[list[float]]),
    "/embed_all": _operation("Embed every token of texts", TokensBody, list[list[list[float]]]),
    "/embed_sparse": _operation("Weigh the terms of texts", TokensBody, list[list[Weight]]),
    "/predict": _operation("Classify texts or pairs", PredictBody, (list[Label], list[list[Label]])),
    "/rerank": _operation("Rank texts for a query", RerankBody, list[Rank]),
    "/similarity": _operation("Compare texts with one", SimilarityBody, list[float]),
    "/embeddings": {
        "post": {"summary": "Embed texts", "body": OpenAIBody, "answer": OpenAIAnswer, "error": OpenAIErrorAnswer}
    },
    "/tokenize": _operation("Show the tokens of texts", TokenizeBody, list[list[Token]]),
    "/decode": _operation("Write token ids as text", DecodeBody, list[str]),
    "/info": {"get": {"summary": "Describe the model", "answer": Info, "statuses": (500, 503)}},
    "/health": {"get": {"summary": "Say whether calls are served", "statuses": (503,)}},
}
