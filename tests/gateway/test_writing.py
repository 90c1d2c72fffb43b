from collections.abc import Sequence
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.writing import is_much, json_of, pieces_of

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=5),
    max_leaves=30,
)


@given(VALUES)
def test_the_pieces_of_any_value_are_its_json(value: object) -> None:
    assert orjson.loads(b"".join(pieces_of(value))) == value


def test_the_pieces_of_an_answer_are_the_json_that_would_be_written_at_once() -> None:
    vectors = np.random.default_rng(0).normal(size=(500, 384)).astype(np.float32)
    answer = {
        "object": "list",
        "data": [{"index": at, "embedding": row} for at, row in enumerate(vectors)],
        "usage": {},
    }

    pieces = list(pieces_of(answer))

    assert b"".join(pieces) == json_of(answer)
    assert len(pieces) > 10
    assert max(map(len, pieces)) < 100_000


@pytest.mark.parametrize(
    ("items", "much"),
    [
        (["a"] * 64, False),
        (["a"] * 65, True),
        ([np.zeros(384)], False),
        ([np.zeros((128, 512))], False),
        ([np.zeros((128, 512)), np.zeros(1)], True),
    ],
)
def test_many_items_and_many_numbers_are_much(items: Sequence[Any], much: bool) -> None:
    assert is_much(items) is much
