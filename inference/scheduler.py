"""
Decide what runs next, and who may wait.

No clock, no device, no reply: `decide(device, now)` is a function of what waits and of the time it
is given, so every policy question is a plain unit test. The order inside a model is `waiting.py`'s;
here it is cut into batches whose own time stays under a cap, and calls that cannot make it are refused.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, islice
from typing import Final

from inference.config import Limits
from inference.cost import CostModel, Curve
from inference.request import Batch, Entry, Report, Shape, packed_shape, padded_shape
from inference.waiting import Waiting

_PATIENCE: Final = 16  # entries that do not fit are passed over so often before a packed batch closes
_WORTHWHILE: Final = 8.0  # a batch may take so many times its base cost, whatever the cap on its time
_CAP_AFTER_OOM: Final = 0.7  # of the tokens that did not fit
_CAP_GROWTH: Final = 1.01  # a batch that fits and is nearly as large
_NEARLY_FULL: Final = 0.8
_HARD_LIMIT: Final = 2  # times max_waiting_tokens: more waits for nobody, whatever their share


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
class Work:
    """A call as admission sees it: how much of what, for whom, until when."""

    model: str
    shape: Shape  # without padding
    deadline: float  # seconds, engine clock
    caller: str = ""
    priority: int = 0
    likely: Shape | None = None  # where `shape` is less than what is expected


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


@dataclass(frozen=True, slots=True)
class SchedulerStatistics:
    """What waits, by model."""

    lanes: tuple[LaneStatistics, ...]


@dataclass(slots=True, eq=False)
class Lane:
    """What waits for one model, and what its work costs."""

    packed: bool
    cost: CostModel
    waiting: Waiting = field(default_factory=Waiting)
    padding: float = 1.0  # computed tokens per real token, a moving average
    fits: float = float("inf")  # tokens that a batch may have, learned from running out of memory
    served_s: float = 0.0  # device seconds, lifted to the other models' when work comes back

    def shape(self, lengths: Sequence[int]) -> Shape:
        """What these lengths cost the device when they run together."""
        return packed_shape(lengths) if self.packed else padded_shape(lengths)

    def seconds(self, work: Shape, limits: Limits) -> float:
        """Device seconds of so much work (unpadded) in full batches."""
        return self.cost.backlog_s(self.padded(work), self.cap_tokens(limits), self.cap_s(limits))

    def padded(self, work: Shape) -> Shape:
        """So much work with the padding that it had lately."""
        return Shape(round(work.tokens * self.padding), work.sequences, work.squares)

    def cap_tokens(self, limits: Limits) -> float:
        """The most tokens a batch may have."""
        return min(limits.max_batch_tokens, self.fits)

    def cap_s(self, limits: Limits) -> float:
        """The longest a batch may take, but for a single entry."""
        return max(limits.max_batch_s, _WORTHWHILE * self.cost.curve.base_s)


class Scheduler:
    """The work that waits, and the policy. The batcher calls it under one lock."""

    def __init__(self, limits: Limits, lanes: Mapping[str, Lane]) -> None:
        """Take the limits (a token budget > 0) and one lane a model."""
        self._limits = limits
        self._lanes = lanes
        self._running: dict[Batch, float] = {}  # -> when it is predicted to finish
        self._held: set[Entry] = set()  # what waits or runs
        self._served_s = 0.0  # of the lane whose turn was last

    def add(self, entries: Sequence[Entry], now: float) -> Refused | None:
        """Admit all entries of one call, or none of them."""
        call, model = entries[0].call, entries[0].model
        shape = packed_shape([entry.tokens for entry in entries])
        refused = self.refusal(Work(model, shape, call.deadline, call.caller, call.priority), now)
        if refused is not None:
            return refused
        lane = self._lanes[model]
        if not lane.waiting:
            lane.served_s = max(lane.served_s, self._served_s)
        self._held.update(entries)
        lane.waiting.add(entries, lane.seconds(shape, self._limits) / shape.tokens)
        return None

    def refusal(self, work: Work, now: float) -> Refused | None:
        """Say why a call would be refused now; an idle engine refuses nothing."""
        waiting = sum(lane.waiting.load.tokens for lane in self._lanes.values())
        if waiting == 0 and not self._running:
            return None
        lane = self._lanes[work.model]
        wait_s = self._ahead_s(lane, work, now) + lane.seconds(work.shape, self._limits)
        finish = now + max(wait_s + self._rounding_s(lane, wait_s), self._next_batch_s(lane, work, now))
        excess = waiting + work.shape.tokens - self._limits.max_waiting_tokens
        hard = (_HARD_LIMIT - 1) * self._limits.max_waiting_tokens
        if excess > hard or (excess > 0 and self._is_over_its_share(lane, work)):
            return Refused("queue full", (finish - now) * min(1.0, excess / max(waiting, 1)))
        if finish > work.deadline:
            return Refused("deadline out of reach", finish - work.deadline)
        return None

    def decide(self, device: DeviceState, now: float) -> Decision:
        """Choose what the device does next."""
        busy = [lane for lane in self._lanes.values() if lane.waiting]
        if not busy:
            return Decision()
        lane = min(busy, key=lambda lane: (lane.served_s, lane.waiting.oldest))
        chosen, expired = self._in_order(lane, now) if lane.packed else self._by_length(lane, now)
        self._held.difference_update(expired)
        for entry in expired:
            lane.waiting.remove(entry)
        for entry in chosen:
            lane.waiting.serve(entry)
        if not chosen:
            return Decision(expired=tuple(expired))
        batch = self._batch(lane, chosen, now)
        self._served_s = max(self._served_s, lane.served_s)
        lane.served_s += batch.predicted_s
        return Decision(batch, tuple(expired))

    def holds(self, entry: Entry) -> bool:
        """Whether an entry waits or runs: only then may others wait for it too."""
        return entry in self._held

    def split(self, batch: Batch, now: float) -> tuple[tuple[Batch, ...], list[Entry]]:
        """Cut a batch that failed in two, each to run next; what is too late by now comes back apart."""
        lane = self._lanes[batch.model]
        late = [entry for entry in batch.entries if entry.deadline <= now]
        alive = [entry for entry in batch.entries if entry.deadline > now]
        self._held.difference_update(late)
        half = (len(alive) + 1) // 2
        return tuple(self._batch(lane, part, now) for part in (alive[:half], alive[half:]) if part), late

    def finished(self, batch: Batch, report: Report, now: float) -> None:
        """Learn from a batch that ran."""
        del self._running[batch]
        lane = self._lanes[batch.model]
        if report.error is None or len(batch.entries) == 1:
            self._held.difference_update(batch.entries)
        if report.error == "OutOfMemory":
            lane.fits = max(1.0, _CAP_AFTER_OOM * min(lane.fits, batch.shape.tokens))
        if report.error is not None:
            return
        if batch.shape.tokens > _NEARLY_FULL * lane.cap_tokens(self._limits):
            lane.fits *= _CAP_GROWTH
        lane.cost.observe(batch.shape, report.device_s)
        lane.padding += 0.1 * (report.padded_tokens / report.tokens - lane.padding)

    def price_s(self, model: str, work: Shape) -> float:
        """Device seconds of so much work (unpadded) among much more like it: its part of full batches."""
        lane = self._lanes[model]
        return lane.cost.share_s(lane.padded(work), lane.cap_tokens(self._limits), lane.cap_s(self._limits))

    def in_flight_s(self) -> float:
        """Device seconds of all that waits and runs."""
        running_s = sum(batch.predicted_s for batch in self._running)
        return running_s + sum(self.price_s(model, lane.waiting.load) for model, lane in self._lanes.items())

    def cancel(self, entry: Entry) -> None:
        """Forget an entry if it still waits; one that runs is not stopped."""
        waiting = self._lanes[entry.model].waiting
        if entry in waiting:
            waiting.remove(entry)
            self._held.discard(entry)

    def statistics(self, now: float) -> SchedulerStatistics:
        """Take a snapshot of what waits."""
        return SchedulerStatistics(tuple(_lane_statistics(model, lane, now) for model, lane in self._lanes.items()))

    # Admission.

    def _ahead_s(self, lane: Lane, work: Work, now: float) -> float:
        """Seconds until the first token of this work runs, if nobody else comes."""
        limits = self._limits
        ahead = lane.waiting.tokens_ahead(work.priority, work.caller, work.deadline, work.shape.tokens)
        own_s = lane.seconds(_share(lane.waiting.load, ahead), limits)
        turns_s = own_s + lane.seconds(work.shape, limits)  # other models get at most as much meanwhile
        others = [other for other in self._lanes.values() if other is not lane]
        return (
            self._running_s(now)
            + own_s
            + sum(min(turns_s, other.seconds(other.waiting.load, limits)) for other in others)
        )

    def _rounding_s(self, lane: Lane, wait_s: float) -> float:
        """Half a full batch, where more than one must run: an answer comes at the end of its batch."""
        full_s = self._batch_s(lane, lane.cap_tokens(self._limits))
        return full_s / 2 if wait_s > full_s else 0.0

    def _next_batch_s(self, lane: Lane, work: Work, now: float) -> float:
        """When the very next batch answers, at the earliest: `decide` gives up what cannot wait for it."""
        tokens = min(lane.waiting.load.tokens + work.shape.tokens, lane.cap_tokens(self._limits))
        return self._running_s(now) + self._batch_s(lane, tokens)

    def _running_s(self, now: float) -> float:
        return sum(max(0.0, finish - now) for finish in self._running.values())

    def _batch_s(self, lane: Lane, tokens: float) -> float:
        """How long a batch of so many tokens takes, made of what waits, within the cap on its time."""
        return min(lane.cap_s(self._limits), lane.cost.seconds(_share(lane.waiting.load, round(tokens))))

    def _is_over_its_share(self, lane: Lane, work: Work) -> bool:
        """Whether a caller would hold more than its part of the queue: one that floods must not lock others out."""
        wanted = lane.waiting.tokens_of(work.caller) + work.shape.tokens
        return wanted > self._limits.max_waiting_tokens / (1 + lane.waiting.callers())

    # Forming a batch.

    def _in_order(self, lane: Lane, now: float) -> tuple[list[Entry], list[Entry]]:
        """The most urgent, and after it all that fit (no padding, so length does not matter); and what is too late."""
        tokens = min(lane.waiting.load.tokens, lane.cap_tokens(self._limits))
        due = now + self._batch_s(lane, tokens)  # a batch answers at its end
        chosen: list[Entry] = []
        late: list[Entry] = []
        shape, passed = Shape(), 0
        for entry in lane.waiting.ordered():
            if entry.deadline < max(due, now + lane.cost.seconds(entry.shape)):
                late.append(entry)
            elif not chosen or self._is_within(lane, shape + entry.shape):
                chosen.append(entry)
                shape += entry.shape
            else:
                passed += 1
            if passed == _PATIENCE or len(late) == self._limits.window:
                break
        return _with_last_hope(chosen, late, len(lane.waiting), now)

    def _by_length(self, lane: Lane, now: float) -> tuple[list[Entry], list[Entry]]:
        """The most urgent, and its neighbours in length while each makes a real token cheaper; and what is too late."""
        window = list(islice(lane.waiting.ordered(), self._limits.window))
        late: list[Entry] = []
        while window:
            ordered = sorted(window, key=lambda entry: entry.tokens)
            low, high = self._cheapest_neighbours(lane, ordered, ordered.index(window[0]))
            chosen = ordered[low : high + 1]
            due = now + lane.cost.seconds(lane.shape([entry.tokens for entry in chosen]))
            lost = {entry for entry in window if entry.deadline < due}
            if not lost:
                return chosen, late
            late += [entry for entry in window if entry in lost]
            window = [entry for entry in window if entry not in lost]
        return _with_last_hope([], late, len(lane.waiting), now)

    def _cheapest_neighbours(self, lane: Lane, ordered: list[Entry], head: int) -> tuple[int, int]:
        before = [0, *accumulate(entry.tokens for entry in ordered)]

        def padded(low: int, high: int) -> Shape:
            count, longest = high - low + 1, ordered[high].tokens
            return Shape(longest * count, count, longest * longest * count)

        def price(low: int, high: int) -> float:
            return lane.cost.seconds(padded(low, high)) / (before[high + 1] - before[low])

        low = high = head
        best = price(low, high)
        while True:
            wider = [(low - 1, high)] * (low > 0) + [(low, high + 1)] * (high + 1 < len(ordered))
            offers = [(price(a, b), a, b) for a, b in wider if self._is_within(lane, padded(a, b))]
            offer = min(offers, default=None)
            if offer is None or offer[0] > best:
                return low, high
            best, low, high = offer

    def _is_within(self, lane: Lane, shape: Shape) -> bool:
        """Whether a batch of this shape keeps the caps on tokens and on its own time."""
        limits = self._limits
        return shape.tokens <= lane.cap_tokens(limits) and lane.cost.seconds(shape) <= lane.cap_s(limits)

    def _batch(self, lane: Lane, chosen: list[Entry], now: float) -> Batch:
        shape = lane.shape([entry.tokens for entry in chosen])
        batch = Batch(chosen[0].model, tuple(chosen), shape, lane.cost.seconds(shape))
        self._running[batch] = now + batch.predicted_s
        return batch


def _with_last_hope(
    chosen: list[Entry], late: list[Entry], waiting: int, now: float
) -> tuple[list[Entry], list[Entry]]:
    """Run one that seems too late if it is all there is: a cost model that expects too much learns from it."""
    if chosen or len(late) < waiting:
        return chosen, late
    hope = next((entry for entry in reversed(late) if entry.deadline > now), None)
    return ([hope], [entry for entry in late if entry is not hope]) if hope else ([], late)


def _share(load: Shape, tokens: int) -> Shape:
    """So many tokens of a load, with their part of its sequences and squares."""
    if load.tokens == 0:
        return Shape()
    share = tokens / load.tokens
    return Shape(tokens, round(load.sequences * share), round(load.squares * share))


def _lane_statistics(model: str, lane: Lane, now: float) -> LaneStatistics:
    oldest = lane.waiting.oldest
    oldest_s = 0.0 if oldest is None else now - oldest
    cost = lane.cost
    return LaneStatistics(model, len(lane.waiting), lane.waiting.load.tokens, oldest_s, cost.curve, *cost.errors())
