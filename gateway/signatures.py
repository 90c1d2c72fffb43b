"""
What a model takes and gives as tensors, by its task: the names, datatypes and shapes that its metadata tells.

A text is one element of BYTES; inputs of one call have one row each in [n], or in [n, 1] as Triton's clients like it.
Token ids [n, tokens] come with a mask that says which of them are padding, and are never read as text again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Final, Literal

import numpy as np

from gateway.tensors import INTEGERS, Numbers, Tensor
from inference import Inputs, InvalidRequest, Task

if TYPE_CHECKING:
    from inference import ServedModel  # its home imports torch

Datatype = Literal["BYTES", "INT32", "INT64", "FP32"]

_IDS: Final = ("input_ids", "attention_mask", "token_type_ids")


@dataclass(frozen=True, slots=True)
class Slot:
    """A tensor that a model takes or gives; -1 stands for any size."""

    name: str
    datatype: Datatype
    shape: tuple[int, ...]
    optional: bool = False


@dataclass(frozen=True, slots=True)
class Signature:
    """What a model takes and gives. `rowwise`: every tensor has a row for each input."""

    inputs: tuple[Slot, ...]
    outputs: tuple[Slot, ...]
    rowwise: bool = True


_TEXT: Final = Slot("text", "BYTES", (-1,))
_MAYBE_TEXT: Final = replace(_TEXT, optional=True)
_TOKENS: Final = tuple(Slot(name, "INT64", (-1, -1), optional=True) for name in _IDS)
_ROW: Final = Slot("row", "INT32", (-1,))  # which input a found thing belongs to


def signature(model: "ServedModel") -> Signature:
    """Return what this model takes and gives."""
    return _signature(model.task, model.hidden_size, len(model.labels))


@cache
def _signature(task: Task, hidden_size: int, label_count: int) -> Signature:
    labels = (-1, label_count)
    match task:
        case "embed":
            return Signature((_MAYBE_TEXT, *_TOKENS), _floats(embedding=(-1, hidden_size)))
        case "rerank":
            return Signature((Slot("query", "BYTES", (-1,)), _TEXT), _floats(score=(-1,), logit=(-1,)))
        case "classify":
            pair = Slot("text_pair", "BYTES", (-1,), optional=True)
            outputs = (*_floats(score=labels, logit=labels), Slot("label", "BYTES", (-1,)))
            return Signature((_MAYBE_TEXT, pair, *_TOKENS), outputs)
        case "token-classify":
            found = (_ROW, *_texts("label", "word"), *_floats(score=(-1,)), *_whole("start", "end"))
            return Signature((_TEXT,), found, rowwise=False)
        case "fill-mask":
            found = (_ROW, *_whole("mask", "token"), *_texts("word", "sequence"), *_floats(score=(-1,)))
            return Signature((_TEXT,), found, rowwise=False)
        case "sparse":
            return Signature((_MAYBE_TEXT, *_TOKENS), (_ROW, *_whole("token"), *_floats(weight=(-1,))), rowwise=False)


def read_inputs(tensors: Mapping[str, Tensor], model: "ServedModel") -> Inputs:
    """Return what a call asks about; raises InvalidRequest with the tensor's name."""
    named = _named(tensors, signature(model))
    if named.keys() & set(_IDS):
        return _token_rows(named)
    if "query" in named or model.task == "rerank":
        return _pairs(named, "query", "text")
    if "text_pair" in named:
        return _pairs(named, "text", "text_pair")
    texts = _column(named, "text")
    return Inputs(texts, named["text"].name)


def _named(tensors: Mapping[str, Tensor], signature: Signature) -> Mapping[str, Tensor]:
    """
    Check names and datatypes.

    The only text of a call is `text` under any name: KServe's own clients call it what they like.
    """
    slots = {slot.name: slot for slot in signature.inputs}
    if len(tensors) == 1 and "query" not in slots:
        (only,) = tensors.values()
        if only.datatype == "BYTES" and only.name not in slots:
            return {"text": only}
    for name, tensor in tensors.items():
        if name not in slots:
            raise InvalidRequest(f"is no input of this model; it takes: {', '.join(slots)}", name)
        if (tensor.datatype in INTEGERS) != (slots[name].datatype in INTEGERS):
            raise InvalidRequest(f"takes {slots[name].datatype}, not {tensor.datatype}", name)
    if "text" in tensors and tensors.keys() & set(_IDS):
        raise InvalidRequest("is given as text or as token ids, not as both", "text")
    return tensors


def _column(tensors: Mapping[str, Tensor], name: str) -> list[str]:
    tensor = tensors.get(name)
    if tensor is None:
        raise InvalidRequest("is missing", name)
    if tensor.shape[1:] not in ((), (1,)) or not tensor.shape:
        raise InvalidRequest(f"has the shape {list(tensor.shape)}; it must be [n] or [n, 1]", tensor.name)
    return list(map(str, tensor.values))


def _pairs(tensors: Mapping[str, Tensor], first: str, second: str) -> Inputs:
    """Lay two columns side by side; one query goes with every text."""
    firsts, seconds = _column(tensors, first), _column(tensors, second)
    if len(firsts) == 1 and first == "query":
        firsts *= len(seconds)
    if len(firsts) != len(seconds):
        raise InvalidRequest(f"has {len(seconds)} rows, and {first} has {len(firsts)}", second)
    for name, column in ((first, firsts), (second, seconds)):
        if "" in column:
            raise InvalidRequest("must not be empty", f"{name}[{column.index('')}]")
    return Inputs(list(zip(firsts, seconds, strict=True)), second, first=first)


def _token_rows(tensors: Mapping[str, Tensor]) -> Inputs:
    """Return the ids of each row without its padding."""
    if "input_ids" not in tensors:
        raise InvalidRequest("is missing", "input_ids")
    ids = _matrix(tensors["input_ids"], None)
    rows: Sequence[Numbers] = list(ids)
    if "attention_mask" in tensors:
        mask = _matrix(tensors["attention_mask"], ids.shape)
        rows = [_unpadded(row, marks, index) for index, (row, marks) in enumerate(zip(ids, mask, strict=True))]
    if "token_type_ids" in tensors and _matrix(tensors["token_type_ids"], ids.shape).any():
        raise InvalidRequest("must all be 0: pairs are taken as text", "token_type_ids")
    return Inputs(rows, "input_ids")  # type: ignore[arg-type]  # arrays are read as sequences are


def _matrix(tensor: Tensor, shape: tuple[int, ...] | None) -> Numbers:
    if len(tensor.shape) != 2 or (shape is not None and tensor.shape != shape):  # noqa: PLR2004
        wanted = "[n, tokens]" if shape is None else f"that of input_ids, {list(shape)}"
        raise InvalidRequest(f"has the shape {list(tensor.shape)}; it must be {wanted}", tensor.name)
    return np.asarray(tensor.values).reshape(tensor.shape)


def _unpadded(row: Numbers, marks: Numbers, index: int) -> Numbers:
    """Return the tokens that the mask keeps: one run of ones, with zeros before or after it."""
    kept = np.flatnonzero(marks)
    whole = len(kept) == 0 or kept[-1] - kept[0] + 1 == len(kept)
    if not whole or ((marks != 0) & (marks != 1)).any():
        raise InvalidRequest("must be one run of ones, and zeros for padding", f"attention_mask[{index}]")
    return row[kept]


def _floats(**shapes: tuple[int, ...]) -> tuple[Slot, ...]:
    return tuple(Slot(name, "FP32", shape) for name, shape in shapes.items())


def _texts(*names: str) -> tuple[Slot, ...]:
    return tuple(Slot(name, "BYTES", (-1,)) for name in names)


def _whole(*names: str) -> tuple[Slot, ...]:
    return tuple(Slot(name, "INT32", (-1,)) for name in names)
