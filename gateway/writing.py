"""An answer of numbers as JSON: written at once, or bit by bit where that takes long enough for others to notice."""

from collections.abc import Iterator, Sequence
from itertools import chain, repeat
from typing import Any, Final

import orjson
from starlette.responses import Response

from gateway.telemetry import server_timing
from inference import CallTimings

_MANY_ITEMS: Final = 64
_MANY_NUMBERS: Final = 65_536
_STEP: Final = 65_536  # bytes


def is_much(items: Sequence[Any]) -> bool:
    """Whether others would notice how long it takes to write so many items, or arrays of so many numbers."""
    return len(items) > _MANY_ITEMS or sum(getattr(item, "size", 1) for item in items) > _MANY_NUMBERS


def json_of(content: Any) -> bytes:
    """Write a value as JSON, arrays as lists."""
    return orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)


def written(content: Any, body: list[bytes]) -> Iterator[None]:
    """Write a value's JSON, its own lists item by item, everything else whole; yield after 64 kB if more follows."""
    size = 0
    for part in _parts(content):
        if size >= _STEP:
            size = 0
            yield
        body.append(part)
        size += len(part)


def _parts(content: Any) -> Iterator[bytes]:
    match content:
        case {**fields} if fields:
            for before, (name, value) in zip(_before(b"{"), fields.items(), strict=False):
                yield before + json_of(name) + b":"
                yield from _parts(value)
            yield b"}"
        case [*items] if items:
            for before, item in zip(_before(b"["), items, strict=False):
                yield before + json_of(item)
            yield b"]"
        case _:
            yield json_of(content)


def _before(first: bytes) -> Iterator[bytes]:
    """What stands before each part: a bracket, then commas."""
    return chain([first], repeat(b","))


class Numbers(Response):
    """An answer whose few headers are written at once: Starlette's own way to them costs 10 us."""

    def __init__(self, body: bytes, timings: CallTimings, headers: Sequence[tuple[bytes, bytes]]) -> None:
        """Take JSON, where the call's time went, and a dialect's own headers."""
        self.status_code = 200
        self.background = None
        self.body = body
        self.raw_headers = [
            (b"server-timing", server_timing(timings).encode()),
            (b"content-length", b"%d" % len(body)),
            (b"content-type", b"application/json"),
            *headers,
        ]
