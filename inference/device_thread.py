"""
One of a device's threads, as the batcher sees it: which models it runs, what it runs now, and since when.

A GPU has two, so that one batch is launched while the other runs: each runs one batch at a time.
"""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from inference.config import Limits
from inference.request import Batch
from inference.runtime import Runtime
from inference.scheduler import DeviceState

_SPARE_S: Final = 0.002  # to wake up in, and for what a prediction is too high by
_NEWS: Final = 0.1  # what the last launch counts in the average
_STUCK_FACTOR: Final = 10.0  # a batch may take so many times its prediction before it counts as stuck


@dataclass(frozen=True, slots=True)
class DeviceStatistics:
    """How a device thread is doing."""

    name: str
    alive: bool
    stuck: bool
    batches: int

    def and_of(self, other: "DeviceStatistics") -> "DeviceStatistics":
        """Join what another thread of the same device tells."""
        alive, stuck = self.alive and other.alive, self.stuck or other.stuck
        return DeviceStatistics(self.name, alive, stuck, self.batches + other.batches)


class DeviceThread:
    """One device's thread, and what it is doing."""

    def __init__(self, name: str, runtimes: Mapping[str, Runtime], life: Callable[["DeviceThread"], None]) -> None:
        """Take what it runs, by model, and its whole life; it begins with `thread.start()`."""
        self.state = DeviceState(name)
        self.runtimes = dict(runtimes)
        self.running: tuple[Batch, float] | None = None  # and since when
        self.taken: str | None = None  # by a batch of this model, or by what is left of it between two attempts
        self.due = 0.0  # when that batch is predicted to end
        self._predicted_s = 0.0
        self.batches = 0
        self._launch_s = 0.0  # a moving average
        self.lost = False
        self.thread = threading.Thread(target=life, args=(self,), name=f"device-{name}", daemon=True)

    @property
    def lead_s(self) -> float:
        """How long before a device frees its next batch is chosen: so that it is launched by then, and no earlier."""
        return _SPARE_S + self._launch_s

    def take(self, batch: Batch, free_at: float) -> None:
        """Have a batch, which begins when the device is free."""
        self.taken, self._predicted_s = batch.model, batch.predicted_s
        self.begins(free_at)

    def begins(self, at: float) -> None:
        """Take that its batch begins at this moment, and not when the one before it was predicted to end."""
        self.due = at + self._predicted_s

    def launched(self, launch_s: float) -> None:
        """Learn how long a launch takes."""
        self._launch_s += _NEWS * (launch_s - self._launch_s)

    def statistics(self, limits: Limits, now: float) -> DeviceStatistics:
        """Take a snapshot."""
        return DeviceStatistics(self.state.name, not self.lost, self.spare_s(limits, now) <= 0, self.batches)

    def spare_s(self, limits: Limits, now: float) -> float:
        """How long its batch may still run before the device counts as stuck; what it may begin now if none runs."""
        running = self.running
        if running is None:
            return limits.stuck_after_s
        batch, since = running
        return since + max(limits.stuck_after_s, _STUCK_FACTOR * batch.predicted_s) - now
