"""
A fleet of simulated replicas under an autoscaler: what callers see and what it costs. All of it is simulated.

A second at a time, as a fluid: what a replica cannot do in its second waits, in order, for the next. Below its
capacity, queue and latency are those of a batching device in a steady state, simulated batch by batch beforehand.
"""

import itertools
import math
import random
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final, Protocol

from gateway.hpa import Autoscaler, Hpa, Seen
from inference import DemandMeter

_LOADS: Final = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.93, 0.96, 0.99)
_BATCHES: Final = 4000  # simulated for each of these loads
_LEAD_IN_S: Final = 600  # at the first rate, not counted: every metric finds its own number of replicas


@dataclass(frozen=True, slots=True)
class Steady:
    """A replica in a steady state: shares of time, means over time, and answers inside the target."""

    duty: float
    waiting: float  # texts
    in_flight: float  # texts, those that run included
    inside: float


@dataclass(frozen=True)
class Replica:
    """What one replica can do: a batch of n texts takes base_s + n * text_s; at most `most` run together."""

    base_s: float
    text_s: float
    most: int
    target_s: float
    timeout_s: float  # callers wait so long; a text that would wait longer is refused

    @cached_property
    def capacity(self) -> float:
        """Texts a second in full batches."""
        return self.most / self.full_s

    @property
    def full_s(self) -> float:
        """Seconds of a full batch."""
        return self.base_s + self.most * self.text_s

    def steady(self, load: float) -> Steady:
        """Its steady state at a share of its capacity below 1."""
        right = min(max(1, bisect_left(_LOADS, load)), len(_LOADS) - 1)
        low, high = self._states[right - 1], self._states[right]
        share = min(1.0, (load - _LOADS[right - 1]) / (_LOADS[right] - _LOADS[right - 1]))
        pairs = ((low.duty, high.duty), (low.waiting, high.waiting), (low.in_flight, high.in_flight))
        duty, waiting, in_flight = (a + share * (b - a) for a, b in pairs)
        return Steady(duty, waiting, in_flight, low.inside + share * (high.inside - low.inside))

    @cached_property
    def _states(self) -> list[Steady]:
        idle = Steady(0.0, 0.0, 0.0, float(self.base_s + self.text_s <= self.target_s))
        return [idle, *(_steady(self, load) for load in _LOADS[1:])]


def _steady(replica: Replica, load: float) -> Steady:
    """Run batches that take whatever waits; arrivals are Poisson, and even inside a batch's time."""
    chance = random.Random(0)
    rate = load * replica.capacity
    waiting: deque[tuple[float, float, int]] = deque()  # arrived from, to, texts
    now = busy_s = waited_s = 0.0
    count = inside = answered = 0.0
    for _ in range(_BATCHES):
        if not waiting:
            now += chance.expovariate(rate)
            waiting.append((now, now, 1))
            count = 1
        size = min(replica.most, int(count))
        took_s = replica.base_s + size * replica.text_s
        left = size
        while left:
            start, end, texts = waiting.popleft()
            part = min(left, texts)
            cut = start + (end - start) * part / texts
            if part < texts:
                waiting.appendleft((cut, end, texts - part))
            inside += part * _share_after(now + took_s - replica.target_s, start, cut)
            waited_s += part * (now - (start + cut) / 2)
            left -= part
        arrived = _poisson(chance, rate * took_s)
        if arrived:
            waiting.append((now, now + took_s, arrived))
        count += arrived - size
        answered += size
        busy_s += took_s
        now += took_s
    mean_waiting = waited_s / now
    return Steady(busy_s / now, mean_waiting, mean_waiting + answered / _BATCHES * busy_s / now, inside / answered)


def _share_after(moment: float, start: float, end: float) -> float:
    """Which part of an interval lies after a moment."""
    if end <= start:
        return float(start >= moment)
    return min(1.0, max(0.0, (end - moment) / (end - start)))


def _poisson(chance: random.Random, mean: float) -> int:
    """A Poisson number; a large one as a rounded normal."""
    if mean > 50.0:  # noqa: PLR2004
        return max(0, round(chance.gauss(mean, math.sqrt(mean))))
    count, left = 0, chance.expovariate(1.0)
    while left < mean:
        count += 1
        left += chance.expovariate(1.0)
    return count


@dataclass(frozen=True, slots=True)
class Second:
    """What one pod saw in one second; texts."""

    end: float
    offered: float
    served: float
    waiting: float
    in_flight: float
    duty: float


class Gauge(Protocol):
    """A metric of one pod."""

    def see(self, second: Second) -> None:
        """Take in one second."""

    def read(self, now: float) -> float:
        """What a scrape reads."""


class DemandGauge:
    """The product's own metric: its meter, fed by the second."""

    def __init__(self, replica: Replica, *, window_s: float | None = None) -> None:
        """Begin at nothing, as a replica does that has become ready."""
        window = {} if window_s is None else {"window_s": window_s}
        self._meter = DemandMeter(1, replica.target_s, **window)
        self._price_s = 1.0 / replica.capacity

    def see(self, second: Second) -> None:
        """Hold what was here in this second, and count what was offered in it as if all of it came at its middle."""
        self._meter.hold(second.in_flight * self._price_s, second.end - 1.0)
        self._meter.offer(1, second.offered * self._price_s, second.end - 0.5)

    def read(self, now: float) -> float:
        """The demand ratio."""
        return self._meter.read(now).ratio


@dataclass(frozen=True, slots=True)
class Scaling:
    """How a fleet is scaled: by which autoscaler on which metric, how late, and on how many GPUs."""

    hpa: Hpa
    gauge: Callable[[Replica], Gauge]
    start_s: float  # from a pod's creation to its first call
    gpus: int = 1000  # pods beyond stay pending, and cost nothing
    scrape_s: int = 15


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a trace."""

    inside: float  # share of texts answered inside the target
    gpu_hours: float
    turns: int  # changes of direction
    replicas: Sequence[int]  # by second

    @property
    def most(self) -> int:
        """The most replicas there were."""
        return max(self.replicas)


@dataclass(slots=True, eq=False)
class _Pod:
    gauge: Gauge
    ready_at: float
    backlog: float = 0.0  # texts beyond what a steady state holds

    def serve(self, replica: Replica, rate: float, noise: float, end: float) -> float:
        """Live through one second; returns how many texts were answered inside the target."""
        before, capacity = self.backlog, replica.capacity
        excess = max(0.0, before + rate - capacity)
        self.backlog = min(excess, capacity * replica.timeout_s)
        served = min(capacity, before + rate)
        steady = replica.steady(served / capacity)
        late = self.backlog + before > 0.0
        in_flight = self.backlog + replica.most if late else steady.in_flight
        waiting = self.backlog if late else steady.waiting
        self.gauge.see(Second(end, max(0.0, rate + noise), served, waiting, in_flight, 1.0 if late else steady.duty))
        if not late:
            return rate * steady.inside
        in_time = _share_after(-(replica.target_s - replica.full_s), -self.backlog / capacity, -before / capacity)
        if before > self.backlog:
            in_time = _share_after(-(replica.target_s - replica.full_s), -before / capacity, -self.backlog / capacity)
        return (rate - (excess - self.backlog)) * in_time


@dataclass(slots=True)
class _Fleet:
    replica: Replica
    scaling: Scaling
    pods: list[_Pod] = field(default_factory=list)

    def resize(self, count: int, now: float) -> None:
        """Add pods that will start, or remove those that start and then the youngest."""
        self.pods.sort(key=lambda pod: pod.ready_at)
        for _ in range(count - len(self.pods)):
            late_s = self.scaling.start_s if len(self.pods) < self.scaling.gpus else math.inf
            self.pods.append(_Pod(self.scaling.gauge(self.replica), now + late_s))
        del self.pods[count:]
        for pod in self.pods[: self.scaling.gpus]:
            if pod.ready_at == math.inf:
                pod.ready_at = now + self.scaling.start_s


def simulate(replica: Replica, rates: Sequence[float], scaling: Scaling, first: int, *, seed: int = 0) -> Outcome:
    """Scale from `first` ready replicas through a trace of texts a second, one rate a second."""
    chance = random.Random(seed)
    autoscaler = Autoscaler(scaling.hpa)
    fleet = _Fleet(replica, scaling)
    fleet.resize(first, -_LEAD_IN_S - scaling.start_s)
    scraped: dict[_Pod, float] = {}
    inside = texts = pod_s = 0.0
    history: list[int] = []
    for second in range(-_LEAD_IN_S, len(rates)):
        rate = rates[max(0, second)]
        ready = [pod for pod in fleet.pods if pod.ready_at <= second]
        good = 0.0
        for pod in ready:
            share = rate / len(ready)
            good += pod.serve(replica, share, chance.gauss(0.0, math.sqrt(share)), second + 1)
        if second >= 0:
            inside, texts, pod_s = inside + good, texts + rate, pod_s + min(len(fleet.pods), scaling.gpus)
            history.append(len(fleet.pods))
        if second % scaling.scrape_s == 0:
            scraped = {pod: pod.gauge.read(second + 1) for pod in ready}
        if second % scaling.hpa.sync_s == scaling.hpa.sync_s // 2:  # as far from the scrape as on average
            seen = _seen(fleet, scraped, second)
            fleet.resize(autoscaler.desired(seen, second), second)
    return Outcome(inside / texts, pod_s / 3600, _turns(history), history)


def _seen(fleet: _Fleet, scraped: dict[_Pod, float], now: float) -> Seen:
    pending = sum(pod.ready_at > now for pod in fleet.pods)
    return Seen(len(fleet.pods), pending, [scraped[pod] for pod in fleet.pods if pod in scraped])


def foresight_gpu_hours(replica: Replica, rates: Sequence[float], target: float) -> float:
    """What it costs to have, in every second, just the replicas that the target asks for."""
    return sum(max(1, math.ceil(rate / replica.capacity / target - 1e-9)) for rate in rates) / 3600


def _turns(history: Sequence[int]) -> int:
    steps = [b - a for a, b in itertools.pairwise(history) if a != b]
    return sum((a > 0) != (b > 0) for a, b in itertools.pairwise(steps))
