"""One device's thread, as the batcher sees it: which models it runs, what it runs now, and since when."""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from inference.config import Limits
from inference.request import Batch
from inference.runtime import Runtime
from inference.scheduler import DeviceState

_STUCK_FACTOR: Final = 10.0  # a batch may take so many times its prediction before it counts as stuck


@dataclass(frozen=True, slots=True)
class DeviceStatistics:
    """How a device thread is doing."""

    name: str
    alive: bool
    stuck: bool
    batches: int


class DeviceThread:
    """One device's thread, and what it is doing."""

    def __init__(self, name: str, runtimes: Mapping[str, Runtime], life: Callable[["DeviceThread"], None]) -> None:
        """Take what it runs, by model, and its whole life; it begins with `thread.start()`."""
        self.state = DeviceState(name)
        self.runtimes = dict(runtimes)
        self.running: tuple[Batch, float] | None = None  # and since when
        self.taken: str | None = None  # by a batch of this model, or by what is left of it between two attempts
        self.batches = 0
        self.lost = False
        self.thread = threading.Thread(target=life, args=(self,), name=f"device-{name}", daemon=True)

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
