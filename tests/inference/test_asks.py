from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference import Inputs
from inference.asks import size_of

TEXTS = st.text("ab ", min_size=1, max_size=3)
LISTS = (
    st.lists(TEXTS, min_size=1, max_size=200)
    | st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=200)
    | st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=3), min_size=1, max_size=200)
    | st.lists(st.sampled_from(["w" * 5000, "w" * 20_000, "w"]), min_size=1, max_size=80)
)


@given(LISTS)
def test_parts_are_the_whole_in_its_order_and_small(items: Sequence[str]) -> None:
    parts = list(Inputs(items).parts())

    assert [item for part in parts for item in part.items] == items
    for part in parts:
        assert len(part.items) == 1 or (len(part.items) <= 32 and part.size <= 16_384)
    for before, after in pairwise(parts):
        assert len(before.items) == 32 or before.size + size_of(after.items[0]) > 16_384


@pytest.mark.parametrize(
    "whole",
    [
        Inputs(["w"] * 100),
        Inputs(["w"] * 100, "sentences", lead="source"),
        Inputs([("w", "w")] * 100, "inputs", each=5),
        Inputs(["w"] * 100, names=[f"row {index}" for index in range(100)]),
    ],
    ids=["a list", "one outside the list", "several of one", "names"],
)
def test_what_is_in_a_part_has_the_name_that_it_has_in_the_whole(whole: Inputs) -> None:
    names = [part.name(index) for part in whole.parts() for index in range(len(part.items))]

    assert names == [whole.name(index) for index in range(len(whole.items))]
