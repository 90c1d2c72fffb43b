"""How the offered rate changes over a run, and which parts of it are judged on their own."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from loadtests.arrivals import Knot

_HOURS: Final = (
    0.25, 0.18, 0.14, 0.12, 0.12, 0.16, 0.28, 0.48, 0.72, 0.90, 0.97, 0.95,
    0.88, 0.93, 1.00, 0.98, 0.94, 0.86, 0.74, 0.66, 0.60, 0.52, 0.42, 0.33,
)  # fmt: skip
_STEPS: Final = 10
_SETTLING: Final = 0.2  # of each step, until the queue is that of its own rate


@dataclass(frozen=True, slots=True)
class Shape:
    """
    Both by shares of the run. `points`: (when, share of the rate), joined by lines. `periods`: name -> (from, to).

    Before it comes the warm-up, at the first share of the rate; it is not judged.
    """

    points: Sequence[tuple[float, float]]
    periods: Mapping[str, tuple[float, float]]

    def course(self, rate: float, warm_up_s: float, duration_s: float) -> list[Knot]:
        """Say the rate over the whole run, the warm-up included."""
        warm = [Knot(0.0, rate * self.points[0][1])] if warm_up_s else []
        return warm + [Knot(warm_up_s + duration_s * at, rate * share) for at, share in self.points]

    def period(self, share: float) -> str | None:
        """Name the period that a moment is in, given as a share of the run."""
        return next((name for name, (start, end) in self.periods.items() if start <= share < end), None)


def _steps() -> Shape:
    points = [(at / _STEPS, (step + 1) / _STEPS) for step in range(_STEPS) for at in (step, step + 1)]
    periods = {
        f"{100 * (step + 1) // _STEPS} %": ((step + _SETTLING) / _STEPS, (step + 1) / _STEPS) for step in range(_STEPS)
    }
    return Shape(points, periods)


def _tenths(name: str, points: Sequence[tuple[float, float]]) -> Shape:
    return Shape(points, {f"{name} {part + 1}": (part / 10, (part + 1) / 10) for part in range(10)})


def _day() -> Shape:
    hours = len(_HOURS)
    points = [(hour / hours, _HOURS[hour % hours]) for hour in range(hours + 1)]
    return Shape(points, {f"{hour:02}:00": (hour / hours, (hour + 1) / hours) for hour in range(hours)})


SHAPES: Final[Mapping[str, Shape]] = {
    "steady": Shape(((0.0, 1.0), (1.0, 1.0)), {"steady": (0.0, 1.0)}),
    "soak": _tenths("tenth", ((0.0, 1.0), (1.0, 1.0))),
    "step": _steps(),
    "ramp": _tenths("tenth", ((0.0, 0.1), (1.0, 1.0))),
    "spike": Shape(
        ((0.0, 0.2), (0.4, 0.2), (0.4, 1.0), (0.6, 1.0), (0.6, 0.2), (1.0, 0.2)),
        {"before": (0.0, 0.4), "spike": (0.4, 0.6), "after": (0.6, 1.0)},
    ),
    "day": _day(),
}
