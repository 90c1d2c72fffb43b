"""
How much work this replica is asked for, as a share of what it can do inside the latency target.

    demand = max(offered, min(in flight, 2.5))
    offered   = device seconds that callers asked for, per second there is; refused work counts
    in flight = device seconds of what is here, per latency target: 1 is a wait as long as the target

Both are averages that fade over a window. Offered starts at nothing and is linear in what came, so that the sum over
the replicas is what one replica would have read, wherever a balancer sent the calls. Work is counted at the price
it has in full batches, times the pace: what such seconds took on the clock. Pure: time is an argument.
"""

import math
from dataclasses import dataclass
from typing import Final

WINDOW_S: Final = 15.0  # steady enough not to turn on chance, and no longer than scrape and autoscaler are late anyway
_HERE_WINDOW_S: Final = 2.0  # a backlog is a fact at once; an average over less would be of single batches
_PACE_WINDOW_S: Final = 30.0  # of busy time
_QUEUE_COUNTS: Final = 2.5  # at most: what is missing is told by what is offered, a window later; simulated: 1.5 to 3
_STALLED: Final = 4.0  # a batch counts for at most so many times its prediction, as in the cost model


@dataclass(frozen=True, slots=True)
class Demand:
    """What is asked of this replica, in shares of its capacity: 1 is all that it can do, and there may be more."""

    offered: float
    in_flight: float
    tokens_per_s: float | None  # the capacity, in tokens of texts like the last ones; None: there were none yet

    @property
    def ratio(self) -> float:
        """What an autoscaler adds up over the replicas."""
        return max(self.offered, min(self.in_flight, _QUEUE_COUNTS))


class DemandMeter:
    """Adds up what is offered and what is here. The batcher calls it under its lock."""

    def __init__(self, devices: int, latency_target_s: float, *, window_s: float = WINDOW_S) -> None:
        """Take how many devices share the work, the target and the window, both > 0 s."""
        self._devices = devices
        self._latency_target_s = latency_target_s
        self._window_s = window_s
        self._moment = -math.inf
        self._offered_s = 0.0  # fading sums over the window
        self._offered_tokens = 0.0
        self._here_s = 0.0
        self._mean_here_s = 0.0
        self._predicted_s = 1.0  # fading sums over busy time; they start as one second that took one
        self._took_s = 1.0

    def offer(self, tokens: int, work_s: float, now: float) -> None:
        """Count work that somebody asked for, whatever the answer."""
        self._fade(now)
        self._offered_tokens += tokens
        self._offered_s += work_s

    def hold(self, work_s: float, now: float) -> None:
        """Say how much work waits and runs from now on."""
        self._fade(now)
        self._here_s = work_s

    def ran(self, predicted_s: float, took_s: float) -> None:
        """Learn how long a device was not free for a batch that was predicted to take so long."""
        kept = math.exp(-predicted_s / _PACE_WINDOW_S)
        self._predicted_s = kept * self._predicted_s + predicted_s
        self._took_s = kept * self._took_s + min(took_s, _STALLED * predicted_s)

    def read(self, now: float) -> Demand:
        """Take a snapshot."""
        self._fade(now)
        pace = self._took_s / self._predicted_s
        second_s = self._devices / pace  # of work, in a second on the clock
        offered = self._offered_s / self._window_s / second_s
        in_flight = self._mean_here_s / self._latency_target_s / second_s
        tokens_per_s = self._offered_tokens / self._offered_s * second_s if self._offered_s > 0.0 else None
        return Demand(offered, in_flight, tokens_per_s)

    def _fade(self, now: float) -> None:
        """Let time pass; a moment before the last one is taken for the last one."""
        elapsed_s = max(0.0, now - self._moment)
        kept = math.exp(-elapsed_s / self._window_s)
        self._offered_s *= kept
        self._offered_tokens *= kept
        self._mean_here_s += (1.0 - math.exp(-elapsed_s / _HERE_WINDOW_S)) * (self._here_s - self._mean_here_s)
        self._moment = max(self._moment, now)
