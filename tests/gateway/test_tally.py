import json
from dataclasses import replace
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import HttpFault
from gateway.tally import check_values
from inference import Limits

FEW = Limits(max_items=2, max_waiting_tokens=100)
LISTS = 4 * 2 + 256
VALUES = 100 + LISTS
TRICKY = r'a"b\[c]\\"[{,' * 2000

texts = st.text(st.sampled_from('[{,"\\]}:aé\u2028'), max_size=12).map(lambda text: text * 40)
contents = st.lists(st.integers(0, 9) | texts | st.lists(texts, max_size=3) | st.dictionaries(texts, texts, max_size=3))


def counted(document: Any) -> tuple[int, int]:
    """The lists and objects in a document, and its commas."""
    if not isinstance(document, list | dict):
        return 0, 0
    inner = [counted(each) for each in (document.values() if isinstance(document, dict) else document)]
    return 1 + sum(lists for lists, _ in inner), max(0, len(inner) - 1) + sum(commas for _, commas in inner)


def refused(body: bytes, limits: Limits, copies: int = 1) -> bool:
    try:
        check_values(body, limits, copies)
    except HttpFault as fault:
        return fault.code == "too_many_values"
    return False


@settings(max_examples=15)
@given(contents, st.integers(0, 200), st.booleans())
def test_it_counts_what_a_decoder_would_make(content: list[Any], more: int, compact: bool) -> None:
    document = [content, TRICKY, *([[]] * (LISTS - 100 + more))]
    body = orjson.dumps(document) if compact else json.dumps(document).encode()
    lists, commas = counted(document)

    assert refused(body, FEW) is (lists > LISTS or commas > VALUES)


@pytest.mark.parametrize("padding", range(8))
@pytest.mark.parametrize("end", ["\\", '"', '\\"', "\\\\", '\\\\"'])
def test_an_escape_across_two_pieces_is_one(padding: int, end: str) -> None:
    text = "x" * (65_533 - 8 + padding) + end + "[" * 500
    body = orjson.dumps({"in": [text, "[" * 500]})

    assert not refused(body, FEW)
    assert refused(body[:-2] + b"," + b",".join([b"[]"] * (LISTS + 1)) + b"]}", FEW)


def test_as_many_as_the_limits_allow_are_taken() -> None:
    items = 4 * 2048 + 256
    tokens = b"[" + b",".join([b"1"] * (1_048_576 + items)) + b"]"
    lists = b"[" + b",".join([b"[]"] * (items - 1)) + b"]"

    assert not refused(tokens, Limits())
    assert refused(tokens + b",1,1", Limits())
    assert not refused(tokens + b",1,1", Limits(), copies=3)
    assert not refused(lists, Limits())
    assert refused(lists + b"[]", Limits())


def test_the_limit_follows_the_most_items() -> None:
    body = b",".join([b"[]"] * 10_000)

    assert refused(body, Limits())
    assert not refused(body, replace(Limits(), max_items=10_000))
