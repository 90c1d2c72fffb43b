import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.limits import Way, cut

POOLS = st.lists(st.integers(1, 256), min_size=1, max_size=100)


@pytest.mark.parametrize("way", ["padded", "padded by length", "packed"])
@given(lengths=POOLS, size=st.integers(1, 40))
def test_every_text_is_in_one_batch_and_no_batch_is_larger_than_asked(way: Way, lengths: list[int], size: int) -> None:
    pool = [np.full(length, number, np.int32) for number, length in enumerate(lengths)]

    batches = cut(way, pool, size)

    assert max(map(len, batches)) <= size
    assert sorted(int(ids[0]) for batch in batches for ids in batch) == list(range(len(pool)))


def test_by_length_neighbours_share_a_batch_and_otherwise_the_order_of_arrival_stays() -> None:
    pool = [np.zeros(length, np.int32) for length in (9, 1, 8, 2)]

    by_length, arrived = cut("padded by length", pool, 2), cut("packed", pool, 2)

    assert [[len(ids) for ids in batch] for batch in by_length] == [[1, 2], [8, 9]]
    assert [[len(ids) for ids in batch] for batch in arrived] == [[9, 1], [8, 2]]
