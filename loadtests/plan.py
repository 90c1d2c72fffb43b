"""What one run offers: which moments, for how long, and to which period a moment belongs. Pure."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from loadtests.arrivals import Kind, due, expected
from loadtests.shapes import Shape

_SLICES = 60


@dataclass(frozen=True, slots=True)
class Plan:
    """
    A run, the same for every process that takes part: each takes every n-th moment.

    `rate` is in calls per second, the highest of the shape; with `trace` (moments in seconds) neither has a say.
    """

    rate: float
    duration_s: float  # judged, after the warm-up
    warm_up_s: float
    shape: Shape
    kind: Kind = "poisson"
    seed: int = 0
    trace: Sequence[float] = ()

    @property
    def whole_s(self) -> float:
        """The warm-up and what comes after it."""
        return self.warm_up_s + self.duration_s

    def moments(self, share: int = 0, shares: int = 1) -> Iterator[float]:
        """Yield the moments of one of so many equal shares, in seconds from the start."""
        return itertools.islice(self._all_moments(), share, None, shares)

    def _all_moments(self) -> Iterator[float]:
        if self.trace:
            return itertools.takewhile(lambda moment: moment < self.whole_s, self.trace)
        return due(self.kind, self.shape.course(self.rate, self.warm_up_s, self.duration_s), self.seed)

    def period(self, moment: float) -> str | None:
        """Name the period that is judged with this moment; None in the warm-up and between periods."""
        return self.shape.period((moment - self.warm_up_s) / self.duration_s)

    def slice(self, moment: float) -> int:
        """Number the sixtieth of the run that a moment is in."""
        return min(_SLICES - 1, int(_SLICES * moment / self.whole_s))

    def slice_s(self, number: int) -> tuple[float, float]:
        """Say from when to when a slice goes."""
        return number * self.whole_s / _SLICES, (number + 1) * self.whole_s / _SLICES

    def offered(self, period: str) -> float:
        """Calls per second in a period, on average."""
        start, end = self.seconds(period)
        if self.trace:
            return sum(1 for moment in self.trace if start <= moment < end) / (end - start)
        course = self.shape.course(self.rate, self.warm_up_s, self.duration_s)
        return (expected(course, end) - expected(course, start)) / (end - start)

    def seconds(self, period: str) -> tuple[float, float]:
        """Say from when to when a period goes."""
        start, end = self.shape.periods[period]
        return self.warm_up_s + start * self.duration_s, self.warm_up_s + end * self.duration_s
