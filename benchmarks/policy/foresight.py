"""
The reference: a scheduler that knows every arrival of the next 200 ms and how long each batch will really take,
and may refuse any text at any time. It answers to nobody: no fairness, no promise to what it let in.

Each time the device is free it plans what to answer at all, and then makes one batch of that. The plan is Moore and
Hodgson's (1968), which maximises the jobs in time on one machine: go through what waits and what will come, most
urgent first; whenever one would be late, drop the longest so far. A text counts as its share of a full batch, and
must be planned for some part of a full batch (`slack`) before its deadline, since it is answered at its batch's end.
The batch is then, of what is planned and has come,
    urgent      what fits the budget, the most urgent first;
    cheapest    all cut, sorted by length, into the batches that take the least time together; of them the one with the
                most urgent;
or, without a plan, of all that can still make it,
    shortest    what fits the budget, the shortest first.
None of these is the best for every traffic, so the reference is, for each traffic, the best of them all.
"""

import heapq
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from benchmarks.policy.arrivals import Traffic
from benchmarks.policy.curves import Curve
from benchmarks.policy.simulation import NEVER, Noise, simulate

_FORESIGHT_S: Final = 0.2
_SLACKS: Final = (0.5, 1.0)  # of a full batch

_Former = Callable[["_Foresight", Sequence[int], float], list[int]]


def best_goodput(traffic: Traffic, curve: Curve, seed: int) -> float:
    """Return what the best of the clairvoyant rules makes of this traffic."""
    rules: list[tuple[_Former, float]] = [(_shortest, NEVER)]
    rules += [(former, slack) for former in ((_urgent,) if curve.packed else (_cheapest_cut,)) for slack in _SLACKS]
    return max(_goodput(traffic, curve, seed, former, slack) for former, slack in rules)


def _goodput(traffic: Traffic, curve: Curve, seed: int, former: _Former, slack: float) -> float:
    noise = Noise(seed)
    return traffic.goodput(simulate(_Foresight(traffic, curve, noise, former, slack), traffic, curve, noise))


class _Foresight:
    """Implements Policy. Texts arrive in the order of their deadlines, so that order is their number's."""

    def __init__(self, traffic: Traffic, curve: Curve, noise: Noise, former: _Former, slack: float) -> None:
        self.traffic = traffic
        self.curve = curve
        self.noise = noise
        self._former = former
        full_s = curve.base_s + curve.token_s * curve.budget
        self._slack_s = min(slack * full_s, 0.5 * curve.target_s)
        self._plans = slack < NEVER
        share_s = curve.base_s / curve.budget + curve.token_s
        lengths = range(max(traffic.lengths, default=0) + 1)
        self._cost_s = [share_s * n + curve.square_s * n * n for n in lengths]
        self._alone_s = [curve.seconds(curve.shape([n])) for n in lengths]
        self._waiting: list[int] = []
        self._came = 0

    def arrive(self, text: int, now: float) -> None:
        self._waiting.append(text)
        self._came = text + 1

    def next(self, now: float) -> Sequence[int]:
        times, lengths, factor = self.traffic.times, self.traffic.lengths, self.noise.next
        since = now - self.traffic.target_s
        self._waiting = [text for text in self._waiting if since + self._alone_s[lengths[text]] * factor <= times[text]]
        planned = self._planned(now) if self._plans else self._waiting
        batch = self._former(self, planned, now) if planned else []
        gone = set(batch)
        self._waiting = [text for text in self._waiting if text not in gone]
        return batch

    def wake_at(self) -> float:
        return NEVER

    def finished(self, batch: Sequence[int], seconds: float, now: float) -> None:
        pass

    def took(self, batch: Sequence[int]) -> float:
        """Say how long a batch would really take now."""
        lengths = self.traffic.lengths
        return self.curve.seconds(self.curve.shape([lengths[text] for text in batch])) * self.noise.next

    def is_full(self, tokens: int, count: int, longest: int) -> bool:
        """Whether a batch of so much is over the budget."""
        return (tokens if self.curve.packed else count * longest) > self.curve.budget

    def _planned(self, now: float) -> list[int]:
        """Moore and Hodgson, with what will come; returns those that have."""
        times, lengths, target_s = self.traffic.times, self.traffic.lengths, self.traffic.target_s
        end = self._came
        while end < len(times) and times[end] <= now + _FORESIGHT_S:
            end += 1
        finish = now
        by_cost: list[tuple[float, int]] = []
        for text in [*self._waiting, *range(self._came, end)]:
            cost = self._cost_s[lengths[text]]
            finish = max(finish, times[text]) + cost
            heapq.heappush(by_cost, (-cost, text))
            if finish + self._slack_s > times[text] + target_s:
                finish += heapq.heappop(by_cost)[0]
        planned = sorted(text for _, text in by_cost if text < self._came)
        return planned or self._waiting  # a device that would idle may as well try


def _urgent(foresight: _Foresight, planned: Sequence[int], now: float) -> list[int]:
    return _in_time(foresight, planned, now)


def _shortest(foresight: _Foresight, planned: Sequence[int], now: float) -> list[int]:
    return _in_time(foresight, sorted(planned, key=foresight.traffic.lengths.__getitem__), now)


def _cheapest_cut(foresight: _Foresight, planned: Sequence[int], now: float) -> list[int]:
    """Cut in runs of neighbours in length, at least total time (TurboTransformers: Fang et al. 2021); run the first."""
    lengths = foresight.traffic.lengths
    ordered = sorted(planned, key=lengths.__getitem__)
    curve, count = foresight.curve, len(ordered)
    seconds = np.zeros(count + 1)  # of the first so many
    starts = np.arange(count + 1)
    cut = [0] * (count + 1)
    for end in range(1, count + 1):
        longest = lengths[ordered[end - 1]]
        low = max(0, end - max(1, curve.budget // longest))
        offers = seconds[low:end] + curve.token_s * longest * (end - starts[low:end])
        cut[end] = low + int(offers.argmin())
        seconds[end] = curve.base_s + offers[cut[end] - low]
    head = ordered.index(min(planned))
    end = count
    while cut[end] > head:
        end = cut[end]
    return _in_time(foresight, ordered[cut[end] : end], now)


def _in_time(foresight: _Foresight, wanted: Sequence[int], now: float) -> list[int]:
    """Fill a batch in this order, and again without those that it would answer too late."""
    traffic = foresight.traffic
    while True:
        batch: list[int] = []
        tokens = longest = 0
        for text in wanted:
            length = traffic.lengths[text]
            if batch and foresight.is_full(tokens + length, len(batch) + 1, max(longest, length)):
                continue
            batch.append(text)
            tokens, longest = tokens + length, max(longest, length)
        finish = now + foresight.took(batch)
        late = {text for text in batch if finish > traffic.deadline(text)}
        if not late or len(batch) == 1:
            return batch
        if len(late) == len(batch):
            return batch[: max(1, len(batch) // 2)]
        wanted = [text for text in wanted if text not in late]
