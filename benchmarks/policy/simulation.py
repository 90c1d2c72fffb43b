"""One device on a simulated clock: texts arrive, a policy makes batches of them, each takes its time."""

import math
from collections.abc import Sequence
from typing import Final, Protocol

import numpy as np

from benchmarks.policy.arrivals import Traffic
from benchmarks.policy.curves import Curve

NEVER: Final = math.inf
_NOISE: Final = 0.05  # sigma of a batch's time, log-normal
_DRAWN: Final = 1 << 16


class Policy(Protocol):
    """Who decides what runs. Texts are numbers into the traffic."""

    def arrive(self, text: int, now: float) -> None:
        """Take a text, or refuse it: then it is never answered."""

    def next(self, now: float) -> Sequence[int]:
        """Make the idle device's next batch; an empty one leaves it idle."""

    def wake_at(self) -> float:
        """Say when an idle device should be offered again, if nobody arrives."""

    def finished(self, batch: Sequence[int], seconds: float, now: float) -> None:
        """Learn how long the last batch took."""


class Noise:
    """By how much the true time of each batch differs: the same for every policy on the same seed."""

    def __init__(self, seed: int) -> None:
        """Draw them."""
        self._factors = np.random.default_rng([seed, 2]).lognormal(0.0, _NOISE, _DRAWN).tolist()
        self._count = 0

    @property
    def next(self) -> float:
        """The factor of the next batch."""
        factor: float = self._factors[self._count % _DRAWN]
        return factor

    def advance(self) -> float:
        """Return the factor of the next batch, and go on to the one after it."""
        factor = self.next
        self._count += 1
        return factor


def simulate(policy: Policy, traffic: Traffic, curve: Curve, noise: Noise) -> list[float]:
    """Return when each text was answered (NEVER: not in time to count); those without a time the policy brings."""
    times, lengths = traffic.times, traffic.lengths
    finished = [NEVER] * len(lengths)
    now, came = 0.0, 0
    until = traffic.end_s + traffic.target_s
    while now <= until:
        while came < len(times) and times[came] <= now:
            policy.arrive(came, now)
            came += 1
        batch = policy.next(now)
        if not batch:
            now = min(times[came] if came < len(times) else NEVER, policy.wake_at())
            continue
        seconds = curve.seconds(curve.shape([lengths[text] for text in batch])) * noise.advance()
        now += seconds
        while came < len(times) and times[came] <= now:
            policy.arrive(came, times[came])
            came += 1
        for text in batch:
            if finished[text] != NEVER:
                raise RuntimeError("a text was answered twice")
            finished[text] = now
        policy.finished(batch, seconds, now)
    return finished
