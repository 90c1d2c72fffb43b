"""A light model beside a heavy one that is flooded, on one device: the product's scheduler on the simulated clock."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from benchmarks.policy.arrivals import text_lengths
from benchmarks.policy.curves import Curve
from benchmarks.policy.product import limits_of, warm_lane
from benchmarks.policy.simulation import Noise
from inference.errors import InferenceError
from inference.request import Call, Entry, Report, Request, Result
from inference.scheduler import DeviceState, Scheduler

_HEAVIER: Final = 4.0  # what a text costs the heavy model, by what it costs the light one
_LOAD: Final = 0.1  # of its capacity, that the light model is asked for
_TEXTS: Final = 600  # of the light model; the flood lasts as long as that takes
_FLOOD_CALL: Final = 64  # texts
_BACKLOG: Final = 1024  # texts that wait for the heavy model at all times, at the least
_TIMEOUT_S: Final = 1e6  # nobody is late
_DEVICE: Final = DeviceState("simulated")


@dataclass(frozen=True, slots=True)
class Neighbours:
    """What callers of the light model saw, and the longest that a batch of either may take."""

    alone_p99_s: float
    beside_p99_s: float
    cap_s: float
    heavy_texts: int  # answered meanwhile


def neighbours(curve: Curve, seed: int) -> Neighbours:
    """Ask the light model for a text now and then, alone and beside a flood of the heavy one."""
    heavier = replace(curve, base_s=_HEAVIER * curve.base_s, token_s=_HEAVIER * curve.token_s)
    curves = {"light": curve, "heavy": replace(heavier, square_s=_HEAVIER * curve.square_s)}
    alone, both = _Shared(curves, seed), _Shared(curves, seed)
    waits, _ = alone.run(flood=False)
    beside, heavy_texts = both.run(flood=True)
    return Neighbours(_p99(waits), _p99(beside), both.cap_s, heavy_texts)


class _Nobody:
    """A reply that the scheduler never settles."""

    def succeed(self, result: Result) -> None:
        raise RuntimeError("a scheduler does not touch replies")

    def fail(self, error: InferenceError) -> None:
        raise RuntimeError("a scheduler does not touch replies")


class _Shared:
    """One device and two models."""

    def __init__(self, curves: Mapping[str, Curve], seed: int) -> None:
        self._curves = curves
        limits = limits_of(curves["light"])
        lanes = {name: warm_lane(curve, seed) for name, curve in curves.items()}
        self.cap_s = max(lane.cap_s(limits) for lane in lanes.values())
        self._scheduler = Scheduler(limits, lanes)
        self._noise = Noise(seed)
        self._lengths = text_lengths(2 * _TEXTS, seed)

    def run(self, *, flood: bool) -> tuple[list[float], int]:
        """Return how long each text of the light model took, and how many the heavy one answered meanwhile."""
        gap_s = 1 / (_LOAD * self._curves["light"].capacity)
        arrivals = [gap_s * number for number in range(_TEXTS)]
        waits: list[float] = []
        now, came, heavy_texts, offered = 0.0, 0, 0, 0
        while len(waits) < _TEXTS:
            came = self._arrive(arrivals, came, now)
            while flood and offered - heavy_texts < _BACKLOG:
                self._offer("heavy", self._lengths[:_FLOOD_CALL], now)
                offered += _FLOOD_CALL
            batch = self._scheduler.decide(_DEVICE, now).batch
            if batch is None:
                now = arrivals[came]
                continue
            seconds = self._curves[batch.model].seconds(batch.shape) * self._noise.advance()
            now += seconds
            came = self._arrive(arrivals, came, now)
            report = Report(batch.model, len(batch.entries), batch.tokens, batch.shape.tokens, 0.0, seconds)
            self._scheduler.finished(batch, report, now)
            if batch.model == "light":
                waits += [now - entry.arrived for entry in batch.entries]
            else:
                heavy_texts += len(batch.entries)
        return waits, heavy_texts

    def _arrive(self, arrivals: Sequence[float], came: int, now: float) -> int:
        while came < len(arrivals) and arrivals[came] <= now:
            self._offer("light", [self._lengths[came]], arrivals[came])
            came += 1
        return came

    def _offer(self, model: str, lengths: Sequence[int], now: float) -> None:
        requests = [Request(model, np.ones(length, np.int32)) for length in lengths]
        call = Call(requests, now + _TIMEOUT_S, caller=model)
        if self._scheduler.add([Entry(request, call, _Nobody(), now) for request in requests], now) is not None:
            raise RuntimeError("a text was refused, and would be missing")


def _p99(waits: Sequence[float]) -> float:
    return float(np.percentile(waits, 99, method="higher"))
