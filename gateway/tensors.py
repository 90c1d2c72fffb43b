"""
Tensors of the Open Inference Protocol: as JSON, or as bytes behind it. Knows no model and no HTTP.

Bytes are little-endian and row-major; an element of BYTES is its length in four bytes, then itself. Texts are UTF-8.
"""

import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Annotated, Any, Final

import msgspec
import numpy as np
import numpy.typing as npt
import orjson

from inference import InvalidRequest

INTEGERS: Final[Mapping[str, np.dtype[Any]]] = {"INT32": np.dtype("<i4"), "INT64": np.dtype("<i8")}
_NUMBERS: Final[Mapping[str, np.dtype[Any]]] = {**INTEGERS, "FP32": np.dtype("<f4")}
_LENGTH: Final = struct.Struct("<I")  # before each element of BYTES

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=100)]
Size = Annotated[int, msgspec.Meta(ge=0)]
Shape = Annotated[list[Size], msgspec.Meta(max_length=8)]  # the product of many sizes would take minutes
Numbers = npt.NDArray[Any]
"""Of one of the datatypes above."""


class InputParameters(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What may be said of an input: how many bytes it has behind the JSON."""

    binary_data_size: Size | None = None


class InputTensor(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """An input as the JSON has it; `data` is flat or one list a row, and absent where it comes as bytes."""

    name: Name
    shape: Shape
    datatype: str
    parameters: InputParameters | None = None
    data: list[str | int | list[str | int]] | None = None


class OutputTensor(msgspec.Struct, kw_only=True):
    """An output as JSON has it; `data` is flat, and absent where it comes as bytes."""

    name: str
    datatype: str
    shape: list[int]
    parameters: dict[str, int] | None = None
    data: list[str | float] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Tensor:
    """Texts or numbers in a shape, row by row: `values` is flat."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    values: Sequence[str] | Numbers


def read_tensors(told: Sequence[InputTensor], tail: bytes | memoryview) -> dict[str, Tensor]:
    """Read inputs by name, those in bytes from the tail in their order; raises InvalidRequest with the input's name."""
    tensors: dict[str, Tensor] = {}
    at = 0
    for one in told:
        if one.name in tensors:
            raise InvalidRequest("is there twice", one.name)
        size = None if one.parameters is None else one.parameters.binary_data_size
        tensors[one.name] = _read(one, None if size is None else tail[at : at + size], size)
        at += size or 0
    if at != len(tail):
        raise InvalidRequest(f"claim {at} bytes behind the JSON, and there are {len(tail)}", "inputs")
    return tensors


def draw_tensors(head: dict[str, Any], tensors: Sequence[Tensor], binary: Sequence[bool]) -> tuple[bytes, int | None]:
    """Return the body of an answer, and where its JSON ends if bytes follow: one of `binary` for each tensor."""
    tails = [bytes_of(tensor) if raw else None for tensor, raw in zip(tensors, binary, strict=True)]
    outputs = [_drawn(tensor, tail) for tensor, tail in zip(tensors, tails, strict=True)]
    drawn = orjson.dumps({**head, "outputs": outputs}, option=orjson.OPT_SERIALIZE_NUMPY)
    if not any(binary):
        return drawn, None
    return b"".join([drawn, *(tail for tail in tails if tail is not None)]), len(drawn)


def _read(told: InputTensor, piece: bytes | memoryview | None, size: int | None) -> Tensor:
    count = math.prod(told.shape)
    if count == 0:  # of whatever other dimensions
        raise InvalidRequest("must not be empty", told.name)
    if told.datatype not in INTEGERS and told.datatype != "BYTES":
        raise InvalidRequest(f"the datatype {told.datatype!r} is not taken: send BYTES, INT32 or INT64", told.name)
    if (piece is None) == (told.data is None):
        raise InvalidRequest("has its elements either in data, or as many bytes as binary_data_size says", told.name)
    values = _from_json(told, count) if piece is None else _from_bytes(told, piece, size or 0, count)
    return Tensor(told.name, told.datatype, tuple(told.shape), values)


def _from_json(told: InputTensor, count: int) -> Sequence[str] | Numbers:
    flat = _flat(told)
    if len(flat) != count:
        raise InvalidRequest(f"has {len(flat)} elements, and shape {told.shape} has {count}", told.name)
    wanted = str if told.datatype == "BYTES" else int
    odd = next((index for index, element in enumerate(flat) if type(element) is not wanted), None)
    if odd is not None:
        raise InvalidRequest(f"is not of the datatype {told.datatype}", f"{told.name}[{odd}]")
    if told.datatype == "BYTES":
        return flat
    try:
        return np.array(flat, INTEGERS[told.datatype])
    except OverflowError:
        raise InvalidRequest(f"has a number that {told.datatype} cannot hold", told.name) from None


def _flat(told: InputTensor) -> list[Any]:
    data = told.data or []
    if not any(isinstance(row, list) for row in data):
        return data
    if len(told.shape) != 2 or any(not isinstance(row, list) or len(row) != told.shape[1] for row in data):  # noqa: PLR2004
        raise InvalidRequest(f"its lists do not make the shape {told.shape}", told.name)
    return list(chain.from_iterable(data))  # type: ignore[arg-type]


def _from_bytes(told: InputTensor, piece: bytes | memoryview, size: int, count: int) -> Sequence[str] | Numbers:
    if len(piece) != size:
        raise InvalidRequest(f"is cut off: {len(piece)} of its {size} bytes are there", told.name)
    if told.datatype == "BYTES":
        return _texts(told, bytes(piece), count)
    dtype = INTEGERS[told.datatype]
    if size != count * dtype.itemsize:
        needed = f"shape {told.shape} of {told.datatype} has {count * dtype.itemsize} bytes"
        raise InvalidRequest(f"has {size} bytes, and {needed}", told.name)
    return np.frombuffer(piece, dtype)


def _texts(told: InputTensor, piece: bytes, count: int) -> list[str]:
    texts: list[str] = []
    at = 0
    while at + _LENGTH.size <= len(piece) and len(texts) < count:
        (length,) = _LENGTH.unpack_from(piece, at)
        at += _LENGTH.size
        if at + length > len(piece):
            raise InvalidRequest(f"is cut off: {len(piece) - at} of its {length} bytes", f"{told.name}[{len(texts)}]")
        texts.append(text_of(piece[at : at + length], f"{told.name}[{len(texts)}]"))
        at += length
    if len(texts) != count or at != len(piece):
        message = f"has {len(texts)} elements in {at} of its {len(piece)} bytes, and shape {told.shape} has {count}"
        raise InvalidRequest(message, told.name)
    return texts


def text_of(piece: bytes, name: str) -> str:
    """Return an element of BYTES; raises InvalidRequest."""
    try:
        return piece.decode()
    except UnicodeDecodeError:
        raise InvalidRequest("is not UTF-8", name) from None


def _drawn(tensor: Tensor, tail: bytes | None) -> dict[str, Any]:
    drawn: dict[str, Any] = {"name": tensor.name, "datatype": tensor.datatype, "shape": tensor.shape}
    if tail is None:
        return {**drawn, "data": tensor.values}
    return {**drawn, "parameters": {"binary_data_size": len(tail)}}


def bytes_of(tensor: Tensor) -> bytes:
    """Return the elements of a tensor as they go behind the JSON."""
    if isinstance(tensor.values, np.ndarray):
        return tensor.values.astype(_NUMBERS[tensor.datatype], copy=False).tobytes()
    pieces = [str(element).encode() for element in tensor.values]
    return b"".join(chain.from_iterable((_LENGTH.pack(len(piece)), piece) for piece in pieces))
