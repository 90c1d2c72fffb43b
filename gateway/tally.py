"""
How many lists, objects and values a JSON body has, counted before anything is made of it.

To decode millions of empty lists takes seconds of the event loop, in which nobody else is answered, and only then
could one say that they are too many.
"""

from collections.abc import Iterator
from typing import Final

import numpy as np

from gateway.errors import HttpFault
from inference import Limits

_LISTS_AN_ITEM: Final = 4  # the deepest that any dialect writes one
_BESIDE: Final = 256  # lists and values of a body that are not its items
_PIECE: Final = 65536  # bytes that are looked at together: what is too much shows in the first of them
_QUOTE: Final = ord('"')
_OTHERS: Final = bytes(set(range(256)) - set(b'"[{,'))


def check_values(body: bytes, limits: Limits, copies: int = 1) -> None:
    """
    Refuse a JSON body with more lists or values than the most items and tokens need; raises HttpFault.

    `copies`: how often each token may be there (ids, mask, types).
    """
    lists = _LISTS_AN_ITEM * limits.max_items + _BESIDE
    values = copies * limits.max_waiting_tokens + lists
    if len(body) <= lists or not _seems_much(body, lists, values):
        return
    opened = commas = 0
    for symbols in _outside_strings(body):
        opened += _opened(symbols)
        commas += symbols.count(b",")
        if opened > lists or commas > values:
            message = f"the body has more than {lists} lists and objects, or more than {values} values"
            raise HttpFault(400, "too_many_values", message)


def _seems_much(body: bytes, lists: int, values: int) -> bool:
    """Whether it would be too much with what is within strings; looks no further than it has to."""
    opened = commas = 0
    for at in range(0, len(body), _PIECE):
        opened += _opened(body, at, at + _PIECE)
        commas += body.count(b",", at, at + _PIECE)
        if opened > lists or commas > values:
            return True
    return False


def _opened(body: bytes, start: int = 0, end: int | None = None) -> int:
    return body.count(b"[", start, end) + body.count(b"{", start, end)


def _outside_strings(body: bytes) -> Iterator[bytes]:
    """Yield the brackets and commas that are in no string, piece by piece, and sometimes what else is in none."""
    at = inside = 0
    while at < len(body):
        piece = body[at : at + _PIECE]
        if (len(piece) - len(piece.rstrip(b"\\"))) % 2:
            piece = body[at : at + _PIECE + 1]  # with what the last backslash is before
        at += len(piece)
        if b'"' not in piece:
            if not inside:
                yield piece
            continue
        symbols = piece.replace(b"\\\\", b"").replace(b'\\"', b"").translate(None, _OTHERS)
        codes = np.frombuffer(symbols, np.uint8)
        quotes = np.cumsum(codes == _QUOTE, dtype=np.uint8) + np.uint8(inside)  # wraps around, and stays odd inside
        yield codes[quotes % 2 == 0].tobytes()
        inside = (inside + symbols.count(b'"')) % 2
