"""
Which entries of one model make its next batch, and which are too late for any.

The most urgent is in it; the rest is what follows and fits. A batch is never made smaller to save what is
nearly late: the device would spend its time on the base cost of small batches, and be late for all.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate, islice
from typing import Final

from inference.config import Limits
from inference.lane import Lane
from inference.request import Entry, Shape

_PATIENCE: Final = 16  # entries that do not fit are passed over so often before a packed batch closes


@dataclass(frozen=True, slots=True)
class Selection:
    """What runs next, and what is given up."""

    chosen: list[Entry] = field(default_factory=list)
    late: list[Entry] = field(default_factory=list)


def select(lane: Lane, limits: Limits, now: float, free_bytes: int | None) -> Selection:
    """Make the next batch of what waits; changes nothing. `free_bytes`: the device's, None where it does not tell."""
    selector = _Selector(lane, limits, now, free_bytes)
    found = selector.in_order() if lane.packed else selector.by_length()
    return _with_last_hope(found, len(lane.waiting), now)


@dataclass(frozen=True, slots=True)
class _Selector:
    """One decision's circumstances."""

    lane: Lane
    limits: Limits
    now: float
    free_bytes: int | None

    def in_order(self) -> Selection:
        """The most urgent, and after it all that fit (no padding, so length does not matter)."""
        lane, now = self.lane, self.now
        tokens = min(lane.waiting.load.tokens, lane.cap_tokens(self.limits))
        due = now + lane.batch_s(tokens, self.limits)  # a batch answers at its end
        found = Selection()
        shape, passed = Shape(), 0
        for entry in lane.waiting.ordered():
            if entry.deadline < max(due, now + lane.cost.seconds(entry.shape)):
                found.late.append(entry)
            elif not found.chosen or self._is_within(shape + entry.shape):
                found.chosen.append(entry)
                shape += entry.shape
            else:
                passed += 1
            if passed == _PATIENCE or len(found.late) == self.limits.window:
                break
        return found

    def by_length(self) -> Selection:
        """The most urgent, its neighbours in length while each makes a real token cheaper, and what fills them up."""
        window = list(islice(self.lane.waiting.ordered(), self.limits.window))
        late: list[Entry] = []
        while window:
            head = window[0]
            ordered = sorted(_of_its_class(head, window), key=lambda entry: entry.tokens)
            low, high = self._cheapest_neighbours(ordered, ordered.index(head))
            chosen = ordered[low : high + 1]
            due = self._due(self.lane.shape([entry.tokens for entry in chosen]))
            lost = {entry for entry in window if entry.deadline < due}
            if not lost:
                return Selection(self._filled(chosen, head), late)
            late += [entry for entry in window if entry in lost]
            window = [entry for entry in window if entry not in lost]
        return Selection(late=late)

    def _filled(self, chosen: list[Entry], head: Entry) -> list[Entry]:
        """Add entries of lower classes, no longer than the longest, while each makes a real token cheaper."""
        lane, longest = self.lane, max(entry.tokens for entry in chosen)
        lower = islice(lane.waiting.below(head.call.priority), self.limits.window)
        count, tokens = len(chosen), sum(entry.tokens for entry in chosen)
        deadline = min(entry.deadline for entry in chosen)
        filled = list(chosen)
        for entry in sorted((entry for entry in lower if entry.tokens <= longest), key=lambda entry: -entry.tokens):
            before, after = _padded(longest, count), _padded(longest, count + 1)
            dearer = lane.cost.seconds(after) * tokens > lane.cost.seconds(before) * (tokens + entry.tokens)
            if dearer or not self._is_within(after) or self._due(after) > deadline:
                break
            if entry.deadline >= self._due(after):
                filled.append(entry)
                count, tokens, deadline = count + 1, tokens + entry.tokens, min(deadline, entry.deadline)
        return filled

    def _cheapest_neighbours(self, ordered: Sequence[Entry], head: int) -> tuple[int, int]:
        """Widen from the head to the shorter or the longer side, whichever makes a real token cheaper."""
        before = [0, *accumulate(entry.tokens for entry in ordered)]

        def padded(low: int, high: int) -> Shape:
            return _padded(ordered[high].tokens, high - low + 1)

        def price(low: int, high: int) -> float:
            return self.lane.cost.seconds(padded(low, high)) / (before[high + 1] - before[low])

        low = high = head
        best = price(low, high)
        while True:
            wider = [(low - 1, high)] * (low > 0) + [(low, high + 1)] * (high + 1 < len(ordered))
            offers = [(price(a, b), a, b) for a, b in wider if self._is_within(padded(a, b))]
            offer = min(offers, default=None)
            if offer is None or offer[0] > best:
                return low, high
            best, low, high = offer

    def _due(self, shape: Shape) -> float:
        return self.now + self.lane.cost.seconds(shape)

    def _is_within(self, shape: Shape) -> bool:
        return self.lane.is_within(shape, self.limits, self.free_bytes)


def _of_its_class(head: Entry, window: Sequence[Entry]) -> list[Entry]:
    """The head's class and the higher ones: those below may only fill up what these leave."""
    return [entry for entry in window if entry.call.priority >= head.call.priority]


def _padded(longest: int, count: int) -> Shape:
    return Shape(longest * count, count, longest * longest * count)


def _with_last_hope(found: Selection, waiting: int, now: float) -> Selection:
    """Run one that seems too late if it is all there is: a cost model that expects too much learns from it."""
    if found.chosen or len(found.late) < waiting:
        return found
    hope = next((entry for entry in reversed(found.late) if entry.deadline > now), None)
    if hope is None:
        return found
    return Selection([hope], [entry for entry in found.late if entry is not hope])
