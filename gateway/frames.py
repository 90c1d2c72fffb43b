"""
How a body of the Open Inference Protocol is laid out: JSON, then the bytes of tensors, compressed or not.

Limits count the bytes after decompression. Knows nothing of what the JSON says.
"""

import asyncio
import re
import zlib
from dataclasses import dataclass
from typing import Final

from starlette.requests import Request

from gateway.call import read_body, too_large
from gateway.errors import HttpFault

LENGTH_HEADER: Final = "Inference-Header-Content-Length"
_LENGTH: Final = re.compile(r"[0-9]{1,15}", re.ASCII)
_WINDOWS: Final = {"gzip": 31, "deflate": zlib.MAX_WBITS}  # zlib's names for the wrapping; `deflate` is zlib's own
_EITHER: Final = 47  # gzip or zlib, whichever begins there
_LEVEL: Final = 1  # vectors hardly shrink any further
_REFUSED: Final = re.compile(r"\s*q=0(\.0*)?\s*")  # a coding's weight when it is not wanted


@dataclass(frozen=True, slots=True)
class Frame:
    """A body: its JSON and the bytes behind it. `raw`: no JSON was sent, the bytes are the only input."""

    head: bytes
    tail: memoryview
    raw: bool = False


async def read_frame(request: Request, most: int) -> Frame:
    """Read a body of at most so many bytes, compressed and not; raises HttpFault."""
    coding = request.headers.get("content-encoding", "identity").strip().lower()
    if coding not in _WINDOWS and coding != "identity":
        raise HttpFault(415, "unsupported_encoding", "send gzip, deflate or nothing of that kind", "Content-Encoding")
    body = await read_body(request, most)
    if coding != "identity":
        body = await asyncio.to_thread(_inflated, body, most)
    return _parted(body, request.headers.get(LENGTH_HEADER))


def asked_coding(accepted: str) -> str | None:
    """
    Return the coding that an answer is asked for in.

    Most HTTP libraries say of every call that they could read several, which is no wish: to compress costs more than
    the rest of the call. One that names gzip or deflate and nothing else does wish it.
    """
    parts = [part.partition(";") for part in accepted.lower().split(",")]
    codings = {name.strip() for name, _, weight in parts if not _REFUSED.fullmatch(weight)} - {"", "identity"}
    return codings.pop() if len(codings) == 1 and codings <= _WINDOWS.keys() else None


async def compressed(body: bytes, coding: str) -> bytes:
    """Compress an answer."""
    return await asyncio.to_thread(_deflated, body, _WINDOWS[coding])


def _inflated(body: bytes, most: int) -> bytes:
    """Decompress until it is whole, or too large; the wrapping tells which coding it is."""
    stream = zlib.decompressobj(_EITHER)
    try:
        plain = stream.decompress(body, most + 1)
    except zlib.error as err:
        raise HttpFault(400, "invalid_encoding", f"the body is not what it says: {err}", "Content-Encoding") from None
    if len(plain) > most:
        raise too_large(most)
    if not stream.eof or stream.unused_data:
        raise HttpFault(400, "invalid_encoding", "the body is not one whole compressed stream", "Content-Encoding")
    return plain


def _deflated(body: bytes, window: int) -> bytes:
    stream = zlib.compressobj(_LEVEL, wbits=window)
    return stream.compress(body) + stream.flush()


def _parted(body: bytes, told: str | None) -> Frame:
    """Part a body where its header says that the JSON ends."""
    if told is None:
        return Frame(body, memoryview(b""))
    if not _LENGTH.fullmatch(told) or int(told) > len(body):
        message = f"must be a whole number of bytes, at most the {len(body)} of the body"
        raise HttpFault(400, "invalid_request", message, LENGTH_HEADER)
    return Frame(body[: int(told)], memoryview(body)[int(told) :], raw=int(told) == 0)
