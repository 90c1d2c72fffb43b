"""
How many replicas Kubernetes' HorizontalPodAutoscaler (autoscaling/v2) would want: its arithmetic, step by step.

Pure: what it sees and the time are arguments. Quantities are in thousandths, as in the API. The steps are those of
the controller's replica calculator and of its stabilisation and rate limits; it asks every `sync_s` seconds.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Policy:
    """How many replicas may be added or removed in a period: so many, or so many percent."""

    kind: Literal["pods", "percent"]
    value: int
    period_s: float


@dataclass(frozen=True, slots=True)
class Rules:
    """One direction of `behavior`: the policies, which of them counts, and how long a recommendation must hold."""

    policies: tuple[Policy, ...]
    window_s: float
    select: Literal["max", "min", "disabled"] = "max"
    tolerance: float = 0.1


UP = Rules((Policy("percent", 100, 15.0), Policy("pods", 4, 15.0)), window_s=0.0)
DOWN = Rules((Policy("percent", 100, 15.0),), window_s=300.0)


@dataclass(frozen=True, slots=True)
class Hpa:
    """One autoscaler. `external` divides the metric's sum by the target (AverageValue), `pods` averages over pods."""

    metric: Literal["external", "pods"]
    target: float  # of the metric, a pod
    least: int = 1
    most: int = 100
    up: Rules = UP
    down: Rules = DOWN
    sync_s: float = 15.0


@dataclass(frozen=True, slots=True)
class Seen:
    """What it sees: the replicas there are, how many of them still start, and the readings that were scraped."""

    replicas: int
    pending: int
    readings: Sequence[float]

    @property
    def missing(self) -> int:
        """Pods that run and were not scraped."""
        return max(0, self.replicas - self.pending - len(self.readings))


@dataclass(frozen=True, slots=True)
class _Event:
    moment: float
    replicas: int


class Autoscaler:
    """An HPA with its memory: past recommendations and past changes."""

    def __init__(self, hpa: Hpa) -> None:
        """Begin without a past."""
        self._hpa = hpa
        self._wanted: list[_Event] = []
        self._added: list[_Event] = []
        self._removed: list[_Event] = []

    def desired(self, seen: Seen, now: float) -> int:
        """How many replicas there should be from now on."""
        hpa, current = self._hpa, seen.replicas
        if not self._wanted:
            self._wanted.append(_Event(now, current))
        if not hpa.least <= current <= hpa.most:
            chosen = min(max(current, hpa.least), hpa.most)
        elif not seen.readings:
            return current
        else:
            proposed = external(hpa, seen) if hpa.metric == "external" else pods(hpa, seen)
            chosen = self._limited(self._stabilised(proposed, current, now), current, now)
        if chosen > current:
            self._added.append(_Event(now, chosen - current))
        if chosen < current:
            self._removed.append(_Event(now, current - chosen))
        return chosen

    def _stabilised(self, proposed: int, current: int, now: float) -> int:
        """Up by no more than the least that was wanted in its window, down by no more than the most in its."""
        up, down = self._hpa.up.window_s, self._hpa.down.window_s
        highest = min([proposed, *(past.replicas for past in self._wanted if past.moment > now - up)])
        lowest = max([proposed, *(past.replicas for past in self._wanted if past.moment > now - down)])
        self._wanted = [past for past in self._wanted if past.moment >= now - max(up, down)]
        self._wanted.append(_Event(now, proposed))
        return min(max(current, highest), lowest)

    def _limited(self, wanted: int, current: int, now: float) -> int:
        """What the policies let through, between the least and the most."""
        if wanted > current:
            return min(wanted, self._hpa.most, max(current, self._highest(current, now)))
        if wanted < current:
            return max(wanted, self._hpa.least, min(current, self._lowest(current, now)))
        return wanted

    def _highest(self, current: int, now: float) -> int:
        if self._hpa.up.select == "disabled":
            return current
        allowed = [_raised(policy, self._before(policy, current, now)) for policy in self._hpa.up.policies]
        return max(allowed) if self._hpa.up.select == "max" else min(allowed)

    def _lowest(self, current: int, now: float) -> int:
        if self._hpa.down.select == "disabled":
            return current
        allowed = [_lowered(policy, self._before(policy, current, now)) for policy in self._hpa.down.policies]
        return min(allowed) if self._hpa.down.select == "max" else max(allowed)

    def _before(self, policy: Policy, current: int, now: float) -> int:
        """How many replicas there were when the policy's period began."""
        since = now - policy.period_s
        added = sum(change.replicas for change in self._added if change.moment > since)
        removed = sum(change.replicas for change in self._removed if change.moment > since)
        return current - added + removed


def external(hpa: Hpa, seen: Seen) -> int:
    """Of a metric that belongs to no pod, as AverageValue: the sum over the target, whatever starts."""
    total, target = sum(map(_milli, seen.readings)), _milli(hpa.target)
    if seen.replicas and _is_within(hpa, total / (target * seen.replicas)):
        return seen.replicas
    return math.ceil(total / target)


def pods(hpa: Hpa, seen: Seen) -> int:
    """Of a metric of each pod: the mean, where those without one are taken for whatever changes least."""
    values, target = [_milli(value) for value in seen.readings], _milli(hpa.target)
    ratio = _ratio(values, target)
    dampened = seen.pending > 0 and ratio > 1.0
    if not dampened and seen.missing == 0:
        return seen.replicas if _is_within(hpa, ratio) else math.ceil(ratio * len(values))
    values += [target if ratio < 1.0 else 0] * seen.missing + [0] * (seen.pending if dampened else 0)
    cautious = _ratio(values, target)
    if _is_within(hpa, cautious) or (ratio < 1.0 < cautious) or (cautious < 1.0 < ratio):
        return seen.replicas
    proposed = math.ceil(cautious * len(values))
    turned = (cautious < 1.0 and proposed > seen.replicas) or (cautious > 1.0 and proposed < seen.replicas)
    return seen.replicas if turned else proposed


def _ratio(values: Sequence[int], target: int) -> float:
    return sum(values) // len(values) / target  # the controller divides whole numbers


def _is_within(hpa: Hpa, ratio: float) -> bool:
    return 1.0 - hpa.down.tolerance <= ratio <= 1.0 + hpa.up.tolerance


def _milli(value: float) -> int:
    """Thousandths, rounded up; what binary fractions add at the end is no thousandth."""
    return math.ceil(round(value * 1000, 6))


def _raised(policy: Policy, before: int) -> int:
    if policy.kind == "pods":
        return before + policy.value
    return math.ceil(before * (100 + policy.value) / 100)


def _lowered(policy: Policy, before: int) -> int:
    if policy.kind == "pods":
        return before - policy.value
    return before * (100 - policy.value) // 100
