"""
What crosses between an HTTP process and the engine's, and how it becomes bytes: pure, no socket, no clock.

A frame is the length of its body (uint32, little-endian), then a message in msgpack. Deadlines are moments of
CLOCK_MONOTONIC, which all processes of a machine share.
"""

import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, is_dataclass, replace
from typing import Final

import msgspec
import numpy as np

from inference.batcher import BatcherStatistics
from inference.errors import (
    DeadlineExceeded,
    DeviceLost,
    InferenceError,
    InvalidRequest,
    OutOfMemory,
    Overloaded,
    RuntimeFailed,
    Unavailable,
    UnknownModel,
)
from inference.model import ServedModel
from inference.request import Call, Output, Request, Result, Timings, Tokens

MOST_BYTES: Final = 1 << 30  # of a body: more than the largest answer and the largest tokenizer
_LENGTH: Final = struct.Struct("<I")
_ITEM: Final = 4  # bytes of a token id, and of a number
_ERRORS: Final[dict[str, type[InferenceError]]] = {
    kind.__name__: kind
    for kind in (
        *(InvalidRequest, UnknownModel, Overloaded, Unavailable, DeadlineExceeded),
        *(RuntimeFailed, OutOfMemory, DeviceLost),
    )
}


class BadFrame(Exception):
    """What came is no frame, no message, or one that cannot be true: the other side is not to be trusted."""


class Hello(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """The first from an HTTP process: which version it is; in every version it looks like this."""

    version: str


class Ask(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """A call; `inputs` are token ids and token types, int32."""

    number: int
    model: str
    output: Output
    deadline: float
    caller: str
    priority: int
    inputs: list[tuple[bytes, bytes | None]]


class Cancel(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """Nobody waits for this call any more."""

    number: int


class Catalogue(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """What the engine serves from now on."""

    models: dict[str, ServedModel]


class Answer(msgspec.Struct, frozen=True, array_like=True, tag=5):
    """The results of a call: numbers as float32, their shape, and where their time went."""

    number: int
    rows: list[tuple[bytes, list[int], Timings]]


class Failure(msgspec.Struct, frozen=True, array_like=True, tag=6):
    """Why a call has no results: a class of errors.py, and what it is made of."""

    number: int
    kind: str
    parts: list[str | float | None]


class Snapshot(msgspec.Struct, frozen=True, array_like=True, tag=7):
    """How the engine is doing."""

    statistics: BatcherStatistics


class Farewell(msgspec.Struct, frozen=True, array_like=True, tag=8):
    """The engine does not talk to this process."""

    reason: str


FromWorker = Hello | Ask | Cancel
FromEngine = Catalogue | Answer | Failure | Snapshot | Farewell


class Frames:
    """Bytes as they arrive, cut into the bodies of frames."""

    def __init__(self, most: int = MOST_BYTES) -> None:
        """Take the largest body that is believed."""
        self._most = most
        self._parts: list[bytes] = []
        self._held = 0
        self._needed = _LENGTH.size

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Take what came and give every body that is whole; raises BadFrame. What is held was really received."""
        self._parts.append(data)
        self._held += len(data)
        if self._held < self._needed:
            return
        whole, start = b"".join(self._parts), 0
        while (end := self._end(whole, start)) <= len(whole):
            yield whole[start + _LENGTH.size : end]
            start = end
        self._parts = [whole[start:]]
        self._held, self._needed = len(whole) - start, end - start

    def _end(self, data: bytes, start: int) -> int:
        """Where the frame that begins here ends, as far as what came tells it."""
        body = start + _LENGTH.size
        if len(data) < body:
            return body
        (size,) = _LENGTH.unpack_from(data, start)
        if size > self._most:
            raise BadFrame(f"a frame of {size} bytes")
        return body + int(size)


def framed(message: msgspec.Struct) -> bytes:
    """Return a message as a frame."""
    body = msgspec.msgpack.encode(message)
    return _LENGTH.pack(len(body)) + body


def catalogue_of(models: Mapping[str, ServedModel]) -> Catalogue:
    """Return models as they cross: tokenizers without a limit of their own have one of 10^30, which has no 64 bits."""
    bounded = {
        name: replace(model, tokenizer=replace(model.tokenizer, max_length=model.max_length))
        for name, model in models.items()
    }
    return Catalogue(bounded)


def ask_of(number: int, call: Call) -> Ask:
    """Return a call as it crosses; all its requests ask one model for one output."""
    first = call.requests[0]
    inputs = [(each.tokens.tobytes(), None if each.types is None else each.types.tobytes()) for each in call.requests]
    return Ask(number, first.model, first.output, call.deadline, call.caller, call.priority, inputs)


def call_of(ask: Ask) -> Call:
    """Return the call that was asked; raises BadFrame."""
    if not ask.inputs or not math.isfinite(ask.deadline):
        raise BadFrame("a call of nothing, or without a deadline")
    requests = []
    for ids, types in ask.inputs:
        if len(ids) % _ITEM or not ids or (types is not None and len(types) != len(ids)):
            raise BadFrame("token ids that are none")
        requests.append(Request(ask.model, _tokens(ids), None if types is None else _tokens(types), ask.output))
    return Call(requests, ask.deadline, ask.caller, ask.priority)


def answer_of(number: int, results: Sequence[Result]) -> Answer:
    """Return results as they cross."""
    rows = [
        (
            np.ascontiguousarray(result.row, np.float32).tobytes(),
            list(result.row.shape),
            result.timings,
        )
        for result in results
    ]
    return Answer(number, rows)


def results_of(answer: Answer) -> list[Result]:
    """Return the results that came; raises BadFrame."""
    try:
        return [
            Result(np.frombuffer(numbers, np.float32).reshape(shape), timings)
            for numbers, shape, timings in answer.rows
        ]
    except ValueError as err:
        raise BadFrame(f"numbers that have no such shape: {err}") from None


def failure_of(number: int, error: InferenceError) -> Failure:
    """Return an error as it crosses; one that has no class of its own there is its nearest ancestor's."""
    kind = next((name for each in type(error).__mro__ if (name := each.__name__) in _ERRORS), None)
    if kind is None:
        return Failure(number, RuntimeFailed.__name__, [str(error)])
    parts = astuple(error) if is_dataclass(error) else (str(error),)
    return Failure(number, kind, list(parts))


def error_of(failure: Failure) -> InferenceError:
    """Return the error that came; raises BadFrame."""
    try:
        return _ERRORS[failure.kind](*failure.parts)
    except (KeyError, TypeError):
        raise BadFrame(f"an error of the kind {failure.kind!r}") from None


def _tokens(data: bytes) -> Tokens:
    return np.frombuffer(data, np.int32)
