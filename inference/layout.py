"""
Where sequences lie that run end to end, and the one buffer that tells a model what they are.

A bucket is what a batch is filled up to, for graphs have fixed shapes: dummy sequences take its last tokens, since
kernels leave rows of no sequence unwritten, and empty ones its last rows.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

Numbers = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Run:
    """Neighbours of one length: rows `start` to `start + count * length` of the packed row."""

    start: int
    count: int
    length: int

    @property
    def rows(self) -> slice:
        """Where they lie."""
        return slice(self.start, self.start + self.count * self.length)


Runs = tuple[Run, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """Where sequences lie, for a CPU's loops and for a GPU's kernels."""

    runs: Runs
    longest: int
    bounds: torch.Tensor | None = None  # [sequences + 1] int32: where each begins, and the last ends; None on a CPU


@dataclass(frozen=True, slots=True)
class Bucket:
    """The size of a packed batch; one fits if it is as large in all three."""

    tokens: int
    rows: int
    longest: int

    @property
    def size(self) -> int:
        """How many numbers tell a model such a batch."""
        return 3 * self.tokens + self.rows + 1

    def holds(self, other: "Bucket") -> bool:
        """Whether such a batch can be filled up to this, with dummies no longer than the longest."""
        if other.tokens > self.tokens or other.longest > self.longest:
            return False
        return other.rows + -(-(self.tokens - other.tokens) // self.longest) <= self.rows


@dataclass(frozen=True, slots=True, eq=False)
class Packed:
    """A packed batch as a model reads it: views of one buffer of int32, [tokens] each and [rows + 1]."""

    ids: Any  # a NumPy array, or a tensor
    positions: Any
    types: Any
    bounds: Any

    @classmethod
    def of(cls, buffer: Any, bucket: Bucket) -> "Packed":
        """Cut a buffer of at least the bucket's size."""
        tokens = bucket.tokens
        ids, positions, types = (buffer[tokens * part : tokens * (part + 1)] for part in range(3))
        return cls(ids, positions, types, buffer[3 * tokens : bucket.size])


def lay_out(lengths: Sequence[int], bounds: torch.Tensor | None = None) -> Layout:
    """Group equal neighbours: sorted lengths give the fewest runs."""
    runs, start = [], 0
    for length, group in itertools.groupby(lengths):
        count = sum(1 for _ in group)
        runs.append(Run(start, count, length))
        start += count * length
    return Layout(tuple(runs), max(lengths), bounds)


def bounds_of(lengths: Sequence[int]) -> Numbers:
    """Return where each sequence begins, and the last ends: [sequences + 1]."""
    bounds = np.zeros(len(lengths) + 1, np.int32)
    np.cumsum(lengths, out=bounds[1:])
    return bounds


def fill(
    packed: Packed,
    bucket: Bucket,
    ids: Sequence[Numbers],
    types: Sequence[Numbers | None],
    positions: Callable[[Numbers, Numbers], Numbers],
) -> None:
    """
    Write sequences, and dummies up to the bucket's size, which must hold them.

    `types` None: all 0. `positions` makes those of all real tokens from their ids and from their places in sequences.
    """
    lengths = [len(sequence) for sequence in ids]
    bounds, sequences = bounds_of(lengths), len(ids)
    total = int(bounds[-1])
    places = np.arange(total, dtype=np.int32) - np.repeat(bounds[:-1], lengths)
    packed.ids[:total] = np.concatenate(ids)
    packed.positions[:total] = positions(packed.ids[:total], places)
    packed.types[:] = 0
    for start, of_sequence in zip(bounds.tolist(), types, strict=False):
        if of_sequence is not None:
            packed.types[start : start + len(of_sequence)] = of_sequence
    packed.ids[total:] = packed.ids[0]
    packed.positions[total:] = np.arange(bucket.tokens - total) % bucket.longest + packed.positions[0]
    dummies = np.arange(total + bucket.longest, bucket.tokens, bucket.longest)
    packed.bounds[: sequences + 1] = bounds
    packed.bounds[sequences + 1 :] = bucket.tokens
    packed.bounds[sequences + 1 : sequences + 1 + len(dummies)] = dummies
