"""What Hugging Face's inference API takes and returns, task by task."""

from typing import Annotated, Any, Literal

import msgspec

from inference import Aggregation

Pipeline = Literal[
    "feature-extraction",
    "sentence-similarity",
    "text-classification",
    "token-classification",
    "zero-shot-classification",
    "fill-mask",
]
Positive = Annotated[int, msgspec.Meta(ge=1)]


class Options(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What older clients send; models are loaded before they are served, so nothing has to wait for them."""

    use_cache: bool | None = None
    wait_for_model: bool | None = None
    use_gpu: bool | None = None


class Nothing(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Parameters of a task that has none."""


class FeatureExtractionBody(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A text or texts to embed. `normalize`: true scales to length 1, false never does, null as the checkpoint says."""

    inputs: str | list[str]
    normalize: bool | None = None
    prompt_name: str | None = None
    truncate: bool | None = None
    truncation_direction: Literal["left", "right"] | None = None
    dimensions: int | None = None
    encoding_format: Literal["float", "base64"] | None = None
    parameters: Nothing | None = None
    options: Options | None = None


class SentenceSimilarityInputs(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A text, and those that it is compared with."""

    source_sentence: str
    sentences: list[str]


class SentenceSimilarityBody(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Texts to compare with one."""

    inputs: SentenceSimilarityInputs
    parameters: Nothing | None = None
    options: Options | None = None


class Pair(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Two texts that are read together."""

    text: str
    text_pair: str


class TextClassificationParameters(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """How many labels, and what their scores are made of; null: as the model's problem type says."""

    function_to_apply: Literal["sigmoid", "softmax", "none"] | None = None
    top_k: Positive | None = None


class TextClassificationBody(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A text, a pair, or several of them to classify."""

    inputs: str | Pair | list[str | Pair]
    parameters: TextClassificationParameters | None = None
    options: Options | None = None


class TokenClassificationParameters(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """How tokens become entities. `stride` is refused: a text is not split."""

    aggregation_strategy: Aggregation | None = None
    ignore_labels: list[str] | None = None
    stride: int | None = None


class TokenClassificationBody(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A text or texts whose entities are asked for."""

    inputs: str | list[str]
    parameters: TokenClassificationParameters | None = None
    options: Options | None = None


class ZeroShotParameters(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """The labels, as a list or parted by commas."""

    candidate_labels: list[str] | str
    hypothesis_template: str | None = None
    multi_label: bool | None = None


class ZeroShotBody(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A text or texts for labels of one's own."""

    inputs: str | list[str]
    parameters: ZeroShotParameters
    options: Options | None = None


class FillMaskParameters(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """How many words, and which alone."""

    targets: list[str] | None = None
    top_k: int | None = None


class FillMaskBody(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A text or texts with masks."""

    inputs: str | list[str]
    parameters: FillMaskParameters | None = None
    options: Options | None = None


class LabelScore(msgspec.Struct, kw_only=True):
    """A label and its score; the best come first."""

    label: str
    score: float


class Entity(msgspec.Struct, kw_only=True, omit_defaults=True):
    """A piece of the text: `entity_group`, or `entity` and `index` of one token where nothing is aggregated."""

    score: float
    word: str
    start: int
    end: int
    entity_group: str | None = None
    entity: str | None = None
    index: int | None = None


class Proposal(msgspec.Struct, kw_only=True):
    """A word for a mask."""

    score: float
    token: int
    token_str: str
    sequence: str


_EVERY_BODY = (
    FeatureExtractionBody,
    SentenceSimilarityBody,
    TextClassificationBody,
    TokenClassificationBody,
    ZeroShotBody,
    FillMaskBody,
)
_EVERY_ANSWER = (
    list[list[float]],
    list[float],
    list[str],
    str,
    list[list[LabelScore]],
    list[LabelScore],
    list[list[Entity]],
    list[Entity],
    list[list[Proposal]],
    list[Proposal],
    list[list[list[Proposal]]],
)


OPERATIONS: dict[str, dict[str, dict[str, Any]]] = {
    path: {"post": {"summary": summary, "body": _EVERY_BODY, "answer": _EVERY_ANSWER}}
    for path, summary in {
        "/": "Ask the only model that is served",
        "/models/{name}": "Ask a model",
        "/models/{name}/pipeline/{task}": "Ask a model for one of its tasks",
    }.items()
}
