"""
CUDA graphs of a packed forward: recorded once a bucket at load, replayed for every batch that it holds.

A launch of some 10 us a kernel becomes one of the whole forward. All graphs of a model read one buffer and write
one, in the order of the device's stream, and share their memory in between: so they are recorded from the largest.
"""

import itertools
from collections.abc import Callable, Iterator
from typing import Final

import torch

from inference.layout import Bucket, Layout, Packed

_SMALL: Final = (64, 128, 192, 256, 384, 512, 640, 768, 896, 1024)  # here a device takes as long for any
SMALLEST: Final = _SMALL[0]  # tokens of a bucket
_STEPS: Final = 8  # buckets an octave above: dummies take 6 % of a batch on average
_FEWEST_ROWS: Final = 16
_KINDS: Final = (
    (128, 64),
    (128, 8),
    (512, 128),
    (512, 16),
)  # tokens of the longest sequence, and of one on average, at least
_BLOCK: Final = 128  # tokens of a sequence that one block of the attention kernel takes; an empty one takes as many

Forward = Callable[[Packed, Layout], torch.Tensor]
"""Packed sequences to hidden states, [tokens, hidden]."""


def buckets(most_tokens: int, longest: int) -> list[Bucket]:
    """
    Return the buckets up to a budget of tokens, for sequences of up to `longest` tokens; what costs less is before.

    Longer ones than the largest kind's run eagerly, and so do batches of more sequences than any bucket has rows.
    """
    sizes = itertools.takewhile(lambda tokens: tokens <= most_tokens, _sizes())
    found = {
        Bucket(tokens, max(_FEWEST_ROWS, tokens // mean), min(limit, longest, tokens))
        for tokens, (limit, mean) in itertools.product(sizes, _KINDS)
    }
    return sorted(found, key=lambda bucket: (bucket.tokens, bucket.rows * -(-bucket.longest // _BLOCK)))


def _sizes() -> Iterator[int]:
    yield from _SMALL
    octave = _SMALL[-1]
    while True:
        yield from range(octave + octave // _STEPS, 2 * octave + 1, octave // _STEPS)
        octave *= 2


class Graphs:
    """The graphs of one model on one GPU. Not to be used by two threads at once."""

    def __init__(self, place: torch.device) -> None:
        """Begin with none."""
        self._place = place
        self._graphs: dict[Bucket, torch.cuda.CUDAGraph] = {}
        self._read = torch.empty(0)
        self.written = torch.empty(0)  # the states of the last replay

    def record(self, forward: Forward, wanted: list[Bucket], done: Callable[[int], None] = lambda number: None) -> None:
        """
        Record a graph a bucket, the largest first; raises what the forward raises, and if it cannot be recorded.

        The forward is not kept: whoever holds these graphs would hold itself by it, and its memory for ever.
        """
        stream = torch.cuda.Stream(self._place)  # type: ignore[no-untyped-call]
        self._read = torch.zeros(max(bucket.size for bucket in wanted), dtype=torch.int32, device=self._place)
        pool = torch.cuda.graph_pool_handle()
        stream.wait_stream(torch.cuda.current_stream(self._place))
        recorded: dict[Bucket, torch.cuda.CUDAGraph] = {}
        with torch.cuda.stream(stream):
            for number, bucket in enumerate(sorted(wanted, key=lambda bucket: -bucket.tokens)):
                self._blank(bucket)
                if number == 0:
                    self.written = self._hidden(forward, bucket)  # libraries get ready on their first use, unrecorded
                    stream.synchronize()
                graph = torch.cuda.CUDAGraph()
                graph.capture_begin(pool=pool, capture_error_mode="thread_local")  # other threads' work is theirs
                try:
                    self.written[: bucket.tokens].copy_(self._hidden(forward, bucket))
                finally:
                    graph.capture_end()
                recorded[bucket] = graph
                done(number + 1)
        torch.cuda.current_stream(self._place).wait_stream(stream)
        self._graphs = {bucket: recorded[bucket] for bucket in wanted}

    def bucket_for(self, batch: Bucket) -> Bucket | None:
        """Return the first bucket that holds a batch; None: it must run eagerly."""
        return next((bucket for bucket in self._graphs if bucket.holds(batch)), None)

    def replay(self, bucket: Bucket, told: torch.Tensor) -> tuple[torch.Tensor, Packed]:
        """Run a recorded forward on what a pinned buffer tells; the states [tokens, hidden] last until the next."""
        read = self._read[: bucket.size]
        read.copy_(told, non_blocking=True)
        self._graphs[bucket].replay()
        return self.written[: bucket.tokens], Packed.of(read, bucket)

    def _hidden(self, forward: Forward, bucket: Bucket) -> torch.Tensor:
        packed = Packed.of(self._read, bucket)
        return forward(packed, Layout((), bucket.longest, packed.bounds))

    def _blank(self, bucket: Bucket) -> None:
        """Put sequences of zeros in the place of a batch."""
        packed = Packed.of(self._read, bucket)
        for part in (packed.ids, packed.positions, packed.types):
            part.zero_()
        ends = torch.arange(bucket.rows + 1, device=self._place, dtype=torch.int32) * bucket.longest
        packed.bounds.copy_(ends.clamp_(max=bucket.tokens))
