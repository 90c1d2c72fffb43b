"""Where sequences lie, and how a batch is filled up to a bucket."""

from itertools import pairwise

import numpy as np
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from inference.graphs import buckets
from inference.layout import Bucket, Packed, fill, lay_out

BUCKETS = buckets(4096, 512)


@given(st.lists(st.integers(1, 512), min_size=1, max_size=40), st.integers(0, 9))
@example([100] * 21, 0)  # its tail is longer than a sequence may be
def test_a_filled_bucket_holds_the_sequences_and_then_dummies_to_its_last_token(lengths: list[int], first: int) -> None:
    batch = Bucket(sum(lengths), len(lengths), max(lengths))
    bucket = next((one for one in BUCKETS if one.holds(batch)), batch)
    ids = [np.full(length, 100 + number, np.int32) for number, length in enumerate(lengths)]
    types = [np.ones(length, np.int32) if number % 2 else None for number, length in enumerate(lengths)]
    buffer = np.full(bucket.size, -7, np.int32)

    fill(Packed.of(buffer, bucket), bucket, ids, types, lambda ids, places: places + np.int32(first))

    packed = Packed.of(buffer, bucket)
    steps = np.diff(packed.bounds)
    assert steps[: len(lengths)].tolist() == lengths
    assert (steps >= 0).all() and steps.max() <= bucket.longest
    assert (packed.bounds[0], packed.bounds[-1]) == (0, bucket.tokens)
    assert packed.ids[: batch.tokens].tolist() == np.concatenate(ids).tolist()
    assert packed.positions[: batch.tokens].tolist() == [first + i for length in lengths for i in range(length)]
    assert packed.types[: batch.tokens].tolist() == [n % 2 for n, length in enumerate(lengths) for _ in range(length)]
    assert not packed.types[batch.tokens :].any()
    tail = packed.positions[batch.tokens :]
    assert not len(tail) or (tail.min() >= first and tail.max() < first + bucket.longest)
    assert set(packed.ids[batch.tokens :].tolist()) <= {100}


def test_buckets_grow_and_waste_little() -> None:
    sizes = sorted({bucket.tokens for bucket in buckets(16384, 512)})

    assert sizes[-1] == 16384
    assert all(after / before <= 1.126 for before, after in pairwise(sizes) if before >= 1024)
    assert {bucket.longest for bucket in buckets(16384, 512)} == {64, 128, 192, 256, 384, 512}
    assert max(bucket.longest for bucket in buckets(16384, 40)) == 40


def test_bounds_are_kept_for_a_device() -> None:
    bounds = torch.tensor([0, 2, 5], dtype=torch.int32)

    assert lay_out([2, 3], bounds).bounds is bounds
    assert lay_out([2, 3]).longest == 3
