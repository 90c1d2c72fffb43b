"""
What became of the calls of a run, counted: by route, caller and period, and in slices for pictures.

Latencies are kept in HDR histograms, in whole microseconds: three figures of every value up to an hour.
"""

from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from math import ceil
from typing import Any, Final, Literal, TypeVar

from hdrh.histogram import HdrHistogram

_MOST_US: Final = 3_600_000_000
_FIGURES: Final = 3

Which = TypeVar("Which")
Fate = Literal["answered", "shed", "failed"]


class Latencies:
    """A histogram of seconds."""

    def __init__(self, encoded: bytes | None = None) -> None:
        self._histogram: Any = HdrHistogram(1, _MOST_US, _FIGURES)
        if encoded is not None:
            self._histogram.decode_and_add(encoded)

    @property
    def count(self) -> int:
        """How many values."""
        return int(self._histogram.get_total_count())

    def add(self, seconds: float) -> None:
        """Count a value; what is longer than an hour counts as one."""
        self._histogram.record_value(min(_MOST_US, max(0, round(1e6 * seconds))))

    def merge(self, other: "Latencies") -> None:
        """Count all that the other has."""
        self._histogram.add(other._histogram)  # noqa: SLF001 - of the same class

    def percentile_s(self, percentile: float) -> float:
        """Return the value that so many percent do not pass; infinite where there is none."""
        return self.percentiles_s([percentile])[0]

    def percentiles_s(self, percentiles: Sequence[float]) -> list[float]:
        """Return several, in rising order, at the cost of one."""
        values, left = [], self._recorded()
        value, seen = float("inf"), 0
        for percentile in percentiles:
            wanted = max(1, ceil(percentile * self.count / 100 - 1e-9))
            while seen < wanted and left:
                value_us, count = left.popleft()
                value, seen = value_us / 1e6, seen + count
            values.append(value)
        return values

    def within(self, seconds: float) -> int:
        """Count the values up to this one."""
        limit = self._histogram.get_highest_equivalent_value(round(1e6 * seconds))
        return sum(count for value_us, count in self._recorded() if value_us <= limit)

    def encode(self) -> bytes:
        """Write it as HDR histograms are exchanged."""
        return bytes(self._histogram.encode())

    def _recorded(self) -> deque[tuple[int, int]]:
        """Values in microseconds, the highest of their bucket, with counts: its own iterators take 40 ms a pass."""
        told = self._histogram
        filled = [(index, count) for index, count in enumerate(told.counts) if count]
        return deque(
            (told.get_highest_equivalent_value(told.get_value_from_index(index)), count) for index, count in filled
        )


@dataclass(slots=True)
class Tally:
    """What became of some calls. Latency is from the intended moment, lag from there to the sending."""

    latency: Latencies = field(default_factory=Latencies)  # of answers
    lag: Latencies = field(default_factory=Latencies)  # of all that were sent
    failed: Counter[str] = field(default_factory=Counter)  # by reason
    shed: int = 0  # the server said: not now
    due: int = 0  # by the plan, whatever became of them
    dropped: int = 0  # this generator could not send them

    @property
    def lost(self) -> int:
        """Calls of which nothing is known: a mistake of the generator's."""
        return self.due - self.latency.count - self.failed.total() - self.shed - self.dropped

    def add(self, fate: Fate, latency_s: float, lag_s: float, reason: str) -> None:
        """Count a call that was sent."""
        self.lag.add(lag_s)
        if fate == "answered":
            self.latency.add(latency_s)
        elif fate == "shed":
            self.shed += 1
        else:
            self.failed[reason] += 1

    def merge(self, other: "Tally") -> None:
        """Count all that the other has."""
        self.latency.merge(other.latency)
        self.lag.merge(other.lag)
        self.failed.update(other.failed)
        self.shed += other.shed
        self.due += other.due
        self.dropped += other.dropped


@dataclass(frozen=True, slots=True, order=True)
class Key:
    """Which calls."""

    route: str
    caller: str
    period: str


@dataclass(slots=True)
class Record:
    """All that one process saw, or several together. `shares` says how many shares of the plan are in it."""

    tallies: dict[Key, Tally] = field(default_factory=dict)
    slices: dict[int, Tally] = field(default_factory=dict)
    shares: int = 0

    def places(self, key: Key | None, number: int) -> Iterable[Tally]:
        """Where a call of this key and slice is counted; without a key, in its slice alone."""
        yield _entry(self.slices, number)
        if key is not None:
            yield _entry(self.tallies, key)

    def merge(self, other: "Record") -> None:
        """Count all that the other has."""
        for key, tally in other.tallies.items():
            _entry(self.tallies, key).merge(tally)
        for number, tally in other.slices.items():
            _entry(self.slices, number).merge(tally)
        self.shares += other.shares

    def total(self, *, route: str | None = None, period: str | None = None, caller: str | None = None) -> Tally:
        """Add up the tallies that fit what is given."""
        wanted = Tally()
        for key, tally in self.tallies.items():
            if route in (None, key.route) and period in (None, key.period) and caller in (None, key.caller):
                wanted.merge(tally)
        return wanted

    def plain(self) -> dict[str, Any]:
        """Write it as numbers, bytes, lists and dicts, for another process."""
        return {
            "tallies": [
                [key.route, key.caller, key.period, _plain(tally)] for key, tally in sorted(self.tallies.items())
            ],
            "slices": [[number, _plain(tally)] for number, tally in sorted(self.slices.items())],
            "shares": self.shares,
        }


def from_plain(plain: dict[str, Any]) -> Record:
    """Read what `plain` wrote."""
    tallies = {Key(route, caller, period): _tally(rest) for route, caller, period, rest in plain["tallies"]}
    return Record(tallies, {number: _tally(rest) for number, rest in plain["slices"]}, plain["shares"])


def _entry(tallies: dict[Which, Tally], which: Which) -> Tally:
    """Find a tally, or make it: not `setdefault`, which would make one each time, and histograms are slow to make."""
    found = tallies.get(which)
    if found is None:
        found = tallies[which] = Tally()
    return found


def _plain(tally: Tally) -> list[Any]:
    return [tally.latency.encode(), tally.lag.encode(), dict(tally.failed), tally.shed, tally.due, tally.dropped]


def _tally(plain: list[Any]) -> Tally:
    latency, lag, failed, shed, due, dropped = plain
    return Tally(Latencies(latency), Latencies(lag), Counter(failed), shed, due, dropped)
