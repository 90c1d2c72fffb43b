"""When texts arrive, and how long they are."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

Moments = npt.NDArray[np.float64]

_MEDIAN_TOKENS: Final = 60
_SIGMA: Final = 0.9
_SHORTEST, _LONGEST = 8, 512
_BURST_S: Final = 1.0
_CALM_S: Final = 9.0
_BURST_FACTOR: Final = 10.0
_TAIL: Final = 1.5  # Pareto's alpha: the gaps have a mean, but no variance


@dataclass(frozen=True, slots=True)
class Traffic:
    """Texts by number, in the order in which they arrive; those before `settled_s` are not counted."""

    times: list[float]  # seconds
    lengths: list[int]  # tokens
    settled_s: float
    end_s: float
    target_s: float

    def deadline(self, text: int) -> float:
        """When an answer is worth nothing."""
        return self.times[text] + self.target_s

    def goodput(self, finished: list[float]) -> float:
        """Answers inside their deadline a second, given when each text was answered."""
        good = sum(
            finish <= arrived + self.target_s
            for arrived, finish in zip(self.times, finished, strict=True)
            if arrived >= self.settled_s
        )
        return good / (self.end_s - self.settled_s)


def text_lengths(count: int, seed: int) -> list[int]:
    """Log-normal, as questions and paragraphs are: median 60 tokens, mean 87."""
    drawn = np.random.default_rng([seed, 1]).lognormal(math.log(_MEDIAN_TOKENS), _SIGMA, count)
    lengths: list[int] = np.clip(drawn, _SHORTEST, _LONGEST).astype(int).tolist()
    return lengths


def poisson(rate: float, end_s: float, chance: np.random.Generator) -> Moments:
    """Arrive independently."""
    return np.sort(chance.uniform(0.0, end_s, chance.poisson(rate * end_s)))


def bursty(rate: float, end_s: float, chance: np.random.Generator) -> Moments:
    """
    Arrive at a rate that two states modulate: 10 times the calm one for 1 s in 10, both exponential in length.

    The lengths are scaled to a tenth of the whole, so that a short draw has its bursts and its mean rate too.
    """
    bursts = max(1, round(end_s / (_BURST_S + _CALM_S)))
    share = _BURST_S / (_BURST_S + _CALM_S)
    calm_rate = rate / (1.0 + share * (_BURST_FACTOR - 1.0))
    lengths = np.empty(2 * bursts + 1)
    lengths[0::2] = chance.dirichlet(np.ones(bursts + 1)) * (1.0 - share) * end_s
    lengths[1::2] = chance.dirichlet(np.ones(bursts)) * share * end_s
    rates = calm_rate * np.where(np.arange(len(lengths)) % 2, _BURST_FACTOR, 1.0)
    starts = np.cumsum(lengths) - lengths
    pieces = zip(starts.tolist(), lengths.tolist(), rates.tolist(), strict=True)
    return np.concatenate([start + poisson(piece_rate, length, chance) for start, length, piece_rate in pieces])


def heavy_tailed(rate: float, end_s: float, chance: np.random.Generator) -> Moments:
    """Arrive after Pareto gaps: crowds, and long silences."""
    least = (_TAIL - 1.0) / (_TAIL * rate)
    gaps = least * (1.0 + chance.pareto(_TAIL, int(2 * rate * end_s) + 100))
    times = np.cumsum(gaps)
    return times[times < end_s]


ARRIVALS: Final[Mapping[str, Callable[[float, float, np.random.Generator], Moments]]] = {
    "poisson": poisson,
    "bursty": bursty,
    "heavy-tailed": heavy_tailed,
}


def traffic(arrivals: str, rate: float, end_s: float, target_s: float, seed: int) -> Traffic:
    """Draw texts at so many a second; the first tenth of the time is for settling."""
    times: list[float] = ARRIVALS[arrivals](rate, end_s, np.random.default_rng([seed, 0])).tolist()
    return Traffic(times, text_lengths(len(times), seed), 0.1 * end_s, end_s, target_s)
