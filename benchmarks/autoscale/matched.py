"""
Another metric at the GPU-hours that the demand ratio spent: its target is found by bisection.

Hours jump from one target to the next (a replica more or less), so that the share inside the target is interpolated
between the two targets around. Where hours do not fall as a target rises (a fleet that flaps), each crossing is
tried, and the best counts: the doubt is the other metric's gain.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

_HALVINGS: Final = 6


@dataclass(frozen=True, slots=True)
class Spent:
    """What a target cost, and what came of it."""

    target: float
    gpu_hours: float
    inside: float
    turns: int


def matched(spend: Callable[[float], Spent], targets: Sequence[float], gpu_hours: float) -> Spent:
    """The most inside at just so many GPU-hours; at the nearest there are where no target spends so little or much."""
    tried = [spend(target) for target in sorted(targets)]
    pairs = [
        _narrowed(spend, low, high, gpu_hours)
        for low, high in itertools.pairwise(tried)
        if min(low.gpu_hours, high.gpu_hours) <= gpu_hours <= max(low.gpu_hours, high.gpu_hours)
    ]
    found = [_between(low, high, gpu_hours) for low, high in pairs]
    nearest = min(tried, key=lambda one: (abs(one.gpu_hours - gpu_hours), -one.inside))
    return max(found, key=lambda one: one.inside, default=nearest)


def _narrowed(spend: Callable[[float], Spent], low: Spent, high: Spent, gpu_hours: float) -> tuple[Spent, Spent]:
    """Halve the way between two targets on either side of the hours, as factors."""
    for _ in range(_HALVINGS):
        if low.gpu_hours == high.gpu_hours:
            break
        middle = spend(math.sqrt(low.target * high.target))
        if (middle.gpu_hours > gpu_hours) == (low.gpu_hours > gpu_hours):
            low = middle
        else:
            high = middle
    return low, high


def _between(low: Spent, high: Spent, gpu_hours: float) -> Spent:
    if low.gpu_hours == high.gpu_hours:
        return max(low, high, key=lambda one: one.inside)
    share = (gpu_hours - low.gpu_hours) / (high.gpu_hours - low.gpu_hours)
    inside = low.inside + share * (high.inside - low.inside)
    nearer = high if share > 0.5 else low
    return Spent(nearer.target, gpu_hours, inside, nearer.turns)
