"""
When calls are due: at random, evenly or as a trace says, at a rate that may change. Pure: no clock.

Arrivals are drawn at one a unit, and a course of rates bends units into seconds: so every kind follows every course.
"""

import csv
import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import isfinite, sqrt
from typing import Final, Literal

Kind = Literal["poisson", "constant"]
KINDS: Final[tuple[Kind, ...]] = ("poisson", "constant")


class BadTrace(Exception):
    """A trace that cannot be replayed; the message says where and why."""


@dataclass(frozen=True, slots=True)
class Knot:
    """A rate at a moment; between two knots it changes evenly, and two knots at one moment are a jump."""

    at_s: float
    rate: float  # calls per second


def due(kind: Kind, course: Sequence[Knot], seed: int) -> Iterator[float]:
    """Yield the moments of a course, in seconds from its start, in order."""
    return _bent(_at_random(seed) if kind == "poisson" else _evenly(), course)


def expected(course: Sequence[Knot], until_s: float) -> float:
    """Say how many calls are due until a moment, on average."""
    total = 0.0
    for left, right in itertools.pairwise(course):
        width = min(until_s, right.at_s) - left.at_s
        if width > 0:
            total += width * (left.rate + _rate_at(left, right, left.at_s + width)) / 2
    return total


def read_trace(text: str) -> list[float]:
    """Read moments in seconds, one a line, from the first column; a heading is skipped. Raises BadTrace."""
    moments: list[float] = []
    for number, row in enumerate(csv.reader(text.splitlines()), start=1):
        try:
            moments += [float(row[0])] if row else []
        except ValueError:
            if number > 1:
                raise BadTrace(f"line {number}: {row[0]!r} is not a number of seconds") from None
    if not moments:
        raise BadTrace("has no moment in it")
    if not all(isfinite(moment) for moment in moments) or any(a > b for a, b in itertools.pairwise(moments)):
        raise BadTrace("its moments are not in order")
    return [moment - moments[0] for moment in moments]


def _at_random(seed: int) -> Iterator[float]:
    chance = random.Random(seed)
    return itertools.accumulate(chance.expovariate(1.0) for _ in itertools.count())


def _evenly() -> Iterator[float]:
    return itertools.count(0.5)


def _bent(units: Iterator[float], course: Sequence[Knot]) -> Iterator[float]:
    before, unit = 0.0, next(units)  # the calls due before this piece of the course
    for left, right in itertools.pairwise(course):
        after = before + (right.at_s - left.at_s) * (left.rate + right.rate) / 2
        while unit < after:
            yield left.at_s + _seconds(unit - before, left, right)
            unit = next(units)
        before = after


def _seconds(units: float, left: Knot, right: Knot) -> float:
    """How long into a piece it takes for so many units to be due: the root of rate x + slope x^2 / 2 = units."""
    if units <= 0.0:
        return 0.0
    width = right.at_s - left.at_s
    slope = (right.rate - left.rate) / width
    return min(width, 2 * units / (left.rate + sqrt(max(0.0, left.rate * left.rate + 2 * slope * units))))


def _rate_at(left: Knot, right: Knot, at_s: float) -> float:
    return left.rate + (right.rate - left.rate) * (at_s - left.at_s) / (right.at_s - left.at_s)
