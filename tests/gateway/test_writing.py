from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.writing import is_much, json_of, written

FLOATS = st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | FLOATS | st.text(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=5),
    max_leaves=30,
)


@given(VALUES)
def test_what_is_written_in_steps_is_the_json_of_any_value(value: object) -> None:
    body: list[bytes] = []

    steps = list(written(value, body))

    assert orjson.loads(b"".join(body)) == value
    assert steps == []


def test_an_answer_is_written_in_small_steps_as_it_would_be_at_once() -> None:
    vectors = np.random.default_rng(0).normal(size=(500, 384)).astype(np.float32)
    data = [{"index": at, "embedding": row} for at, row in enumerate(vectors)]
    answer = {"object": "list", "data": data, "usage": {"total_tokens": 1}}
    body: list[bytes] = []

    sizes = [sum(map(len, body)) for _ in written(answer, body)]

    assert b"".join(body) == json_of(answer)
    assert len(sizes) > 10
    assert max(after - before for before, after in pairwise([0, *sizes, sum(map(len, body))])) < 80_000


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
