"""What fleets are scaled on elsewhere, as gauges of a simulated pod. Means over time: steadier than real snapshots."""

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from gateway.fleet import DemandGauge, Gauge, Replica, Second

_PANIC: Final = 2.0  # Knative leaves its stable window when the short one asks for twice the pods


class Mean:
    """The mean of one quantity over the last seconds."""

    def __init__(self, quantity: Callable[[Second], float], window_s: int) -> None:
        """Take what is averaged, and over how long."""
        self._quantity = quantity
        self._values: deque[float] = deque(maxlen=window_s)

    def see(self, second: Second) -> None:
        """Take in one second."""
        self._values.append(self._quantity(second))

    def read(self, now: float) -> float:
        """The mean of the window, or of what there is of it."""
        return sum(self._values) / max(1, len(self._values))


class Concurrency:
    """Knative's: in flight over 60 s, or over the last 6 s when that is twice as much."""

    def __init__(self) -> None:
        """Begin without a past."""
        self._stable, self._panic = Mean(_in_flight, 60), Mean(_in_flight, 6)

    def see(self, second: Second) -> None:
        """Take in one second."""
        self._stable.see(second)
        self._panic.see(second)

    def read(self, now: float) -> float:
        """One of the two means."""
        stable, panic = self._stable.read(now), self._panic.read(now)
        return panic if panic >= _PANIC * stable else stable


def _in_flight(second: Second) -> float:
    return second.in_flight


@dataclass(frozen=True, slots=True)
class Metric:
    """A way to scale: the gauge, and how an HPA takes it in."""

    gauge: Callable[[Replica], Gauge]
    kind: Literal["external", "pods"]

    def at(self, replica: Replica, load: float) -> float:
        """What it reads on a pod with a steady load, a share of its capacity: a target that is tuned to that load."""
        gauge, steady = self.gauge(replica), replica.steady(load)
        texts = load * replica.capacity
        for end in range(1, 301):
            gauge.see(Second(end, texts, texts, steady.waiting, steady.in_flight, steady.duty))
        return gauge.read(300.0)


DEMAND: Final = Metric(DemandGauge, "external")
OTHERS: Final[Mapping[str, Metric]] = {
    "GPU duty": Metric(lambda replica: Mean(lambda second: second.duty, 30), "pods"),
    "queue length": Metric(lambda replica: Mean(lambda second: second.waiting, 1), "external"),
    "in flight": Metric(lambda replica: Mean(_in_flight, 1), "external"),
    "CPU": Metric(lambda replica: Mean(lambda second: second.served / replica.capacity, 30), "pods"),
    "concurrency (Knative)": Metric(lambda replica: Concurrency(), "external"),
}
BOUNDED: Final = Metric(lambda replica: Mean(lambda second: min(1.0, second.in_flight / replica.most), 1), "pods")
"""The share of a batch's places that are taken: never above 1, whatever the load."""
