"""The product's own scheduler, lane and cost model as a policy: admission, order and learning are theirs."""

from collections.abc import Sequence
from typing import Final

import numpy as np

from benchmarks.policy.arrivals import Traffic
from benchmarks.policy.curves import Curve
from benchmarks.policy.simulation import NEVER, Noise
from inference import Limits
from inference.cost import CostModel
from inference.errors import InferenceError
from inference.lane import Lane
from inference.request import Batch, Call, Entry, Report, Request, Result, Tokens
from inference.scheduler import DeviceState, Refused, Scheduler

_MODEL: Final = "simulated"
_DEVICE: Final = DeviceState("simulated")
_LONGEST: Final = 512
_TOKENS: Final = np.ones(_LONGEST, np.int32)
_WARM_UP_LENGTHS: Final = (4, 16, 64, 256, _LONGEST)


class _Reply:
    """Knows its text; the scheduler never settles one."""

    def __init__(self, text: int) -> None:
        self.text = text

    def succeed(self, result: Result) -> None:
        raise RuntimeError("a scheduler does not touch replies")

    def fail(self, error: InferenceError) -> None:
        raise RuntimeError("a scheduler does not touch replies")


class Product:
    """Headrace: implements Policy. Its batch-time cap is half the latency target."""

    def __init__(self, traffic: Traffic, curve: Curve, seed: int) -> None:
        """Set it up as the engine does, warm-up included."""
        self._traffic = traffic
        self._scheduler = Scheduler(limits_of(curve), {_MODEL: warm_lane(curve, seed)})
        self._texts: dict[Entry, int] = {}
        self._running: Batch | None = None

    def arrive(self, text: int, now: float) -> None:
        """Offer it for admission."""
        self.offer([text], now, self._traffic.deadline(text))

    def offer(self, texts: Sequence[int], now: float, deadline: float, caller: str = "") -> Refused | None:
        """Offer texts as one call."""
        requests = [_request(self._traffic.lengths[text]) for text in texts]
        call = Call(requests, deadline, caller)
        entries = [Entry(request, call, _Reply(text), now) for request, text in zip(requests, texts, strict=True)]
        refused = self._scheduler.add(entries, now)
        if refused is None:
            self._texts.update(zip(entries, texts, strict=True))
        return refused

    def next(self, now: float) -> Sequence[int]:
        """Ask the scheduler, as a device thread does."""
        while True:
            decision = self._scheduler.decide(_DEVICE, now)
            for entry in decision.expired:
                del self._texts[entry]
            if decision.batch is not None:
                self._running = decision.batch
                return [self._texts.pop(entry) for entry in decision.batch.entries]
            if not decision.expired:
                return []

    def wake_at(self) -> float:
        """Work alone wakes it."""
        return NEVER

    def finished(self, batch: Sequence[int], seconds: float, now: float) -> None:
        """Report the batch, as the batcher does."""
        ran = self._running
        assert ran is not None
        report = Report(_MODEL, len(ran.entries), ran.tokens, ran.shape.tokens, ran.predicted_s, seconds)
        self._scheduler.finished(ran, report, now)
        self._running = None


def limits_of(curve: Curve) -> Limits:
    """Set the product's limits for a device and a latency target."""
    return Limits(max_batch_tokens=curve.budget, latency_target_s=curve.target_s)


def warm_lane(curve: Curve, seed: int) -> Lane:
    """Teach a cost model by single texts, some, and a full budget, short and long: the engine's warm-up."""
    lane = Lane(curve.packed, CostModel())
    noise = Noise(seed)
    for length in _WARM_UP_LENGTHS:
        for count in sorted({1, min(4, curve.budget // length), min(256, curve.budget // length)}):
            shape = curve.shape([length] * count)
            lane.cost.observe(shape, curve.seconds(shape) * noise.advance())
    lane.cost.settle()
    return lane


def _request(length: int) -> Request:
    tokens: Tokens = _TOKENS[:length]
    return Request(_MODEL, tokens)
