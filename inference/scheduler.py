"""
Decide what runs next.

No clock, no device, no reply: `decide(device, now)` is a function of what waits and of the time it
is given, so every policy question is a plain unit test. The policy today: first come, first served,
with deadlines; the best one will stand in its place.
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, islice

from inference.config import Limits
from inference.cost import CostModel
from inference.request import Batch, Entry, Report, Shape, packed_shape, padded_shape

_HOPEFUL = 0.5  # an entry is given up only when half its predicted time is already too much


@dataclass(frozen=True, slots=True)
class DeviceState:
    """What a device thread tells when it asks for work."""

    name: str
    in_flight: int = 0


@dataclass(frozen=True, slots=True)
class Refused:
    """Why a call was not admitted, and after how many seconds it would be."""

    reason: str
    retry_after_s: float


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do now: run a batch, give up expired entries, or wait (until `wake_at`, if it is set)."""

    batch: Batch | None = None
    expired: tuple[Entry, ...] = ()
    wake_at: float | None = None


@dataclass(frozen=True, slots=True)
class LaneStatistics:
    """What waits for one model."""

    model: str
    entries: int
    tokens: int
    oldest_s: float


@dataclass(frozen=True, slots=True)
class SchedulerStatistics:
    """What waits, by model."""

    lanes: tuple[LaneStatistics, ...]


@dataclass(slots=True, eq=False)
class Lane:
    """What waits for one model, and what its work costs."""

    packed: bool
    cost: CostModel
    waiting: OrderedDict[Entry, None] = field(default_factory=OrderedDict)
    load: Shape = field(default_factory=Shape)  # of all that waits, without padding
    padding: float = 1.0  # computed tokens per real token, a moving average

    def shape(self, lengths: Sequence[int]) -> Shape:
        """What these lengths cost the device when they run together."""
        return packed_shape(lengths) if self.packed else padded_shape(lengths)

    def take(self, entry: Entry) -> None:
        """Remove an entry that waits."""
        del self.waiting[entry]
        self.load -= packed_shape([entry.tokens])


class Scheduler:
    """The work that waits, and the policy. The batcher calls it under one lock."""

    def __init__(self, limits: Limits, lanes: Mapping[str, Lane]) -> None:
        """Take the limits (a token budget > 0) and one lane a model."""
        self._limits = limits
        self._lanes = lanes
        self._running: dict[Batch, float] = {}  # -> when it is predicted to finish

    def add(self, entries: Sequence[Entry], now: float) -> Refused | None:
        """Admit all entries of one call, or none of them."""
        model, deadline = entries[0].model, entries[0].deadline
        refused = self.refusal(model, packed_shape([entry.tokens for entry in entries]), deadline, now)
        if refused is not None:
            return refused
        lane = self._lanes[model]
        for entry in entries:
            lane.waiting[entry] = None
        lane.load += packed_shape([entry.tokens for entry in entries])
        return None

    def refusal(self, model: str, work: Shape, deadline: float, now: float) -> Refused | None:
        """Say why a call of such work (unpadded) would be refused now; an idle engine refuses nothing."""
        waiting = sum(lane.load.tokens for lane in self._lanes.values())
        if waiting == 0 and not self._running:
            return None
        backlog_s = self._backlog_s(now)
        excess = waiting + work.tokens - self._limits.max_waiting_tokens
        if excess > 0:
            return Refused("queue full", backlog_s * min(1.0, excess / max(waiting, 1)))
        finish = now + backlog_s + self._work_s(self._lanes[model], work)
        if finish > deadline:
            return Refused("deadline out of reach", finish - deadline)
        return None

    def decide(self, device: DeviceState, now: float) -> Decision:
        """Choose what the device does next."""
        lane = self._oldest_lane()
        if lane is None:
            return Decision()
        window = list(islice(lane.waiting, self._limits.window))
        expired = tuple(entry for entry in window if self._is_hopeless(lane, entry, now))
        for entry in expired:
            lane.take(entry)
        window = [entry for entry in window if entry in lane.waiting]
        if not window:
            return Decision(expired=expired)
        return Decision(self._form(lane, window, now), expired)

    def finished(self, batch: Batch, report: Report, now: float) -> None:
        """Learn from a batch that ran."""
        del self._running[batch]
        if report.error is not None:
            return
        lane = self._lanes[batch.model]
        lane.cost.observe(batch.shape, report.device_s)
        lane.padding += 0.1 * (report.padded_tokens / report.tokens - lane.padding)

    def cancel(self, entry: Entry) -> None:
        """Forget an entry if it still waits; one that runs is not stopped."""
        lane = self._lanes[entry.model]
        if entry in lane.waiting:
            lane.take(entry)

    def statistics(self, now: float) -> SchedulerStatistics:
        """Take a snapshot of what waits."""
        return SchedulerStatistics(tuple(_lane_statistics(model, lane, now) for model, lane in self._lanes.items()))

    def _oldest_lane(self) -> Lane | None:
        busy = [lane for lane in self._lanes.values() if lane.waiting]
        return min(busy, key=lambda lane: next(iter(lane.waiting)).arrived, default=None)

    def _is_hopeless(self, lane: Lane, entry: Entry, now: float) -> bool:
        alone_s = lane.cost.seconds(lane.shape([entry.tokens]))
        return now + _HOPEFUL * alone_s > entry.deadline

    def _form(self, lane: Lane, window: list[Entry], now: float) -> Batch:
        budget = self._limits.max_batch_tokens
        chosen = _in_order(window, budget) if lane.packed else _by_length(window, budget, lane.cost)
        shape = lane.shape([entry.tokens for entry in chosen])
        batch = Batch(chosen[0].model, tuple(chosen), shape, lane.cost.seconds(shape))
        for entry in chosen:
            lane.take(entry)
        self._running[batch] = now + batch.predicted_s
        return batch

    def _backlog_s(self, now: float) -> float:
        running = sum(max(0.0, finish - now) for finish in self._running.values())
        return running + sum(self._work_s(lane, lane.load) for lane in self._lanes.values())

    def _work_s(self, lane: Lane, work: Shape) -> float:
        padded = Shape(round(work.tokens * lane.padding), work.sequences, work.squares)
        return lane.cost.backlog_s(padded, self._limits.max_batch_tokens)


def _in_order(window: list[Entry], budget: int) -> list[Entry]:
    """The first, and after it all that fit into the budget: no padding, so length does not matter."""
    chosen, left = window[:1], budget - window[0].tokens
    for entry in window[1:]:
        if entry.tokens <= left:
            chosen.append(entry)
            left -= entry.tokens
    return chosen


def _by_length(window: list[Entry], budget: int, cost: CostModel) -> list[Entry]:
    """The first, and its neighbours in length while each makes a real token cheaper."""
    ordered = sorted(window, key=lambda entry: entry.tokens)
    before = [0, *accumulate(entry.tokens for entry in ordered)]

    def price(low: int, high: int) -> float:
        count, longest = high - low + 1, ordered[high].tokens
        padded = Shape(longest * count, count, longest * longest * count)
        return cost.seconds(padded) / (before[high + 1] - before[low])

    low = high = ordered.index(window[0])
    best = price(low, high)
    while True:
        wider = [(low - 1, high)] * (low > 0) + [(low, high + 1)] * (high + 1 < len(ordered))
        offers = [(price(a, b), a, b) for a, b in wider if ordered[b].tokens * (b - a + 1) <= budget]
        offer = min(offers, default=None)
        if offer is None or offer[0] > best:
            return ordered[low : high + 1]
        best, low, high = offer


def _lane_statistics(model: str, lane: Lane, now: float) -> LaneStatistics:
    oldest = next(iter(lane.waiting), None)
    oldest_s = 0.0 if oldest is None else now - oldest.arrived
    return LaneStatistics(model, len(lane.waiting), lane.load.tokens, oldest_s)
