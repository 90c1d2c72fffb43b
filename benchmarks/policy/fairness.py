"""A light caller beside one that floods, through the product's own scheduler on the simulated clock."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from benchmarks.policy.arrivals import Traffic, text_lengths
from benchmarks.policy.curves import Curve
from benchmarks.policy.product import Product, limits_of
from benchmarks.policy.simulation import NEVER, Noise, simulate

_GAP_S: Final = 0.05  # between two texts of the light caller, and no less than a tenth of the capacity allows:
_LIGHT: Final = 0.1  # who asks for more than that of a slow device is not light
_FLOOD_CALL: Final = 512  # texts in a call of the flood
_FLOOD: Final = 1_000_000
_CALLS: Final = 600  # of the light caller; the flood lasts as long as that takes
_TIMEOUT_S: Final = 30.0  # of a call that asks for no other, the product's default


@dataclass(frozen=True, slots=True)
class Fairness:
    """What the light caller saw; a refused or unanswered text took for ever."""

    alone_p99_s: float
    beside_p99_s: float
    cap_s: float
    flood_texts: int  # answered meanwhile


def fairness(curve: Curve, seed: int) -> Fairness:
    """Let one caller send a text now and then, alone and beside a flood of a million texts in calls of 512."""
    gap_s = max(_GAP_S, 1 / (_LIGHT * curve.capacity))
    times = [gap_s * number for number in range(_CALLS)]
    lengths = text_lengths(_CALLS + _FLOOD, seed)
    traffic = Traffic(times, lengths, 0.0, _CALLS * gap_s, _TIMEOUT_S)
    alone = simulate(Product(traffic, curve, seed), traffic, curve, Noise(seed))
    flooded = _Flooded(traffic, curve, seed)
    beside = simulate(flooded, traffic, curve, Noise(seed))
    answered = sum(finish < NEVER for finish in beside[_CALLS:])
    return Fairness(_p99(times, alone), _p99(times, beside), limits_of(curve).max_batch_s, answered)


class _Flooded:
    """The product while a second caller offers its next calls after every batch: implements Policy."""

    def __init__(self, traffic: Traffic, curve: Curve, seed: int) -> None:
        self._product = Product(traffic, curve, seed)
        self._timeout_s = traffic.target_s
        self._next, self._end = len(traffic.times), len(traffic.lengths)

    def arrive(self, text: int, now: float) -> None:
        if text == 0:
            self._flood(now)
        self._product.offer([text], now, now + self._timeout_s, "light")

    def next(self, now: float) -> Sequence[int]:
        return self._product.next(now)

    def wake_at(self) -> float:
        return self._product.wake_at()

    def finished(self, batch: Sequence[int], seconds: float, now: float) -> None:
        self._product.finished(batch, seconds, now)
        self._flood(now)

    def _flood(self, now: float) -> None:
        while self._next < self._end:
            call = range(self._next, min(self._next + _FLOOD_CALL, self._end))
            if self._product.offer(call, now, now + self._timeout_s, "flood") is not None:
                return
            self._next = call.stop


def _p99(times: Sequence[float], finished: Sequence[float]) -> float:
    waits = [finish - arrived for arrived, finish in zip(times, finished, strict=False)]
    return float(np.percentile(waits, 99, method="higher"))
