"""
What the engine answers, as the tensors of a signature. Knows no HTTP.

Where inputs have different numbers of findings, every finding is a row, and `row` says which input it belongs to.
"""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from gateway.signatures import Slot
from gateway.tensors import Numbers, Tensor
from inference import Fill, Relevance, Scores, Span, SparseVector, ranked

if TYPE_CHECKING:
    from inference import ServedModel  # its home imports torch

Columns = dict[str, Any]
"""The values of outputs by name: texts, or numbers in their shape."""


def columns(model: "ServedModel", items: Sequence[Any]) -> Columns:
    """Return the outputs of a model for these items of its answer."""
    match model.task:
        case "embed":
            return {"embedding": np.stack(items)}
        case "rerank":
            return _relevance(items)
        case "classify":
            return _scores(items)
        case "token-classify":
            return _spans(items)
        case "fill-mask":
            return _fills(items)
        case "sparse":
            return _terms(items)


def tensor(slot: Slot, values: Any) -> Tensor:
    """Return one output."""
    if slot.datatype == "BYTES":
        return Tensor(slot.name, slot.datatype, (len(values),), values)
    array: Numbers = np.asarray(values, np.float32 if slot.datatype == "FP32" else np.int32)
    return Tensor(slot.name, slot.datatype, array.shape, array.reshape(-1))


def classified(slot: Slot, values: Any, most: int, labels: Sequence[str]) -> Tensor:
    """Return the best of each row [n, labels] as Triton writes classes: `score:index:label`, [n, classes] BYTES."""
    names = [f":{label}" for label in labels] if len(labels) == values.shape[1] else [""] * values.shape[1]
    texts = [f"{row[index]:f}:{index}{names[index]}" for row in values for index in ranked(row, most)]
    return Tensor(slot.name, "BYTES", (len(values), min(most, values.shape[1])), texts)


def _relevance(items: Sequence[Relevance]) -> Columns:
    return {"score": [item.score for item in items], "logit": [item.logit for item in items]}


def _scores(items: Sequence[Scores]) -> Columns:
    best = [item.labels[int(item.logits.argmax())] for item in items]
    scores, logits = np.stack([item.scores for item in items]), np.stack([item.logits for item in items])
    return {"score": scores, "logit": logits, "label": best}


def _spans(items: Sequence[Sequence[Span]]) -> Columns:
    spans = [span for found in items for span in found]
    return {
        "row": _rows(map(len, items)),
        "label": [span.label for span in spans],
        "word": [span.word for span in spans],
        "score": [span.score for span in spans],
        "start": [span.start for span in spans],
        "end": [span.end for span in spans],
    }


def _fills(items: Sequence[Sequence[Sequence[Fill]]]) -> Columns:
    fills = [(mask, fill) for masks in items for mask, proposals in enumerate(masks) for fill in proposals]
    return {
        "row": _rows(sum(map(len, masks)) for masks in items),
        "mask": [mask for mask, _ in fills],
        "token": [fill.token for _, fill in fills],
        "word": [fill.text for _, fill in fills],
        "sequence": [fill.sequence for _, fill in fills],
        "score": [fill.score for _, fill in fills],
    }


def _terms(items: Sequence[SparseVector]) -> Columns:
    return {
        "row": _rows(len(item.indices) for item in items),
        "token": np.concatenate([item.indices for item in items]),
        "weight": np.concatenate([item.weights for item in items]),
    }


def _rows(counts: Iterable[int]) -> Numbers:
    found = list(counts)
    return np.repeat(np.arange(len(found), dtype=np.int32), found)
