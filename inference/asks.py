"""What may be asked of a client, and what it answers: in no dialect, no tensor."""

from collections.abc import Iterator, Sequence, Sized
from dataclasses import dataclass, replace
from typing import Final, Generic, Literal, TypeVar

import numpy as np
import numpy.typing as npt

from inference.request import Report, Row
from inference.spans import Aggregation
from inference.tokenizer import Text, Truncation

Item = TypeVar("Item")
InputType = Literal["query", "document"]

_PART_ITEMS: Final = 32
_PART_CHARACTERS: Final = 16_384


@dataclass(frozen=True, slots=True)
class Terms:
    """Who asks, of which model, and how long the answer may take. `model` None: the only one that can do it."""

    timeout_s: float
    model: str | None = None
    truncation: Truncation = "none"
    caller: str = ""
    priority: int = 0


@dataclass(frozen=True, slots=True)
class Inputs:
    """Texts, pairs of texts or lists of token ids, and how their caller names them."""

    items: Sequence[Text] | Sequence[Sequence[int]]
    field: str = "input"
    single: bool = False
    each: int = 1  # items that were made of one of the caller's
    lead: str = ""  # what the caller calls the first item, if it stands outside the list
    first: str = ""  # what the caller calls the first texts of pairs, if they stand in a field of their own
    names: Sequence[str] = ()  # of the items, where a place in one list does not say which is meant
    start: int = 0  # of a part: the first item's index in the whole

    def name(self, index: int) -> str:
        """Return what the caller calls the item at this index."""
        index += self.start
        if self.names:
            return self.names[index]
        if self.lead and index == 0:
            return self.lead
        place = (index - bool(self.lead)) // self.each
        return self.field if self.single else f"{self.field}[{place}]"

    def longer(self, index: int) -> str:
        """Return what the caller calls the item at this index, of a pair its longer text."""
        item = self.items[index]
        if self.first and isinstance(item, tuple) and len(item[0]) > len(item[1]):
            return self.first
        return self.name(index)

    @property
    def size(self) -> int:
        """Characters of the texts, or token ids."""
        return sum(map(size_of, self.items))

    def parts(self) -> "Iterator[Inputs]":
        """Cut a long list where a part has enough items or characters; a long text is a part of its own."""
        start = characters = 0
        for end, item in enumerate(self.items):
            characters += size_of(item)
            if end > start and (end - start == _PART_ITEMS or characters > _PART_CHARACTERS):
                yield replace(self, items=self.items[start:end], start=start)
                start, characters = end, size_of(item)
        yield replace(self, items=self.items[start:], start=start) if start else self


def size_of(item: Sized) -> int:
    """Return the characters of a text or of both of a pair, or the token ids of a list."""
    return sum(map(len, item)) if isinstance(item, tuple) else len(item)


@dataclass(frozen=True, slots=True)
class Embed:
    """Embeddings of inputs. The prompt is named by the caller, found by the kind of input, or the model's default."""

    inputs: Inputs
    terms: Terms
    dimensions: int | None = None
    prompt_name: str | None = None
    input_type: InputType | None = None
    output: Literal["vector", "raw vector", "token vectors"] = "vector"


@dataclass(frozen=True, slots=True)
class Similarity:
    """How similar each text is to one source: the cosine of their embeddings."""

    source: str
    sentences: Inputs
    terms: Terms
    prompt_name: str | None = None


@dataclass(frozen=True, slots=True)
class Rerank:
    """How relevant the second text of each pair is to the first."""

    pairs: Inputs
    terms: Terms


@dataclass(frozen=True, slots=True)
class Classify:
    """The labels of texts or of pairs."""

    inputs: Inputs
    terms: Terms


@dataclass(frozen=True, slots=True)
class Tag:
    """The labelled spans of texts."""

    inputs: Inputs
    terms: Terms
    aggregation: Aggregation = "simple"
    ignored: Sequence[str] = ("O",)


@dataclass(frozen=True, slots=True)
class ZeroShot:
    """Which of the caller's own labels fit each text; `multi_label`: each label by itself."""

    inputs: Inputs
    labels: Sequence[str]
    terms: Terms
    template: str = "This example is {}."
    multi_label: bool = False


@dataclass(frozen=True, slots=True)
class FillMask:
    """What may stand at each mask of texts; of `targets` only, if any are given."""

    inputs: Inputs
    terms: Terms
    top_k: int = 5
    targets: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Sparse:
    """Term weights of texts."""

    inputs: Inputs
    terms: Terms


@dataclass(frozen=True, slots=True)
class CallTimings:
    """Where the time of a call went, in seconds: queue and device of its slowest input, and the batch it ran in."""

    tokenise_s: float
    queue_s: float
    device_s: float
    batch: Report | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Answer(Generic[Item]):
    """What was asked for, in the order of the inputs, and the real tokens that it cost."""

    model: str
    items: Sequence[Item]
    tokens: int
    timings: CallTimings


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """What a classifier says of one input: raw logits and, as its problem type reads them, scores; [labels] each."""

    labels: Sequence[str]
    logits: Row
    scores: Row


@dataclass(frozen=True, slots=True)
class Relevance:
    """What a reranker says of one pair: its logit, and the logit's sigmoid."""

    logit: float
    score: float


@dataclass(frozen=True, slots=True, eq=False)
class SparseVector:
    """The terms of a text with a weight above 0: token ids [terms] int32 and weights [terms] float32."""

    indices: npt.NDArray[np.int32]
    weights: Row


@dataclass(frozen=True, slots=True)
class Fill:
    """One proposal for a mask."""

    token: int
    text: str
    score: float
    sequence: str
