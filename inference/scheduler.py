"""
Decide what runs next, and who may wait.

No clock, no device, no reply: `decide(device, now)` is a function of what waits and of the time it
is given, so every policy question is a plain unit test. The order inside a model is `waiting.py`'s, the
cut into batches `selection.py`'s; here models take turns, and calls that cannot make it are refused.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

from inference.config import Limits
from inference.lane import Lane, LaneStatistics
from inference.request import Batch, Entry, Report, Shape, name_of, packed_shape
from inference.selection import select
from inference.waiting import most_urgent_class

_HARD_LIMIT: Final = 2  # times max_waiting_tokens: more waits for nobody, whatever their share
_TRYING: Final = 0.01  # of a device's time may go to calls that seem hopeless, so that the cost is learned


@dataclass(frozen=True, slots=True)
class DeviceState:
    """What a device thread tells when it asks for work."""

    name: str
    free_bytes: int | None = None  # for a batch, beside what the models hold; None where the device does not tell


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
class SchedulerStatistics:
    """What waits, by model."""

    lanes: tuple[LaneStatistics, ...]


class Scheduler:
    """The work that waits, and the policy. The batcher calls it under one lock."""

    def __init__(self, limits: Limits, lanes: Mapping[str, Lane], *, devices: int = 1) -> None:
        """Take the limits (a token budget > 0), one lane a model, and how many devices share the work."""
        self._limits = limits
        self._devices = devices
        self._lanes = dict(lanes)
        self._running: dict[Batch, float] = {}  # -> when it is predicted to finish
        self._held: set[Entry] = set()  # what waits or runs
        self._served_s: dict[int, float] = {}  # by class: of the lane whose turn was last

    def open(self, model: str, lane: Lane) -> None:
        """Take work for one more model from now on."""
        self._lanes[model] = lane

    def close(self, model: str) -> None:
        """Forget a model that nothing waits for and none of whose batches runs."""
        del self._lanes[model]

    def is_busy(self, model: str) -> bool:
        """Whether anything waits for a model, or runs."""
        return bool(self._lanes[model].waiting) or any(batch.model == model for batch in self._running)

    def add(self, entries: Sequence[Entry], now: float) -> Refused | None:
        """Admit all entries of one call, or none of them."""
        call, model = entries[0].call, entries[0].model
        shape = packed_shape([entry.tokens for entry in entries])
        refused = self.refusal(Work(model, shape, call.deadline, call.caller, call.priority), now)
        if refused is not None:
            return refused
        lane = self._lanes[model]
        if self._is_idle() and self._is_hopeless(lane, shape, call.deadline, now):
            lane.tried_at = now
        if call.priority not in lane.waiting.oldest_by_class():
            lane.served_s[call.priority] = max(
                _served(lane.served_s, call.priority), _served(self._served_s, call.priority)
            )
        self._held.update(entries)
        lane.waiting.add(entries, lane.seconds(shape, self._limits) / shape.tokens)
        return None

    def hasten(self, entries: Sequence[Entry], deadline: float) -> None:
        """Give entries that a second call waits for, in its order, the rank it would get them, where that is better."""
        waiting = [entry for entry in entries if entry in self._lanes[entry.model].waiting]
        if not waiting:
            return
        lane = self._lanes[waiting[0].model]
        shape, before = packed_shape([entry.tokens for entry in waiting]), 0
        token_s = lane.seconds(shape, self._limits) / shape.tokens
        for entry in waiting:
            lane.waiting.hasten(entry, deadline + before * token_s)
            before += entry.tokens

    def refusal(self, work: Work, now: float) -> Refused | None:
        """Say why a call would be refused now; an idle device refuses only what is hopeless, and tries some of that."""
        lane = self._lanes[work.model]
        alone_s = lane.seconds(work.shape, self._limits, self._devices)
        if self._is_idle():
            tried = now - lane.tried_at > alone_s / _TRYING
            if tried or not self._is_hopeless(lane, work.shape, work.deadline, now):
                return None
            return Refused("deadline out of reach", now + alone_s - work.deadline)
        if self._is_safe(lane, work, alone_s, now):
            return None
        waiting = sum(lane.waiting.load.tokens for lane in self._lanes.values())
        ahead_s, free_s = self._ahead_s(lane, work), self._free_s(now)
        own_s = alone_s + self._rounding_s(lane, ahead_s + alone_s)
        finish = now + max(_level(free_s, ahead_s) + own_s, free_s[0] + self._next_batch_s(lane, work))
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
        priority, lane = self._turn(busy)
        found = select(lane, self._limits, now, device.free_bytes)
        self._held.difference_update(found.late)
        for entry in found.late:
            lane.waiting.remove(entry)
        for entry in found.chosen:
            lane.waiting.serve(entry)
        if not found.chosen:
            return Decision(expired=tuple(found.late))
        batch = self._batch(lane, found.chosen, device.name, now)
        served_s = _served(lane.served_s, priority)
        self._served_s[priority] = max(_served(self._served_s, priority), served_s)
        lane.served_s[priority] = served_s + batch.predicted_s
        return Decision(batch, tuple(found.late))

    def holds(self, entry: Entry) -> bool:
        """Whether an entry waits or runs: only then may others wait for it too."""
        return entry in self._held

    def split(self, batch: Batch, now: float) -> tuple[tuple[Batch, ...], list[Entry]]:
        """Cut a batch that failed in two, without what was cancelled; what is too late by now comes back apart."""
        lane = self._lanes[batch.model]
        wanted = [entry for entry in batch.entries if entry in self._held]
        late = [entry for entry in wanted if entry.deadline <= now]
        alive = [entry for entry in wanted if entry.deadline > now]
        self._held.difference_update(late)
        half = (len(alive) + 1) // 2
        return tuple(self._batch(lane, part, batch.device, now) for part in (alive[:half], alive[half:]) if part), late

    def finished(self, batch: Batch, report: Report, now: float) -> None:
        """Learn from a batch that ran."""
        del self._running[batch]
        lane = self._lanes[batch.model]
        if report.error is None or len(batch.entries) == 1:
            self._held.difference_update(batch.entries)
        lane.learn(batch, report, self._limits)

    def price_s(self, model: str, work: Shape) -> float:
        """Device seconds of so much work (unpadded) among much more like it: its part of full batches."""
        return self._lanes[model].price_s(work, self._limits)

    def in_flight_s(self) -> float:
        """Device seconds of all that waits and runs."""
        running_s = sum(batch.predicted_s for batch in self._running)
        return running_s + sum(lane.price_s(lane.waiting.load, self._limits) for lane in self._lanes.values())

    def cancel(self, entry: Entry) -> None:
        """Forget an entry; one that runs is not stopped, but not run again either."""
        self._held.discard(entry)
        waiting = self._lanes[entry.model].waiting
        if entry in waiting:
            waiting.remove(entry)

    def statistics(self, now: float) -> SchedulerStatistics:
        """Take a snapshot of what waits."""
        told: dict[str, LaneStatistics] = {}
        for model, lane in self._lanes.items():
            name = name_of(model)
            newer = lane.statistics(name, now)
            told[name] = newer.after(told[name]) if name in told else newer
        return SchedulerStatistics(tuple(told.values()))

    # Admission.

    def _is_idle(self) -> bool:
        """Whether a device is free for whatever comes."""
        taken = {batch.device for batch in self._running}
        return len(taken) < self._devices and not any(lane.waiting for lane in self._lanes.values())

    def _is_hopeless(self, lane: Lane, work: Shape, deadline: float, now: float) -> bool:
        """Whether work alone could not be in time even if the prediction is as much too high as it ever is."""
        return now + lane.cost.least_share() * lane.seconds(work, self._limits, self._devices) > deadline

    def _is_safe(self, lane: Lane, work: Work, alone_s: float, now: float) -> bool:
        """Whether work fits and is in time even behind all that waits: tells calm hours apart at little cost."""
        tokens, behind_s = work.shape.tokens, sum(self._free_s(now)) + alone_s + lane.cap_s(self._limits)
        for other in self._lanes.values():
            tokens += other.waiting.load.tokens
            behind_s += other.seconds(other.waiting.load, self._limits)
        return tokens <= self._limits.max_waiting_tokens and now + 2 * behind_s <= work.deadline

    def _ahead_s(self, lane: Lane, work: Work) -> float:
        """Device seconds of what waits and goes ahead of this work, if nobody else comes."""
        limits = self._limits
        ahead = lane.waiting.tokens_ahead(work.priority, work.caller, work.deadline, work.shape.tokens)
        own_s = lane.seconds(lane.share(ahead), limits)
        turns_s = own_s + lane.seconds(work.shape, limits)  # other models get at most as much meanwhile
        others = [other for other in self._lanes.values() if other is not lane]
        return own_s + sum(min(turns_s, other.seconds(other.waiting.load, limits)) for other in others)

    def _rounding_s(self, lane: Lane, wait_s: float) -> float:
        """Half a full batch, where more than one must be formed in order: an answer comes at the end of its batch."""
        full_s = lane.batch_s(lane.cap_tokens(self._limits), self._limits)
        return full_s / 2 if lane.packed and wait_s > full_s else 0.0

    def _next_batch_s(self, lane: Lane, work: Work) -> float:
        """How long the very next batch takes at the least: `decide` gives up what cannot wait for its end."""
        tokens = min(lane.waiting.load.tokens + work.shape.tokens, lane.cap_tokens(self._limits))
        return lane.batch_s(tokens, self._limits)

    def _free_s(self, now: float) -> list[float]:
        """After how many seconds each device has ended what it runs, soonest first."""
        taken: dict[str, float] = {}
        for batch, finish in self._running.items():
            taken[batch.device] = taken.get(batch.device, 0.0) + max(0.0, finish - now)
        return [0.0] * (self._devices - len(taken)) + sorted(taken.values())

    def _is_over_its_share(self, lane: Lane, work: Work) -> bool:
        """Whether a caller would hold more than its part of the queue: one that floods must not lock others out."""
        wanted = lane.waiting.tokens_of(work.caller) + work.shape.tokens
        return wanted > self._limits.max_waiting_tokens / (1 + lane.waiting.callers())

    # Forming a batch.

    def _turn(self, busy: Sequence[Lane]) -> tuple[int, Lane]:
        """The most urgent class of all that wait for any model, and whose turn it is among its models."""
        oldest: dict[int, float] = {}
        for lane in busy:
            for priority, arrived in lane.waiting.oldest_by_class().items():
                oldest[priority] = min(arrived, oldest.get(priority, arrived))
        priority = most_urgent_class(oldest)
        members = [lane for lane in busy if priority in lane.waiting.oldest_by_class()]
        return priority, min(members, key=lambda lane: (_served(lane.served_s, priority), lane.waiting.oldest))

    def _batch(self, lane: Lane, chosen: list[Entry], device: str, now: float) -> Batch:
        shape = lane.shape([entry.tokens for entry in chosen])
        batch = Batch(chosen[0].model, tuple(chosen), shape, lane.cost.seconds(shape), device)
        self._running[batch] = now + batch.predicted_s
        return batch


def _level(free_s: Sequence[float], work_s: float) -> float:
    """When the first device is free after work that goes to whichever frees first; `free_s`: now, soonest first."""
    return min((upto + work_s) / count for count, upto in enumerate(accumulate(free_s), 1))


def _served(seconds: Mapping[int, float], priority: int) -> float:
    return seconds.get(priority, 0.0)
