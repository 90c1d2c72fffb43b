"""
What waits for one model, what its work costs, and how large its batches may be.

Knows nothing of other models, of who may wait, or of which entries make the next batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from inference.config import Limits
from inference.cost import CostModel, Curve
from inference.request import Batch, Report, Shape, packed_shape, padded_shape
from inference.waiting import Waiting

_WORTHWHILE: Final = 8.0  # a batch may take so many times its base cost, whatever the cap on its time
_CAP_AFTER_OOM: Final = 0.7  # of the tokens that did not fit
_CAP_GROWTH: Final = 1.01  # a batch that fits and is nearly as large
_NEARLY_FULL: Final = 0.8


@dataclass(frozen=True, slots=True)
class LaneStatistics:
    """What waits for one model, what its work costs, and how well that is known."""

    model: str
    entries: int
    tokens: int
    oldest_s: float
    curve: Curve
    error_p50: float  # of predicted batch seconds, relative
    error_p95: float

    def after(self, older: "LaneStatistics") -> "LaneStatistics":
        """Count what still waits for an older version of the model too."""
        entries, tokens = self.entries + older.entries, self.tokens + older.tokens
        return replace(self, entries=entries, tokens=tokens, oldest_s=max(self.oldest_s, older.oldest_s))


@dataclass(slots=True, eq=False)
class Lane:
    """What waits for one model, and what its work costs."""

    packed: bool
    cost: CostModel
    waiting: Waiting = field(default_factory=Waiting)
    padding: float = 1.0  # computed tokens per real token, a moving average
    fits: float = float("inf")  # tokens that a batch may have, learned from running out of memory
    served_s: dict[int, float] = field(default_factory=dict)  # by class: device seconds, lifted when work comes back
    tried_at: float = float("-inf")  # when a call that seemed hopeless was let in last

    def shape(self, lengths: Sequence[int]) -> Shape:
        """What these lengths cost the device when they run together."""
        return packed_shape(lengths) if self.packed else padded_shape(lengths)

    def seconds(self, work: Shape, limits: Limits, devices: int = 1) -> float:
        """How long so much work (unpadded) takes in full batches on so many devices: on one, its device seconds."""
        return self.cost.backlog_s(self._padded(work), self.cap_tokens(limits), self.cap_s(limits), devices)

    def price_s(self, work: Shape, limits: Limits) -> float:
        """Device seconds of so much work (unpadded) among much more like it: its part of full batches."""
        return self.cost.share_s(self._padded(work), self.cap_tokens(limits), self.cap_s(limits))

    def share(self, tokens: int) -> Shape:
        """So many tokens of what waits, with their part of its sequences and squares."""
        load = self.waiting.load
        if load.tokens == 0:
            return Shape()
        part = tokens / load.tokens
        return Shape(tokens, round(load.sequences * part), round(load.squares * part))

    def cap_tokens(self, limits: Limits) -> float:
        """The most tokens a batch may have."""
        return min(limits.max_batch_tokens, self.fits)

    def cap_s(self, limits: Limits) -> float:
        """The longest a batch may take, but for a single entry."""
        return max(limits.max_batch_s, _WORTHWHILE * self.cost.base_s)

    def is_within(self, shape: Shape, limits: Limits, free_bytes: int | None = None) -> bool:
        """Whether a batch of this shape keeps the caps on tokens and on its own time, and fits what is free."""
        if shape.tokens > self.cap_tokens(limits) or self.cost.seconds(shape) > self.cap_s(limits):
            return False
        needed = None if free_bytes is None else self.cost.most_bytes(shape)
        return needed is None or free_bytes is None or needed <= free_bytes

    def batch_s(self, tokens: float, limits: Limits) -> float:
        """How long a batch of so many tokens takes, made of what waits, within the cap on its time."""
        return min(self.cap_s(limits), self.cost.seconds(self.share(round(tokens))))

    def did_not_fit(self, shape: Shape) -> None:
        """Take that such a batch ran out of memory."""
        self.fits = max(1.0, _CAP_AFTER_OOM * min(self.fits, shape.tokens))

    def learn(self, batch: Batch, report: Report, limits: Limits) -> None:
        """Take what became of a batch."""
        if report.error == "OutOfMemory":
            self.did_not_fit(batch.shape)
        if report.error is not None:
            return
        if batch.shape.tokens > _NEARLY_FULL * self.cap_tokens(limits):
            self.fits *= _CAP_GROWTH
        self.cost.observe(batch.shape, report.device_s, report.peak_bytes)
        self.padding += 0.1 * (report.padded_tokens / report.tokens - self.padding)

    def statistics(self, model: str, now: float) -> LaneStatistics:
        """Take a snapshot."""
        oldest = self.waiting.oldest
        oldest_s = 0.0 if oldest is None else now - oldest
        cost = self.cost
        return LaneStatistics(model, len(self.waiting), self.waiting.load.tokens, oldest_s, cost.curve, *cost.errors())

    def _padded(self, work: Shape) -> Shape:
        """So much work with the padding that it had lately."""
        if self.padding == 1.0:
            return work
        return Shape(round(work.tokens * self.padding), work.sequences, work.squares)
