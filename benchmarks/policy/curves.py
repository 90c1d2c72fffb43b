"""What a batch costs on the simulated devices, and how much work each could do at best."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from benchmarks.policy.arrivals import text_lengths
from inference.request import Shape, packed_shape, padded_shape

_POOL: Final = 4096  # texts that the capacity is worked out on


@dataclass(frozen=True)
class Curve:
    """seconds = base + a * tokens + b * squares, of what is computed; and how soon answers are wanted."""

    name: str
    target_s: float
    packed: bool
    budget: int  # tokens a batch, the product's default for this kind of device
    base_s: float
    token_s: float
    square_s: float = 0.0

    def shape(self, lengths: Sequence[int]) -> Shape:
        """What these lengths make the device compute when they run together."""
        return packed_shape(lengths) if self.packed else padded_shape(lengths)

    def seconds(self, shape: Shape) -> float:
        """How long a batch takes, but for noise."""
        return self.base_s + self.token_s * shape.tokens + self.square_s * shape.squares

    @property
    def is_slow(self) -> bool:
        """Whether it does so little a second that fewer texts must do."""
        return self.capacity < 1000

    @cached_property
    def capacity(self) -> float:
        """Texts a second in full batches: a long queue, sorted by length, cut at the budget."""
        lengths = sorted(text_lengths(_POOL, seed=0))
        return _POOL / sum(self.seconds(self.shape(batch)) for batch in self._cut(lengths))

    def _cut(self, lengths: Sequence[int]) -> list[list[int]]:
        batches: list[list[int]] = [[]]
        for length in lengths:
            if batches[-1] and self.shape([*batches[-1], length]).tokens > self.budget:
                batches.append([])
            batches[-1].append(length)
        return batches


# The CPU's was measured: all-MiniLM-L6-v2 in float32 through inference.encoder.Encoder, packed, one thread pinned to
# a core of a Xeon (family 6, model 207), torch 2.13. 52 batches of 1 to 1024 tokens, equal lengths and this file's mix;
# least CPU time of 4 runs each; least squares on relative errors, of which the median was 2.5 %, p95 13 %.
CURVES: Final = (
    Curve("cpu, 100 ms", 0.1, True, 1024, 7.64e-3, 171.7e-6, 0.1616e-6),
    Curve("cpu, 250 ms", 0.25, True, 1024, 7.64e-3, 171.7e-6, 0.1616e-6),
    Curve("h200-class, assumed, padded", 0.1, False, 16384, 6e-3, 1.1e-6),
    Curve("h200-class, assumed, packed", 0.1, True, 16384, 6e-3, 1.1e-6),
)
